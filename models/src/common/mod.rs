//! Parts that the model families share.

mod activation;
mod attention;
mod attention_mask;
mod kv_cache;
mod left_padding;
mod mlp;
mod norm;
mod placement;
mod positions;
mod rotary;
mod token_loss;

pub use activation::Activation;
pub use attention::{Attention, Heads, QueryKeyValue, SeparateQueryKeyValue};
pub(crate) use attention_mask::AttentionMask;
pub use kv_cache::KvCache;
pub(crate) use kv_cache::LayerCache;
pub use left_padding::LeftPadding;
pub use mlp::Mlp;
pub(crate) use norm::norm_in_f32;
pub use placement::Context;
pub(crate) use placement::Placement;
pub(crate) use positions::Positions;
pub(crate) use rotary::RotaryAngles;
pub use rotary::{Rotary, RotaryConfig, RotaryScaling};
pub(crate) use token_loss::token_nll;
