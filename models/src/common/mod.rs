//! Parts that the model families share.

mod activation;
mod attention;
mod kv_cache;
mod mlp;
mod norm;
mod token_loss;

pub use activation::Activation;
pub use attention::CausalAttention;
pub(crate) use attention::CausalMask;
pub use kv_cache::KvCache;
pub(crate) use kv_cache::LayerCache;
pub use mlp::Mlp;
pub(crate) use norm::norm_in_f32;
pub(crate) use token_loss::token_nll;
