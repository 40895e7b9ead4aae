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
    /// The state of an unfinished training cannot be read back.
    #[error("{}: {reason}; remove the folder it is in to start again", path.display())]
    BrokenState {
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
    /// An option that cannot be used.
    #[error("--{option} {found}: expected {expected}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A text that is shorter than a window.
    #[error("{found} tokens of text for {name}; expected more than the {window} of a window")]
    TooLittleText {
        /// What the text is for.
        name: &'static str,
        /// Its tokens.
        found: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// Too few images to learn from some and to look at others.
    #[error("{found} images; expected at least one to learn from and one for validation")]
    TooFewImages {
        /// Number of images.
        found: usize,
    },
    /// A diffusion model of something else than pixels.
    #[error("a model of {found} channels cannot learn from images; expected 1 or 3 channels")]
    Channels {
        /// Its channels.
        found: usize,
    },
    /// A learned variance that no teacher teaches.
    #[error(
        "the model has a learned variance, which only a teacher teaches; set learn_sigma to false"
    )]
    LearnedVariance,
    /// A teacher of another shape.
    #[error("{}: the teacher is {found}; expected {expected}, as the student", path.display())]
    OtherTeacher {
        /// Its checkpoint.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What the student is.
        expected: String,
    },
    /// Only layers in factors were to be trained, and there are none.
    #[error(
        "no layer of the model is in factors; expected a compressed one, or to train all of it"
    )]
    NothingToTrain,
    /// A loss that is no number.
    #[error("the loss is not finite any more; lower --lr, or raise --warmup")]
    NotFinite,
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

impl TrainingError {
    /// An option that cannot be used.
    pub(crate) fn option(
        option: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Option {
            option,
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}
