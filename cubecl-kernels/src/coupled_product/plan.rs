//! Tiles of the coupled product.

use cubecl::prelude::*;

use crate::couple::CoupleProblem;
use crate::device::{check_cube, processors};
use crate::error::{KernelError, Missing};
use crate::mma::accumulate::PlaneTile;
use crate::mma::panel::Panel;
use crate::operand::View;
use crate::product::{Along, ProductProblem};
use crate::ptx::MmaElement;
use crate::stream::plan::streams;

/// Blocks that one tensor-core product couples.
pub(crate) const MAX_BLOCKS: usize = 16;

/// Cubes that couple alone of a multiprocessor: registers have room for so many.
const RESIDENT: usize = 2;
/// Tiles in shared memory of such a cube: one is coupled while the other is under way. Three were no
/// faster on an H100.
pub(crate) const BUFFERS: usize = 2;

/// Everything about the kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoupledBlueprint {
    pub tile: CoupledTile,
    pub element: MmaElement,
    /// At most [`MAX_BLOCKS`].
    pub blocks: usize,
    pub lhs: Panel,
    pub rhs: Panel,
}

/// What one cube computes, for all blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoupledTile {
    /// Tokens, a multiple of 16.
    pub rows: usize,
    /// Ranks, a multiple of 16.
    pub columns: usize,
    /// What a plane computes of one block.
    pub plane: PlaneTile,
    /// Groups of planes that compute different blocks at a time.
    pub groups: usize,
    /// Panels of each operand in shared memory, for each group.
    pub stages: usize,
}

impl CoupledTile {
    pub const fn new(
        rows: usize,
        columns: usize,
        plane: (usize, usize),
        groups: usize,
        stages: usize,
    ) -> Self {
        let plane = PlaneTile {
            rows: plane.0,
            columns: plane.1,
        };
        Self {
            rows,
            columns,
            plane,
            groups,
            stages,
        }
    }

    /// Planes of one group.
    pub fn group_planes(&self) -> usize {
        (self.rows / self.plane.rows) * (self.columns / self.plane.columns)
    }

    /// Units of one group.
    pub fn group_units(&self) -> usize {
        self.group_planes() * 32
    }

    /// Units in a cube.
    pub fn units(&self) -> usize {
        self.group_units() * self.groups
    }
}

/// A tile of all blocks in shared memory, and who couples it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoupleTile {
    /// Tokens, a multiple of 8.
    pub rows: usize,
    /// Ranks, a multiple of 8.
    pub columns: usize,
    /// At most [`MAX_BLOCKS`].
    pub blocks: usize,
    pub element: MmaElement,
    /// Units in a cube.
    pub units: usize,
}

impl CoupleTile {
    /// The tile for `problem`, which must have 16-bit elements, at most [`MAX_BLOCKS`] blocks, and
    /// ranks that can be copied eight at a time.
    ///
    /// 64 ranks are a line of memory and an octet for each of eight planes; of 16 tokens there is room for
    /// [`BUFFERS`] tiles in each of [`RESIDENT`] cubes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the problem is not so.
    pub fn new(problem: &CoupleProblem, element: MmaElement) -> Result<Self, KernelError> {
        let octets = |view: View| {
            view.column == 1 && view.allows_vectors(8, element.bytes(), [view.batch, view.row])
        };
        let possible = element != MmaElement::Tf32
            && problem.blocks <= MAX_BLOCKS
            && problem.rank.is_multiple_of(8)
            && [problem.coupling, problem.source, problem.out]
                .into_iter()
                .all(octets);
        if !possible {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        Ok(Self {
            rows: 16,
            columns: 64,
            blocks: problem.blocks,
            element,
            units: 256,
        })
    }

    /// Checks that a kernel which never stores `Y` can couple it by tiles, whatever view of `Y` the
    /// problem has.
    ///
    /// # Errors
    ///
    /// As [`CoupleTile::new`].
    pub fn check_fused(problem: &CoupleProblem, element: MmaElement) -> Result<(), KernelError> {
        let source = problem.out;
        Self::new(&CoupleProblem { source, ..*problem }, element).map(|_| ())
    }

    /// Cubes along ranks and tokens.
    pub fn cubes(&self, tokens: usize, ranks: usize) -> [usize; 3] {
        [ranks.div_ceil(self.columns), tokens.div_ceil(self.rows), 1]
    }

    /// Cubes along ranks and tokens that stay for all tiles of some ranks: as many as the device holds at a
    /// time, each with the same number of tiles, about.
    pub fn standing_cubes<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        tokens: usize,
        ranks: usize,
    ) -> [usize; 3] {
        let [across, down, _] = self.cubes(tokens, ranks);
        let most = (RESIDENT * processors(client) / across).clamp(1, down);
        [across, down.div_ceil(down.div_ceil(most)), 1]
    }

