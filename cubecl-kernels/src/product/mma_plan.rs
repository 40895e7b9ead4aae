//! Tiles of the tensor-core product.

use cubecl::prelude::*;

use super::plan::Along;
use super::problem::{ProductProblem, TokenAxis};
use crate::activation::Activation;
use crate::device::{check_cube, processors};
use crate::epilogue::Finish;
use crate::error::{KernelError, Missing};
use crate::mma::accumulate::PlaneTile;
use crate::mma::panel::Panel;
use crate::operand::View;
use crate::ptx::MmaElement;

/// Everything about the tensor-core product that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MmaBlueprint {
    pub tile: MmaTile,
    pub element: MmaElement,
    pub lhs: Panel,
    pub rhs: Panel,
    /// Bytes per store: those of one element, up to 16.
    pub out_bytes: usize,
    /// Whether the columns of `C` are split.
    pub split: bool,
    pub finish: Finish,
}

/// What one cube computes, and how far ahead it copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MmaTile {
    pub rows: usize,
    pub columns: usize,
    pub plane: PlaneTile,
    /// Panels of each operand in shared memory, at least two, for each group.
    pub stages: usize,
    /// Groups of planes that share the depth.
    pub groups: usize,
}

impl MmaTile {
    pub const fn new(rows: usize, columns: usize, plane: (usize, usize), stages: usize) -> Self {
        Self {
            rows,
            columns,
            plane: PlaneTile {
                rows: plane.0,
                columns: plane.1,
            },
            stages,
            groups: 1,
        }
    }

    /// The same tile, its depth shared by `groups` groups of planes.
    const fn shared_by(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Units of one group.
    pub fn group_units(&self) -> usize {
        (self.rows / self.plane.rows) * (self.columns / self.plane.columns) * 32
    }

    /// Units in a cube.
    pub fn units(&self) -> usize {
        self.group_units() * self.groups
    }

    /// Tiles along columns and rows.
    pub fn tiles(&self, problem: &ProductProblem) -> [usize; 2] {
        [
            problem.columns.div_ceil(self.columns),
            problem.rows.div_ceil(self.rows),
        ]
    }
}

/// Bytes per copy or store: the longest run that never straddles an end or an alignment.
fn run_bytes(
    view: View,
    contiguous: usize,
    size: usize,
    other: usize,
    element: usize,
) -> Option<usize> {
    let fits = |bytes: &usize| {
        let width = bytes / element;
        contiguous == 1
            && size.is_multiple_of(width)
            && view.allows_vectors(width, element, [view.batch, other])
    };
    [16, 8, 4].into_iter().find(fits)
}

/// Bytes per store of `C`: the longest run, or one element.
pub(crate) fn store_bytes(problem: &ProductProblem, element: usize) -> usize {
    let out = problem.out;
    let run = run_bytes(out, out.column, problem.columns, out.row, element).unwrap_or(element);
    let fits = |bytes: &usize| {
        let width = bytes / element;
        problem.split.is_none_or(|split| {
            split.width.is_multiple_of(width) && split.stride.is_multiple_of(width)
        }) && run >= *bytes
    };
    [16, 8, 4].into_iter().find(fits).unwrap_or(element)
}

/// A tile, and what it reached on one H100, bf16.
struct Candidate {
    tile: MmaTile,
    /// TFLOP/s with every multiprocessor full: of large tiles in products 4096 x 4096 x 4096, of small ones
    /// in those that [`LAUNCH_SECONDS`] and the others are fitted to.
    rate: f64,
}

/// Tried by [`MmaBlueprint::for_problem`], from large to small.
///
/// 128 x 256 and 256 x 128 (8 planes of 64 x 64, one cube per multiprocessor) were within 3 % on
/// the square and behind on every layer; planes of 64 x 48 lost a third.
const CANDIDATES: [Candidate; 8] = [
    Candidate::new(MmaTile::new(128, 128, (64, 64), 3), 485.0),
    Candidate::new(MmaTile::new(64, 128, (32, 64), 4), 346.0),
    Candidate::new(MmaTile::new(64, 64, (32, 32), 4), 300.0),
    Candidate::new(MmaTile::new(32, 64, (16, 32), 4), 228.0),
    Candidate::new(MmaTile::new(32, 32, (16, 16), 4), 169.0),
    // Few tiles of great depth.
    Candidate::new(MmaTile::new(64, 64, (32, 32), 3).shared_by(2), 300.0),
    Candidate::new(MmaTile::new(64, 64, (32, 32), 3).shared_by(4), 300.0),
    Candidate::new(MmaTile::new(32, 32, (16, 16), 3).shared_by(4), 169.0),
];

/// Seconds of a launch; from the start of a cube to its first product; to store one output; the least of one
/// step; and to add the sums of one more group of planes. About, on an H100.
///
/// These, those of [`super::wgmma_plan`] and the rates are fitted to 84 products of the paper's layers of 197 to
/// 1024 tokens, bf16, each by all candidates in captured graphs with no factor in cache: what is chosen takes
/// 1.0 % longer than the fastest, in the geometric mean, where it took 4.6 % by constants from large products.
const LAUNCH_SECONDS: f64 = 1.1e-6;
const CUBE_SECONDS: f64 = 0.76e-6;
const STORE_SECONDS: f64 = 4.9e-11;
const STEP_SECONDS: f64 = 0.22e-6;
const GATHER_SECONDS: f64 = 0.16e-6;

/// Seconds that a multiprocessor of an H100 takes for the activation of one output.
const ACTIVATION_SECONDS: f64 = 1.1e-10;

/// Seconds that a multiprocessor takes for the activation of one output of `problem`, if it has one.
pub(crate) fn activation_seconds(problem: &ProductProblem) -> f64 {
    match problem.finish.activation {
        Activation::None => 0.0,
        _ => ACTIVATION_SECONDS,
    }
}

impl Candidate {
    const fn new(tile: MmaTile, rate: f64) -> Self {
        Self { tile, rate }
    }

