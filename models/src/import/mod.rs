//! Checkpoints of other formats, turned once into directories that the rest of this crate reads.

mod dit;

pub use dit::{ImportDitOptions, import_dit};
