//! The error type of this crate.

use std::path::PathBuf;

use burn_blr::BlrError;
use models::ModelError;
use thiserror::Error;

/// Why a compression or an evaluation failed.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// A structure does not fit a layer.
    #[error(transparent)]
    Blr(#[from] BlrError),
    /// A checkpoint, plan or tokenizer could not be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Where the output should go, there already is something.
    #[error("{}: already exists; name another output directory or remove it", path.display())]
    OutputExists {
        /// The output directory.
        path: PathBuf,
    },
    /// An earlier run was cut off, and this one was not told to go on with it.
    #[error(
        "{}: holds the work of an unfinished run; pass --resume to go on with it, or remove it",
        path.display()
    )]
    Unfinished {
        /// The folder with the partial result.
        path: PathBuf,
    },
    /// An unfinished run was for something else.
    #[error(
        "{}: was started with other settings ({setting}: {found} there, {expected} now); \
         repeat the settings of that run, or remove the folder",
        path.display()
    )]
    OtherRun {
        /// The folder with the partial result.
        path: PathBuf,
        /// Which setting differs.
        setting: &'static str,
        /// Its value in the unfinished run.
        found: String,
        /// Its value in this run.
        expected: String,
    },
    /// A file of an unfinished run cannot be read back.
    #[error("{}: {reason}; remove it to compute that layer again", path.display())]
    BrokenLayer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A directory's record of how it was made cannot be read.
    #[error("{}: {reason}; expected what `blr compress` writes", path.display())]
    BrokenRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing of what should be merged has a compressed layer.
    #[error("nothing to merge; expected directories that `blr compress` made")]
    NothingToMerge,
    /// A part is of another model than the source.
    #[error(
        "{}: `{key}` is {found}, in {} it is {expected}; expected parts of one model",
        path.display(),
        base.display()
    )]
    OtherModel {
        /// The configuration of the part.
        path: PathBuf,
        /// The first key that differs.
        key: String,
        /// Its value in the part.
        found: String,
        /// Its value in the source.
        expected: String,
        /// The configuration of the source.
        base: PathBuf,
    },
    /// A layer was made from another weight than the source has.
    #[error(
        "{}: layer `{layer}` was made from another weight than {} has",
        path.display(),
        base.display()
    )]
    OtherWeight {
        /// The part.
        path: PathBuf,
        /// The layer.
        layer: String,
        /// The source.
        base: PathBuf,
    },
    /// Two parts do not agree.
    #[error(
        "{what} is compressed differently in {} and {}; leave one of the two out",
        first.display(),
        second.display()
    )]
    Contradiction {
        /// The layer or tensor.
        what: String,
        /// One of the directories.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
    },
    /// A calibration without anything to run the model on.
    #[error("nothing to calibrate with; expected at least one image")]
    NoSamples,
    /// Factors that the checkpoint's number format cannot hold.
    #[error("layer `{layer}`: a factor has an entry that {dtype} cannot hold")]
    Overflow {
        /// The layer.
        layer: String,
        /// The number format of the checkpoint.
        dtype: String,
    },
    /// A factorisation of the linear algebra library did not succeed.
    #[error("{what} of a {rows} x {columns} matrix failed")]
    NoConvergence {
        /// Which factorisation.
        what: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// A result could not be read back from a device.
    #[error("the device failed: {reason}")]
    Device {
        /// What the backend said.
        reason: String,
    },
}
