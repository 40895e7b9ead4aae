//! From what the caller asks to the kernel that runs.

use cubecl::prelude::*;

use super::mma_plan::MmaBlueprint;
use super::problem::{ProductProblem, TokenAxis};
use super::wgmma_plan::WgmmaBlueprint;
use crate::device::{check_cube, mma_element, processors};
use crate::epilogue::Finish;
use crate::error::{KernelError, Missing};
use crate::operand::View;
use crate::ptx::MmaElement;
use crate::strategy::Strategy;
use crate::stream::plan::StreamBlueprint;

/// Neighbouring outputs of a unit: four `f32` are one vector load from shared memory.
pub(crate) const GROUP: usize = 4;

/// Extra elements per staged line. They keep lines aligned for vector loads and shift
/// neighbouring lines to other banks of shared memory.
const PADDING: usize = 4;

/// The kernel for one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProductPlan {
    /// [`super::kernel::naive`].
    Naive,
    /// [`super::kernel::tiled`].
    Tiled(TiledBlueprint),
    /// [`super::kernel::mma`].
    Mma(MmaBlueprint),
    /// [`super::kernel::wgmma`].
    Wgmma(WgmmaBlueprint),
    /// [`crate::stream`].
    Stream(StreamBlueprint),
}

/// When the kernel for compute capability 9.0 is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hopper {
    Never,
    WhereFaster,
    WherePossible,
}

/// Everything about the tiled kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TiledBlueprint {
    /// Tile sizes.
    pub tile: Tile,
    /// How tiles of `A` are staged; its lines are the rows of `A`.
    pub lhs: Staging,
    /// How tiles of `B` are staged; its lines are the columns of `B`.
    pub rhs: Staging,
    /// Elements per store.
    pub out_vector: usize,
    /// Whether the columns of `C` are split.
    pub split: bool,
    /// Applied to each sum.
    pub finish: Finish,
}

/// What one cube computes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    /// Rows of `C` per cube.
    pub rows: usize,
    /// Columns of `C` per cube.
    pub columns: usize,
    /// Terms staged at a time.
    pub depth: usize,
    /// Rows of `C` per unit.
    pub unit_rows: usize,
    /// Columns of `C` per unit.
    pub unit_columns: usize,
}

/// How tiles of one operand reach shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Staging {
    /// Rows of `A`, or columns of `B`, in a tile.
    pub lines: usize,
    /// Terms in a tile.
    pub depth: usize,
    /// Units that share the work.
    pub units: usize,
    /// The axis that loads run along.
    pub along: Along,
    /// Elements per load.
    pub vector: usize,
}

/// The axis of an operand that has stride one, if either has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Along {
    /// The rows of `A`, the columns of `B`.
    Lines,
    /// The axis that is summed over.
    Depth,
}

/// Many tokens, wide factors: 64 multiply-adds for every 16 elements read from shared memory.
const LARGE: Tile = Tile {
    rows: 128,
    columns: 128,
    depth: 16,
    unit_rows: 8,
    unit_columns: 8,
};
/// Where large tiles would leave multiprocessors idle or mostly masked.
const MEDIUM: Tile = Tile {
    rows: 64,
    columns: 64,
    depth: 16,
    unit_rows: 4,
    unit_columns: 4,
};
/// Up to 16 rows: a few tokens.
const SMALL: Tile = Tile {
    rows: 16,
    columns: 64,
    depth: 32,
    unit_rows: 4,
    unit_columns: 4,
};

/// All of them, for measurements.
const TILES: [Tile; 3] = [LARGE, MEDIUM, SMALL];

impl Tile {
    /// Units in a cube.
    pub fn units(&self) -> usize {
        (self.rows / self.unit_rows) * (self.columns / self.unit_columns)
    }

    /// Bytes of shared memory of a cube.
    fn shared_bytes(&self) -> usize {
        (self.rows + self.columns + 2 * PADDING) * self.depth * size_of::<f32>()
    }

    /// Cubes along rows, columns and batch.
    pub fn cubes(&self, problem: &ProductProblem) -> [usize; 3] {
        let rows = problem.rows.div_ceil(self.rows);
        [
            rows,
            problem.columns.div_ceil(self.columns),
            problem.batches,
        ]
    }

    /// The tile for a problem: a class of its size, never the exact token count.
    fn for_problem<R: Runtime>(client: &ComputeClient<R>, problem: &ProductProblem) -> Self {
        let cubes: usize = LARGE.cubes(problem).iter().product();
        let fills_device = cubes >= processors(client);
        if problem.rows <= SMALL.rows {
            SMALL
        } else if problem.rows >= LARGE.rows
            && problem.columns >= LARGE.columns
            && fills_device
            && check_cube(client, LARGE.units(), LARGE.shared_bytes()).is_ok()
        {
            LARGE
        } else {
            MEDIUM
        }
    }
}

