//! From tensor names to modules: one name table per family, and what they share.
//!
//! A family's table is written once, as what it asks of [`Weights`]: those of a checkpoint, read
//! strictly, or random ones.

mod blast_llama;
pub(crate) mod gpt2;
mod linear;
pub(crate) mod llama;
mod random;
mod reader;
mod tied_head;
mod weights;

pub(crate) use linear::load_linear;
pub(crate) use random::RandomWeights;
pub(crate) use reader::WeightReader;
pub(crate) use tied_head::{HEAD, load_head};
pub(crate) use weights::Weights;
