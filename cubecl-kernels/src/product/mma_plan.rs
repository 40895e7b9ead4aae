//! Tiles of the tensor-core product.

use cubecl::prelude::*;

use super::plan::Along;
use super::problem::{ProductProblem, TokenAxis};
use crate::activation::Activation;
use crate::device::check_cube;
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
    pub activation: Activation,
}

/// What one cube computes, and how far ahead it copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MmaTile {
    pub rows: usize,
    pub columns: usize,
    pub plane: PlaneTile,
    /// Panels of each operand in shared memory, at least two.
    pub stages: usize,
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
        }
    }

    /// Units in a cube.
    pub fn units(&self) -> usize {
        (self.rows / self.plane.rows) * (self.columns / self.plane.columns) * 32
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

/// A tile, and what it reached on one H100: products 4096 x 4096 x 4096, bf16, device time.
struct Candidate {
    tile: MmaTile,
    /// TFLOP/s with every multiprocessor full.
    rate: f64,
}

/// Tried by [`MmaBlueprint::for_problem`], from large to small.
///
/// 128 x 256 and 256 x 128 (8 planes of 64 x 64, one cube per multiprocessor) were within 3 % on
/// the square and behind on every layer; planes of 64 x 48 lost a third.
const CANDIDATES: [Candidate; 5] = [
    Candidate {
        tile: MmaTile::new(128, 128, (64, 64), 3),
        rate: 485.0,
    },
    Candidate {
        tile: MmaTile::new(64, 128, (32, 64), 4),
        rate: 346.0,
    },
    Candidate {
        tile: MmaTile::new(64, 64, (32, 32), 4),
        rate: 304.0,
    },
    Candidate {
        tile: MmaTile::new(32, 64, (16, 32), 4),
        rate: 200.0,
    },
    Candidate {
        tile: MmaTile::new(32, 32, (16, 16), 4),
        rate: 110.0,
    },
];

/// Seconds from the start of a cube to its first product and from its last to its end, and the
/// least time of one step, about, on an H100.
const CUBE_SECONDS: f64 = 2.0e-6;
const STEP_SECONDS: f64 = 0.3e-6;

impl Candidate {
    /// Seconds that `problem` would take, about: only the order of candidates counts.
    fn seconds<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        blueprint: &MmaBlueprint,
        problem: &ProductProblem,
    ) -> f64 {
        let hardware = &client.properties().hardware;
        let processors = hardware.num_streaming_multiprocessors.unwrap_or(1).max(1) as usize;
        let cubes: usize = blueprint.cubes(problem).iter().product();
        let room = hardware.max_shared_memory_size / blueprint.shared_bytes();
        let room = room.clamp(1, 512 / self.tile.units());
        let resident = room.min(cubes.div_ceil(processors));
        let waves = cubes.div_ceil(resident * processors) as f64;
        let step_flops = (2 * self.tile.rows * self.tile.columns * blueprint.lhs.depth()) as f64;
        // A multiprocessor's share of the rate, which is that of the H100's 132.
        let step = step_flops * resident as f64 / (self.rate * 1e12 / 132.0);
        let steps = problem.depth.div_ceil(blueprint.lhs.depth()) as f64;
        waves * (CUBE_SECONDS + steps * step.max(STEP_SECONDS))
    }
}

impl MmaBlueprint {
    /// The candidate that should be fastest for `problem`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the operands have no layout for copies, or the device no
    /// room for any candidate.
    pub fn for_problem<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        element: MmaElement,
    ) -> Result<Self, KernelError> {
        let mut best: Option<(f64, Self)> = None;
        let mut missing = KernelError::Unavailable(Missing::TensorLayout);
        // A class of the token count, so that few kernels serve all counts.
        let class = problem.with_rounded_tokens();
        for candidate in &CANDIDATES {
            let Some(blueprint) = Self::new(candidate.tile, problem, element) else {
                continue;
            };
            match check_cube(client, candidate.tile.units(), blueprint.shared_bytes()) {
                Err(error) => missing = error,
                Ok(()) => {
                    let seconds = candidate.seconds(client, &blueprint, &class);
                    if best.is_none_or(|(least, _)| seconds < least) {
                        best = Some((seconds, blueprint));
                    }
                }
            }
        }
        best.map(|(_, blueprint)| blueprint).ok_or(missing)
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
                None if element == MmaElement::Tf32 || !lines.is_multiple_of(64) => return None,
                None => (Along::Lines, run_bytes(view, line, size, depth, bytes)?),
            };
            let panel = Panel {
                lines,
                along,
                copy_bytes,
                element,
                units: tile.units(),
            };
            panel.is_valid().then_some(panel)
        };
        let (lhs, rhs, out) = (problem.lhs, problem.rhs, problem.out);
        let lhs_panel = panel(tile.rows, lhs, problem.rows, lhs.row, lhs.column)?;
        if lhs_panel.along == Along::Lines && problem.tokens == TokenAxis::Rows {
            return None;
        }
        let run = run_bytes(out, out.column, problem.columns, out.row, bytes).unwrap_or(bytes);
        let fits = |out_bytes: &usize| {
            let width = out_bytes / bytes;
            problem.split.is_none_or(|split| {
                split.width.is_multiple_of(width) && split.stride.is_multiple_of(width)
            }) && run >= *out_bytes
        };
        Some(Self {
            tile,
            element,
            lhs: lhs_panel,
            rhs: panel(tile.columns, rhs, problem.columns, rhs.column, rhs.row)?,
            out_bytes: [16, 8, 4].into_iter().find(fits).unwrap_or(bytes),
            split: problem.split.is_some(),
            activation: problem.activation,
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
        (self.stage_bytes() * self.tile.stages).max(self.out_pitch() * self.tile.rows)
    }
}