impl Staging {
    /// Loads per unit and tile.
    pub fn fetches(&self) -> usize {
        self.lines * self.depth / (self.vector * self.units)
    }

    /// Elements from one depth to the next in shared memory.
    pub fn pitch(&self) -> usize {
        self.lines + PADDING
    }

    /// Elements of shared memory.
    pub fn stage_elements(&self) -> usize {
        self.pitch() * self.depth
    }
}

/// One operand of a product seen as lines of depth: rows of `A` or columns of `B`.
struct Lines {
    view: View,
    line_stride: usize,
    depth_stride: usize,
    lines: usize,
    depth: usize,
    lines_are_tokens: bool,
    depth_is_tokens: bool,
}

impl Lines {
    /// How to stage these lines, `tile_lines` at a time.
    fn staging(&self, tile: &Tile, tile_lines: usize, element_bytes: usize) -> Staging {
        let along = if self.depth_stride != 1 && self.line_stride == 1 {
            Along::Lines
        } else {
            Along::Depth
        };
        let (size, stride, other, is_tokens) = match along {
            Along::Lines => (
                self.lines,
                self.line_stride,
                self.depth_stride,
                self.lines_are_tokens,
            ),
            Along::Depth => (
                self.depth,
                self.depth_stride,
                self.line_stride,
                self.depth_is_tokens,
            ),
        };
        let units = tile.units();
        let fits = |vector: &usize| {
            stride == 1
                && !is_tokens
                && size.is_multiple_of(*vector)
                && (tile_lines * tile.depth).is_multiple_of(vector * units)
                && self
                    .view
                    .allows_vectors(*vector, element_bytes, [self.view.batch, other])
        };
        let vector = [4, 2].into_iter().find(fits).unwrap_or(1);
        Staging {
            lines: tile_lines,
            depth: tile.depth,
            units,
            along,
            vector,
        }
    }
}

impl TiledBlueprint {
    fn new(tile: Tile, problem: &ProductProblem, element_bytes: usize) -> Self {
        let depth_is_tokens = problem.tokens == TokenAxis::Depth;
        let lhs = Lines {
            view: problem.lhs,
            line_stride: problem.lhs.row,
            depth_stride: problem.lhs.column,
            lines: problem.rows,
            depth: problem.depth,
            lines_are_tokens: problem.tokens == TokenAxis::Rows,
            depth_is_tokens,
        };
        let rhs = Lines {
            view: problem.rhs,
            line_stride: problem.rhs.column,
            depth_stride: problem.rhs.row,
            lines: problem.columns,
            depth: problem.depth,
            lines_are_tokens: false,
            depth_is_tokens,
        };
        Self {
            tile,
            lhs: lhs.staging(&tile, tile.rows, element_bytes),
            rhs: rhs.staging(&tile, tile.columns, element_bytes),
            out_vector: out_vector(problem, element_bytes),
            split: problem.split.is_some(),
            finish: problem.finish,
        }
    }

    /// Number of candidates.
    pub const CANDIDATES: usize = TILES.len();

    /// A candidate for `problem`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for it.
    pub fn candidate<R: Runtime>(
        index: usize,
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        element_bytes: usize,
    ) -> Result<Self, KernelError> {
        let blueprint = Self::new(TILES[index], problem, element_bytes);
        blueprint.validate(client)?;
        Ok(blueprint)
    }

    /// Name of a candidate in stored results.
    pub fn candidate_name(index: usize) -> String {
        let tile = TILES[index];
        format!("tiled {}x{}", tile.rows, tile.columns)
    }

    fn validate<R: Runtime>(&self, client: &ComputeClient<R>) -> Result<(), KernelError> {
        check_cube(client, self.tile.units(), self.tile.shared_bytes())
    }
}

/// Elements per store of `C`.
fn out_vector(problem: &ProductProblem, element_bytes: usize) -> usize {
    let out = problem.out;
    let fits = |vector: &usize| {
        out.column == 1
            && problem.columns.is_multiple_of(*vector)
            && out.allows_vectors(*vector, element_bytes, [out.batch, out.row])
            && problem.split.is_none_or(|split| {
                split.width.is_multiple_of(*vector) && split.stride.is_multiple_of(*vector)
            })
    };
    [4, 2].into_iter().find(fits).unwrap_or(1)
}

