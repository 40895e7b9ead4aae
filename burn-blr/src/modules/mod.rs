//! The layers.

mod blast_linear;
mod blr_linear;
mod factor;
mod join;
mod low_rank_linear;
mod monarch_linear;
mod observe;
mod random;

pub use blast_linear::{BlastLinear, BlastLinearConfig};
pub use blr_linear::BlrLinear;
pub use low_rank_linear::{LowRankLinear, LowRankLinearConfig};
pub use monarch_linear::{MonarchLinear, MonarchLinearConfig};
pub use observe::observe_inputs;