    /// Bytes of one row: the ranks of one block and token.
    pub fn row_bytes(&self) -> usize {
        self.columns * self.element.bytes()
    }

    /// Whether rows have 128 bytes, so that tensor maps can store them: their swizzle follows addresses.
    pub fn is_mapped(&self) -> bool {
        self.row_bytes() == 128
    }

    /// Rows from the start of a block to that of the next in shared memory: one more than it has where the
    /// permutation follows addresses. With one more, 16 ranks of 16 tokens and 6 blocks would leave room
    /// for two cubes in a multiprocessor, not three.
    pub fn block_rows(&self) -> usize {
        self.rows + usize::from(self.is_mapped())
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.blocks * self.block_rows() * self.row_bytes()
    }

    /// Bytes of shared memory of a cube that couples alone.
    pub fn standing_bytes(&self) -> usize {
        BUFFERS * self.shared_bytes()
    }

    /// Where panels may begin after the tile: at a multiple of what their permutation repeats after.
    pub fn panels_start(&self) -> usize {
        self.shared_bytes().next_multiple_of(1024)
    }

    /// Groups of eight ranks.
    pub fn octets(&self) -> usize {
        self.columns / 8
    }

    /// Chunks of 16 bytes.
    pub fn cells(&self) -> usize {
        self.blocks * self.rows * self.octets()
    }

    /// Chunks of a row that are permuted among each other: a power of two that divides their number.
    pub fn permuted_octets(&self) -> usize {
        1 << self.octets().trailing_zeros().min(3)
    }

    /// Groups of eight tokens that are coupled together.
    pub fn run(&self) -> usize {
        let tiles = self.rows / 8;
        let splits = (self.units / 32).div_ceil(self.octets()).clamp(1, tiles);
        tiles.div_ceil(splits)
    }
}

/// Tiles of the coupled product that were fastest on some layer on an H100, from large to small.
const CANDIDATES: [CoupledTile; 5] = [
    CoupledTile::new(64, 64, (32, 32), 2, 3),
    CoupledTile::new(32, 64, (32, 16), 1, 3),
    CoupledTile::new(16, 16, (16, 16), 6, 3),
    CoupledTile::new(32, 16, (16, 16), 3, 3),
    CoupledTile::new(16, 16, (16, 16), 3, 3),
];

/// Bytes of `Y` above which storing it costs more than the smaller tiles that coupling at once
/// allows; and below which the launch that it saves counts most.
const LARGE_BYTES: usize = 64 << 20;
pub(super) const SMALL_BYTES: usize = 2 << 20;

/// Bytes of depth above which large products are faster apart in any case.
const DEEP_BYTES: usize = 512;

impl CoupledBlueprint {
    /// The blueprint for a product and its coupling, or nothing where both are faster apart.
    ///
    /// On an H100, bf16, us, one kernel against two (a product on tensor maps, and the coupling with
    /// nothing in cache): 16384 tokens, 9 blocks of depth 128, rank 256: 90 against 110; 384 tokens,
    /// 6 blocks of depth 128, rank 192: 4 against 7; but 1024 tokens, 16 blocks of depth 128, rank
    /// 512: 20 against 21, and less where `Y` is found in cache.
    pub fn for_problem<R: Runtime>(
        client: &ComputeClient<R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
        element: MmaElement,
    ) -> Option<Self> {
        let bytes = couple.blocks * couple.tokens * couple.rank * element.bytes();
        let large = bytes >= LARGE_BYTES && product.depth * element.bytes() <= DEEP_BYTES;
        if !large && bytes > SMALL_BYTES {
            return None;
        }
        let processors = processors(client);
        let class = product.with_rounded_tokens();
        let candidate = |index| Self::candidate(index, client, product, couple, element);
        let possible: Vec<Self> = (0..Self::CANDIDATES)
            .filter_map(|index| candidate(index).ok())
            .collect();
        // The largest tile that leaves no processor idle, else the smallest there is.
        let fills = |blueprint: &&Self| {
            blueprint
                .cubes(class.rows, class.columns)
                .iter()
                .product::<usize>()
                >= processors
        };
        possible.iter().find(fills).or(possible.last()).copied()
    }

