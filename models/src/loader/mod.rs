//! From tensor names to modules: one name table per family, and the strict reader they share.

pub(crate) mod gpt2;
mod linear;
mod reader;

pub(crate) use linear::load_linear;
pub(crate) use reader::WeightReader;
