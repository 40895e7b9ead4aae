//! A checkpoint directory in Hugging Face style, opened without reading its weights.

mod blr_section;
mod config_keys;
mod directory;
mod entry;
mod family;
pub(crate) mod output_order;
mod weight_file;

pub use blr_section::{BLR_VERSION, BlrLayer, BlrSection};
pub(crate) use config_keys::{ConfigKeys, MAX_LAYERS};
pub use directory::Checkpoint;
pub(crate) use directory::{LANGUAGE, StoredTensors, read_json};
pub use entry::Entry;
pub(crate) use family::BLAST_LLAMA;
pub use family::Family;
pub use weight_file::WeightFile;