    /// Seconds that `problem` would take, about: only the order of candidates counts.
    fn seconds<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        blueprint: &MmaBlueprint,
        problem: &ProductProblem,
    ) -> f64 {
        let cubes: usize = blueprint.cubes(problem).iter().product();
        let processors = processors(client);
        let room = client.properties().hardware.max_shared_memory_size / blueprint.shared_bytes();
        // About half the units of a multiprocessor, for the registers of each.
        let room = room.min(1024 / self.tile.units()).max(1);
        let resident = room.min(cubes.div_ceil(processors));
        let waves = cubes.div_ceil(resident * processors) as f64;
        let step_flops = (2 * self.tile.rows * self.tile.columns * blueprint.lhs.depth()) as f64;
        // A multiprocessor's share of the rate, which is that of the H100's 132.
        let groups = self.tile.groups;
        let step = step_flops * (resident * groups) as f64 / (self.rate * 1e12 / 132.0);
        let steps = problem
            .depth
            .div_ceil(blueprint.lhs.depth())
            .div_ceil(groups) as f64;
        let outputs = (self.tile.rows * self.tile.columns * resident) as f64;
        let end = outputs * (STORE_SECONDS + activation_seconds(problem))
            + (groups - 1) as f64 * GATHER_SECONDS;
        LAUNCH_SECONDS + waves * (CUBE_SECONDS + end + steps * step.max(STEP_SECONDS))
    }
}

/// The candidate that should take the fewest seconds; the last error where none can run.
pub(crate) fn fastest<T>(
    candidates: impl Iterator<Item = Result<(T, f64), KernelError>>,
) -> Result<(T, f64), KernelError> {
    let better = |best: Result<(T, f64), KernelError>, next: Result<(T, f64), KernelError>| match (
        &best, &next,
    ) {
        (Ok((_, least)), Ok((_, seconds))) if seconds < least => next,
        (Ok(_), _) => best,
        _ => next,
    };
    candidates.fold(Err(KernelError::Unavailable(Missing::TensorLayout)), better)
}

