//! From tensor names to modules: one name table per family, and what they share.
//!
//! A family's table is written once, as what it asks of [`Weights`]: those of a checkpoint, read
//! strictly, or random ones.

pub(crate) mod autoencoder_kl;
mod blast_llama;
pub(crate) mod dit;
pub(crate) mod gpt2;
mod linear;
pub(crate) mod llama;
mod random;
mod reader;
mod recorder;
mod tied_head;
pub(crate) mod vit;
mod weights;

pub(crate) use linear::load_linear;
pub(crate) use random::RandomWeights;
pub(crate) use reader::WeightReader;
pub(crate) use recorder::Recorder;
pub(crate) use tied_head::{HEAD, load_head};
pub(crate) use weights::Weights;