impl ProductPlan {
    /// Chooses the kernel for `problem`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what `strategy` asks for.
    pub fn new<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        dtype: ElemType,
        element_bytes: usize,
        strategy: &Strategy,
    ) -> Result<Self, KernelError> {
        let tiled = || {
            let tile = Tile::for_problem(client, problem);
            let blueprint = TiledBlueprint::new(tile, problem, element_bytes);
            blueprint.validate(client)?;
            Ok(ProductPlan::Tiled(blueprint))
        };
        let tensor_cores = |hopper_rule: Hopper| {
            let element = mma_element(client, dtype)?;
            if let Some(blueprint) = StreamBlueprint::new(client, problem, element)? {
                return Ok(ProductPlan::Stream(blueprint));
            }
            let portable = MmaBlueprint::for_problem(client, problem, element);
            let hopper = || WgmmaBlueprint::for_problem(client, problem, dtype, element);
            let hopper = match hopper_rule {
                Hopper::Never => None,
                Hopper::WhereFaster => hopper().ok(),
                Hopper::WherePossible => match hopper() {
                    Err(KernelError::Unavailable(Missing::TensorLayout)) => None,
                    planned => Some(planned?),
                },
            };
            match (hopper, portable) {
                (Some((blueprint, seconds)), Ok((_, portable)))
                    if hopper_rule == Hopper::WherePossible || seconds < portable =>
                {
                    Ok(ProductPlan::Wgmma(blueprint))
                }
                (Some((blueprint, _)), Err(_)) => Ok(ProductPlan::Wgmma(blueprint)),
                (_, portable) => portable.map(|(blueprint, _)| ProductPlan::Mma(blueprint)),
            }
        };
        // The one place where the device decides, step by step: it may lack tensor cores or the
        // kernels for these operands, or be too small for any tile.
        match strategy {
            Strategy::Naive => Ok(ProductPlan::Naive),
            Strategy::Tiled => tiled(),
            Strategy::TensorCores => tensor_cores(Hopper::Never),
            Strategy::Hopper | Strategy::Fused => tensor_cores(Hopper::WherePossible),
            Strategy::Auto | Strategy::Tuned => {
                let exact = element_bytes > MmaElement::Bf16.bytes();
                let planned = if exact {
                    tiled()
                } else {
                    tensor_cores(Hopper::WhereFaster)
                };
                let planned = match planned {
                    Err(KernelError::Unavailable(_)) if !exact => tiled(),
                    planned => planned,
                };
                match planned {
                    Err(KernelError::Unavailable(_)) => Ok(ProductPlan::Naive),
                    planned => planned,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::ColumnSplit;
    use super::*;

    /// The first product of a Monarch layer with contiguous tensors.
    fn problem(tokens: usize) -> ProductProblem {
        let (blocks, rank, width) = (4, 64, 48);
        let view = |batch, row, column| View {
            batch,
            row,
            column,
            alignment: 16,
        };
        ProductProblem {
            batches: blocks,
            rows: tokens,
            columns: rank,
            depth: width,
            tokens: TokenAxis::Rows,
            lhs: view(width, blocks * width, 1),
            rhs: view(rank * width, 1, width),
            out: view(rank / blocks, rank, 1),
            split: Some(ColumnSplit {
                width: rank / blocks,
                stride: tokens * rank,
            }),
            bias: None,
            merged: view(width, blocks * width, 1),
            finish: Finish::default(),
        }
    }

    #[test]
    fn blueprints_do_not_follow_the_token_count() {
        let blueprint = |tokens| TiledBlueprint::new(MEDIUM, &problem(tokens), 2);
        for tokens in 1..200 {
            assert_eq!(blueprint(tokens), blueprint(17), "{tokens} tokens");
        }
    }

    #[test]
    fn contiguous_operands_are_loaded_as_vectors_along_their_rows() {
        let blueprint = TiledBlueprint::new(LARGE, &problem(128), 2);
        assert_eq!(
            (blueprint.lhs.along, blueprint.lhs.vector),
            (Along::Depth, 4)
        );
        assert_eq!(
            (blueprint.rhs.along, blueprint.rhs.vector),
            (Along::Depth, 4)
        );
        assert_eq!((blueprint.out_vector, blueprint.split), (4, true));
    }

    #[test]
    fn vectors_never_run_along_tokens() {
        let mut transposed = problem(64);
        (
            transposed.lhs.row,
            transposed.lhs.column,
            transposed.lhs.batch,
        ) = (1, 64, 64 * 48);
        let blueprint = TiledBlueprint::new(MEDIUM, &transposed, 4);
        assert_eq!(
            (blueprint.lhs.along, blueprint.lhs.vector),
            (Along::Lines, 1)
        );
    }

    #[test]
    fn unaligned_buffers_are_not_loaded_as_vectors() {
        let mut unaligned = problem(64);
        unaligned.lhs.alignment = 4;
        assert_eq!(TiledBlueprint::new(MEDIUM, &unaligned, 2).lhs.vector, 2);
        assert_eq!(TiledBlueprint::new(MEDIUM, &unaligned, 4).lhs.vector, 1);
    }

    #[test]
    fn the_units_of_every_tile_share_its_loads_evenly() {
        for tile in [LARGE, MEDIUM, SMALL] {
            let blueprint = TiledBlueprint::new(tile, &problem(128), 4);
            for staging in [blueprint.lhs, blueprint.rhs] {
                let loaded = staging.fetches() * staging.vector * staging.units;
                assert_eq!(loaded, staging.lines * staging.depth, "{tile:?}");
            }
        }
    }
}