impl MmaBlueprint {
    /// The candidate that should be fastest for `problem`, and the seconds it should take, about.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the operands have no layout for copies, or the device no
    /// room for any candidate.
    pub fn for_problem<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        element: MmaElement,
    ) -> Result<(Self, f64), KernelError> {
        let candidate = |index| Self::candidate(index, client, problem, element);
        fastest((0..Self::CANDIDATES).map(candidate))
    }

    /// Number of candidates.
    pub const CANDIDATES: usize = CANDIDATES.len();

    /// A candidate for `problem`, and the seconds it should take, about.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the operands have no layout for its copies, or the device no
    /// room for it.
    pub fn candidate<R: Runtime>(
        index: usize,
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        element: MmaElement,
    ) -> Result<(Self, f64), KernelError> {
        let candidate = &CANDIDATES[index];
        let blueprint = Self::new(candidate.tile, problem, element)
            .ok_or(KernelError::Unavailable(Missing::TensorLayout))?;
        check_cube(client, candidate.tile.units(), blueprint.shared_bytes())?;
        // A class of the token count, so that few kernels serve all counts.
        let class = problem.with_rounded_tokens();
        let seconds = candidate.seconds(client, &blueprint, &class);
        Ok((blueprint, seconds))
    }

    /// Name of a candidate in stored results.
    pub fn candidate_name(index: usize) -> String {
        let tile = CANDIDATES[index].tile;
        format!("mma {}x{}x{}", tile.rows, tile.columns, tile.groups)
    }

    /// Cubes along each axis of the grid.
    pub fn cubes(&self, problem: &ProductProblem) -> [usize; 3] {
        let [columns, rows] = self.tile.tiles(problem);
        [columns, rows, problem.batches]
    }

    /// The blueprint of `tile` for `problem`, if its operands have the layout that copies need.
    pub fn new(tile: MmaTile, problem: &ProductProblem, element: MmaElement) -> Option<Self> {
        let bytes = element.bytes();
        let panel = |lines: usize, view: View, size: usize, line: usize, depth: usize| {
            let along_depth = run_bytes(view, depth, problem.depth, line, bytes);
            // A run along tokens would make the plan follow their number.
            let along_depth = along_depth.filter(|_| problem.tokens == TokenAxis::Rows);
            let (along, copy_bytes) = match along_depth {
                Some(copy_bytes) => (Along::Depth, copy_bytes),
                // Chunks are permuted in groups of 128 bytes.
                None if !(lines * bytes).is_multiple_of(128) => return None,
                None => (Along::Lines, run_bytes(view, line, size, depth, bytes)?),
            };
            let panel = Panel {
                lines,
                along,
                copy_bytes,
                element,
                units: tile.group_units(),
                every: tile.groups,
            };
            panel.is_valid().then_some(panel)
        };
        let (lhs, rhs) = (problem.lhs, problem.rhs);
        let lhs_panel = panel(tile.rows, lhs, problem.rows, lhs.row, lhs.column)?;
        if lhs_panel.along == Along::Lines && problem.tokens == TokenAxis::Rows {
            return None;
        }
        Some(Self {
            tile,
            element,
            lhs: lhs_panel,
            rhs: panel(tile.columns, rhs, problem.columns, rhs.column, rhs.row)?,
            out_bytes: store_bytes(problem, bytes),
            split: problem.split.is_some(),
            finish: problem.finish,
        })
    }

    /// Bytes of shared memory that one step of depth takes.
    pub fn stage_bytes(&self) -> usize {
        self.lhs.bytes() + self.rhs.bytes()
    }

    /// Bytes from one row of the output tile to the next in shared memory.
    ///
    /// The extra bytes move the rows that a plane writes at once to different banks.
    pub fn out_pitch(&self) -> usize {
        self.tile.columns * self.element.bytes() + 8 * self.element.bytes()
    }

    /// Bytes of shared memory of a cube.
    pub fn shared_bytes(&self) -> usize {
        let gathered =
            (self.tile.groups - 1) * self.tile.rows * self.tile.columns * size_of::<f32>();
        (self.stage_bytes() * self.tile.stages * self.tile.groups)
            .max(self.out_pitch() * self.tile.rows)
            .max(gathered)
    }
}
