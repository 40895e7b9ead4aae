//! Parts that the model families share.

mod activation;
mod attention;
mod block;
mod kv_cache;
mod left_padding;
mod mlp;
mod norm;
mod patch_embedding;
mod patches;
mod placement;
mod position_grid;
mod positions;
pub(crate) mod resample;
mod rotary;
mod token_loss;

pub use activation::Activation;
pub use attention::{Attention, Heads, QueryKeyValue, SeparateQueryKeyValue};
pub use block::TransformerBlock;
pub(crate) use kv_cache::CacheRows;
pub use kv_cache::KvCache;
pub use left_padding::LeftPadding;
pub use mlp::Mlp;
pub(crate) use norm::ResidualStream;
pub use norm::TokenNorm;
pub use patch_embedding::PatchEmbedding;
pub(crate) use patches::from_patches;
pub use placement::Context;
pub(crate) use placement::Placement;
pub(crate) use position_grid::{GridInterpolation, interpolate_grid};
pub(crate) use positions::Positions;
pub use rotary::{Rotary, RotaryConfig, RotaryScaling};
pub(crate) use token_loss::token_nll;
