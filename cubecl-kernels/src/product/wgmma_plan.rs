//! Tiles of the product for compute capability 9.0.

use cubecl::ir::features::Tma;
use cubecl::prelude::*;

use super::mma_plan::{fastest, store_bytes};
use super::problem::{ProductProblem, TokenAxis};
use crate::activation::Activation;
use crate::device::check_cube;
use crate::error::{KernelError, Missing};
use crate::operand::View;
use crate::ptx::MmaElement;
use crate::stream::plan::streams;

/// Rows of a tile.
pub(crate) const ROWS: usize = 128;
/// Rows of a group of four planes.
pub(crate) const GROUP_ROWS: usize = 64;
/// Terms of each sum in one stage: 128 bytes, the width of the swizzle.
pub(crate) const DEPTH: usize = 64;
/// Columns of the output tile that a group of planes stages at a time.
pub(crate) const CHUNK: usize = 64;
/// Bytes from one staged row to the next: the extra bytes move the rows that a plane writes at once
/// to different banks.
pub(crate) const CHUNK_PITCH: usize = CHUNK * 2 + 16;
/// Two groups that multiply, and a plane that loads.
pub(crate) const UNITS: usize = 2 * 128 + 32;

/// Everything about the kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WgmmaBlueprint {
    /// Columns of a tile: 64, 128 or 256.
    pub columns: usize,
    /// Panels of each operand in shared memory.
    pub stages: usize,
    pub element: MmaElement,
    /// Bytes per store.
    pub out_bytes: usize,
    /// Whether the columns of `C` are split.
    pub split: bool,
    pub activation: Activation,
    /// Whether tiles walk all blocks of some rows before the next rows, not all rows of a block
    /// before the next block.
    pub rows_outermost: bool,
}

/// Rows from which on tiles walk rows outermost, if the factors take no more than these bytes of
/// cache: 16384 tokens through 9 blocks were 5 % faster so on an H100, 1024 tokens through 16
/// blocks up to 12 % slower.
const MANY_ROWS: usize = 4096;
const CACHED_BYTES: usize = 16 << 20;

/// A tile width, and what it reached on one H100: products 4096 x 4096 x 4096, bf16, device time.
struct Candidate {
    columns: usize,
    stages: usize,
    /// TFLOP/s with every multiprocessor busy.
    rate: f64,
    /// Seconds at the end of a tile that no product fills.
    end: f64,
}

const CANDIDATES: [Candidate; 3] = [
    Candidate {
        columns: 256,
        stages: 4,
        rate: 751.0,
        end: 1.5e-6,
    },
    Candidate {
        columns: 128,
        stages: 6,
        rate: 658.0,
        end: 0.8e-6,
    },
    Candidate {
        columns: 64,
        stages: 8,
        rate: 377.0,
        end: 0.5e-6,
    },
];

/// Seconds from the start of a launch to the first product, about.
const START_SECONDS: f64 = 2.0e-6;

impl WgmmaBlueprint {
    /// The candidate that should be fastest for `problem`, and the seconds it should take, about.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no such tensor cores or no room for any
    /// candidate, or if the operands have no layout for tensor maps.
    pub fn for_problem<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        dtype: ElemType,
        element: MmaElement,
    ) -> Result<(Self, f64), KernelError> {
        let candidate = |index| Self::candidate(index, client, problem, dtype, element);
        fastest((0..Self::CANDIDATES).map(candidate))
    }

    /// Number of candidates.
    pub const CANDIDATES: usize = CANDIDATES.len();

    /// A candidate for `problem`, and the seconds it should take, about.
    ///
    /// # Errors
    ///
    /// As [`WgmmaBlueprint::for_problem`].
    pub fn candidate<R: Runtime>(
        index: usize,
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        dtype: ElemType,
        element: MmaElement,
    ) -> Result<(Self, f64), KernelError> {
        let tma = &client.properties().features.tma;
        // The instructions exist on compute capability 9.0 alone; later ones have wider copies.
        if !tma.contains(Tma::Base) || tma.contains(Tma::Im2colWide) {
            return Err(KernelError::Unavailable(Missing::TensorCores(dtype)));
        }
        let (lhs, rhs) = (problem.lhs, problem.rhs);
        let mapped = |view: View, line: usize, depth: usize| {
            streams(view, line, depth, problem.depth, element)
        };
        let possible = element != MmaElement::Tf32
            && problem.tokens == TokenAxis::Rows
            && mapped(lhs, lhs.row, lhs.column)
            && mapped(rhs, rhs.column, rhs.row);
        if !possible {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        let class = problem.with_rounded_tokens();
        let factors = problem.batches * problem.columns * problem.depth * element.bytes();
        let candidate = &CANDIDATES[index];
        let blueprint = Self {
            columns: candidate.columns,
            stages: candidate.stages,
            element,
            out_bytes: store_bytes(problem, element.bytes()),
            split: problem.split.is_some(),
            activation: problem.activation,
            rows_outermost: class.rows >= MANY_ROWS && factors <= CACHED_BYTES,
        };
        check_cube(client, UNITS, blueprint.shared_bytes())?;
        let processors = client.properties().hardware.num_streaming_multiprocessors;
        let processors = processors.unwrap_or(1).max(1) as usize;
        let waves = blueprint.tiles(&class).div_ceil(processors) as f64;
        let steps = class.depth.div_ceil(DEPTH) as f64;
        let flops = (2 * ROWS * candidate.columns * DEPTH) as f64;
        let step = flops / (candidate.rate * 1e12 / 132.0);
        Ok((
            blueprint,
            START_SECONDS + waves * (candidate.end + steps * step),
        ))
    }

    /// Name of a candidate in stored results.
    pub fn candidate_name(index: usize) -> String {
        format!("wgmma {}", CANDIDATES[index].columns)
    }

    /// Tiles of all blocks.
    pub fn tiles(&self, problem: &ProductProblem) -> usize {
        problem.batches * problem.rows.div_ceil(ROWS) * problem.columns.div_ceil(self.columns)
    }

    /// Cubes: one for each multiprocessor, if there are tiles for all.
    pub fn cubes<R: Runtime>(&self, client: &ComputeClient<R>, problem: &ProductProblem) -> usize {
        let processors = client.properties().hardware.num_streaming_multiprocessors;
        self.tiles(problem)
            .min(processors.unwrap_or(1).max(1) as usize)
    }

    /// Bytes of shared memory of a cube, barriers and alignment included.
    fn shared_bytes(&self) -> usize {
        let stage = (ROWS + self.columns) * DEPTH * self.element.bytes();
        self.stages * (stage + 16) + 2 * GROUP_ROWS * CHUNK_PITCH + 1024
    }
}
