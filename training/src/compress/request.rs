//! What to compress, and what is told of it.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_blr::Structure;
use models::{Checkpoint, Plan};
use serde::{Deserialize, Serialize};

use super::BlastOptions;
use super::write::Extent;

/// What to compress, and how.
#[derive(Debug)]
pub struct CompressRequest<'a> {
    /// The dense checkpoint.
    pub source: &'a Checkpoint,
    /// The directory to make; it must not exist.
    pub out: &'a Path,
    /// Which layers become what.
    pub plan: &'a Plan,
    /// Which ranks the layers get.
    pub ranks: Ranks,
    /// How BLAST factors are found.
    pub blast: BlastOptions,
    /// Where the products run.
    pub device: &'a Device,
    /// Goes on with the unfinished run for the same output directory, if there is one. A finished
    /// one is left as it is.
    pub resume: bool,
    /// Writes the compressed layers alone, for [`merge`](crate::merge).
    pub part: bool,
}

impl CompressRequest<'_> {
    /// How much is written.
    pub(super) fn extent(&self) -> Extent {
        match self.part {
            true => Extent::Part,
            false => Extent::Whole,
        }
    }
}

/// Which ranks the layers get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranks {
    /// Those of the plan.
    Planned,
    /// Others that hold as many weights together, by [`spread_ranks`](crate::spread_ranks); needs a
    /// calibration. They are kept with the finished layers, so that a run that goes on has them.
    ByError,
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Name of the layer in the checkpoint.
    pub layer: String,
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// The structure, in words.
    pub structure: String,
    /// Weights of the dense layer, without bias.
    pub dense_parameters: usize,
    /// Weights now, without bias.
    pub parameters: usize,
    /// `‖W − Ŵ‖ / ‖W‖` in the Frobenius norm, of the factors as they are stored.
    pub relative_error: f64,
    /// `‖(W − Ŵ) x‖ / ‖W x‖`, root mean squares over the inputs of the calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
    /// Steps of the search for BLAST factors; 0 for the methods that need none.
    pub steps: usize,
    /// Wall time of the factorisation.
    pub seconds: f64,
    /// Of the bytes of the dense weight, by which a merge knows what the factors were made from.
    pub weight_checksum: String,
}

/// Progress of [`compress`](crate::compress).
#[derive(Debug)]
pub enum CompressEvent<'a> {
    /// The errors that a layer may have are looked at, to choose its rank.
    Rank {
        /// Its place among the layers, from 0.
        index: usize,
        /// Number of layers.
        count: usize,
    },
    /// A layer is begun.
    Layer {
        /// Its place in the order of work, from 0.
        index: usize,
        /// Number of layers to do.
        count: usize,
        /// Its name.
        name: &'a str,
        /// What it becomes.
        structure: Structure,
    },
    /// A step of the search for BLAST factors is done; the start is step 0.
    Step {
        /// Its number.
        step: usize,
        /// Relative error after it, in the norm that is minimised.
        relative_error: f64,
    },
    /// A layer is done, now or by the run that this one resumes.
    Done {
        /// What became of it.
        report: &'a LayerReport,
        /// Whether an earlier run did it.
        resumed: bool,
    },
    /// All layers are done and the checkpoint is being written.
    Writing,
}

/// The folder in which a run for `out` keeps its work: `OUT.partial` beside it.
pub fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    out.with_file_name(name)
}