    /// Number of candidates.
    pub const CANDIDATES: usize = CANDIDATES.len();

    /// A candidate for a product and its coupling.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the operands have no layout for its copies, or the device no
    /// room for it.
    pub fn candidate<R: Runtime>(
        index: usize,
        client: &ComputeClient<R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
        element: MmaElement,
    ) -> Result<Self, KernelError> {
        CoupleTile::check_fused(couple, element)?;
        let tile = &CANDIDATES[index];
        let panel = |lines, view: View, line, depth| {
            let panel = Panel {
                lines,
                along: Along::Depth,
                copy_bytes: 16,
                element,
                units: tile.group_units(),
                every: 1,
            };
            let along_depth = streams(view, line, depth, product.depth, element);
            (along_depth && panel.is_valid()).then_some(panel)
        };
        let (lhs, rhs) = (product.lhs, product.rhs);
        let panels = (
            panel(tile.rows, lhs, lhs.row, lhs.column),
            panel(tile.columns, rhs, rhs.column, rhs.row),
        );
        // A group without a block would only wait.
        let (Some(lhs), Some(rhs), true) = (panels.0, panels.1, tile.groups <= couple.blocks)
        else {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        };
        let blueprint = Self {
            tile: *tile,
            element,
            blocks: couple.blocks,
            lhs,
            rhs,
        };
        check_cube(client, tile.units(), blueprint.shared_bytes())?;
        Ok(blueprint)
    }

    /// Name of a candidate in stored results.
    pub fn candidate_name(index: usize) -> String {
        let tile = &CANDIDATES[index];
        format!("fused {}x{}x{}", tile.rows, tile.columns, tile.groups)
    }

    /// Cubes along ranks and tokens.
    pub fn cubes(&self, tokens: usize, ranks: usize) -> [usize; 3] {
        self.couple().cubes(tokens, ranks)
    }

    /// The tile of `Y` and of its couplings.
    pub fn couple(&self) -> CoupleTile {
        CoupleTile {
            rows: self.tile.rows,
            columns: self.tile.columns,
            blocks: self.blocks,
            element: self.element,
            units: self.tile.units(),
        }
    }

    /// Bytes of `Y` in shared memory, up to where panels may begin.
    pub fn inner_bytes(&self) -> usize {
        self.couple().panels_start()
    }

    /// Bytes of shared memory that one step of depth takes.
    pub fn stage_bytes(&self) -> usize {
        self.lhs.bytes() + self.rhs.bytes()
    }

    /// Bytes of shared memory of a cube.
    pub fn shared_bytes(&self) -> usize {
        self.inner_bytes() + self.stage_bytes() * self.tile.stages * self.tile.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 384 tokens, 6 blocks and rank 192 there are 288 tiles: one wave of three cubes on each of 132
    /// multiprocessors, two waves of two.
    #[test]
    fn three_cubes_of_a_gpt2_layer_fit_a_multiprocessor() {
        // Of compute capability 9.0, by the CUDA programming guide; each cube takes 1 KiB more.
        let (room, reserved) = (228 << 10, 1 << 10);
        let tile = CANDIDATES[2];
        let panel = Panel {
            lines: 16,
            along: Along::Depth,
            copy_bytes: 16,
            element: MmaElement::Bf16,
            units: tile.group_units(),
            every: 1,
        };
        let blueprint = CoupledBlueprint {
            tile,
            element: MmaElement::Bf16,
            blocks: 6,
            lhs: panel,
            rhs: panel,
        };
        assert_eq!(tile.groups, 6);
        assert_eq!([tile.rows, tile.columns], [panel.lines; 2]);
        assert!(3 * (blueprint.shared_bytes() + reserved) <= room);
    }
}
