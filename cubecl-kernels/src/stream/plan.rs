//! How planes share a product of few tokens.

use cubecl::prelude::*;

use crate::couple::CoupleProblem;
use crate::device::{check_cube, processors};
use crate::epilogue::Finish;
use crate::error::KernelError;
use crate::operand::View;
use crate::product::{ProductProblem, TokenAxis};
use crate::ptx::MmaElement;

/// Lines of a factor that a plane multiplies at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StreamLines {
    /// Half of a fragment: twice as many cubes, where lines are few.
    Eight,
    /// A whole fragment.
    Sixteen,
}

impl StreamLines {
    /// Both, fewer first.
    pub const ALL: [StreamLines; 2] = [StreamLines::Eight, StreamLines::Sixteen];

    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            StreamLines::Eight => 8,
            StreamLines::Sixteen => 16,
        }
    }

    /// Loads of each line that are under way at a time: as many bytes whatever the lines.
    pub fn ahead(self) -> usize {
        64 / self.count()
    }
}

/// Tokens of one tensor-core product.
pub(crate) const TOKENS: usize = 8;

/// Tokens up to which the kernels here are used.
pub(crate) const FEW_TOKENS: usize = 32;

/// Planes that share a depth, at most.
const MOST_SPLITS: usize = 16;

/// Bytes of depth below which a plane is not worth starting.
const LEAST_BYTES: usize = 256;

/// Everything about the product kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamBlueprint {
    pub element: MmaElement,
    /// Outputs of a cube.
    pub lines: StreamLines,
    /// Planes that share the depth.
    pub splits: usize,
    /// Groups of [`TOKENS`] tokens.
    pub token_groups: usize,
    /// Whether the columns of `C` are split.
    pub split_columns: bool,
    pub finish: Finish,
}

/// Everything about the kernel with coupling that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamCoupledBlueprint {
    pub element: MmaElement,
    /// Blocks, each multiplied by planes of its own.
    pub blocks: usize,
    /// Ranks of a cube.
    pub lines: StreamLines,
    /// Planes that share the depth of each block.
    pub splits: usize,
    /// Groups of [`TOKENS`] tokens.
    pub token_groups: usize,
    /// Whether the ranks of the output are split.
    pub split_ranks: bool,
}

/// All ways to share a product, as lines of a cube and planes for each.
pub(crate) fn ways() -> impl Iterator<Item = (StreamLines, usize)> {
    let splits = || (0..=MOST_SPLITS.ilog2()).map(|log| 1 << log);
    let of_lines = move |lines| splits().map(move |splits| (lines, splits));
    StreamLines::ALL.into_iter().flat_map(of_lines)
}

/// Groups of tokens that a kernel is compiled for: a power of two.
pub(crate) fn token_groups(tokens: usize) -> usize {
    tokens.div_ceil(TOKENS).next_power_of_two()
}

/// Whether an operand can be read in chunks of 16 bytes along a depth of stride one.
pub(crate) fn streams(
    view: View,
    line: usize,
    depth_stride: usize,
    depth: usize,
    element: MmaElement,
) -> bool {
    let width = 16 / element.bytes();
    depth_stride == 1
        && depth.is_multiple_of(width)
        && view.allows_vectors(width, element.bytes(), [view.batch, line])
}

/// Planes that share a depth of `bytes`, if `groups` of lines are to keep `planes` busy.
fn splits(groups: usize, bytes: usize, planes: usize, most: usize) -> usize {
    let wanted = planes.div_ceil(groups).next_power_of_two();
    let useful = (bytes / LEAST_BYTES).max(1);
    let most = most.min(useful).max(1);
    // The largest power of two that is allowed.
    wanted.min(1 << most.ilog2())
}

impl StreamBlueprint {
    /// The blueprint for `problem`, if it has few tokens and operands that can be streamed.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn new<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        element: MmaElement,
    ) -> Result<Option<Self>, KernelError> {
        let (lhs, rhs, depth) = (problem.lhs, problem.rhs, problem.depth);
        let possible = problem.tokens == TokenAxis::Rows
            && problem.rows <= FEW_TOKENS
            && streams(lhs, lhs.row, lhs.column, depth, element)
            && streams(rhs, rhs.column, rhs.row, depth, element);
        if !possible {
            return Ok(None);
        }
        let processors = processors(client);
        let token_groups = token_groups(problem.rows);
        let sixteens = problem.columns.div_ceil(16) * problem.batches;
        // Where sixteen at a time leave multiprocessors idle. On an H100: a layer of 4096 features and rank
        // 1024 13.3 us with sixteen and 12.1 with eight for one token, 14.4 and 15.1 for 16 tokens.
        let lines = match token_groups {
            1 if sixteens < processors => StreamLines::Eight,
            _ => StreamLines::Sixteen,
        };
        let groups = problem.columns.div_ceil(lines.count()) * problem.batches;
        // 16 planes for each multiprocessor keep enough loads under way.
        let planes = 16 * processors;
        let blueprint = Self {
            element,
            lines,
            splits: splits(groups, depth * element.bytes(), planes, MOST_SPLITS),
            token_groups,
            split_columns: problem.split.is_some(),
            finish: problem.finish,
        };
        blueprint.validate(client)?;
        Ok(Some(blueprint))
    }

    /// The same with other lines, and the depth shared by another number of planes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn with<R: Runtime>(
        self,
        client: &ComputeClient<R>,
        lines: StreamLines,
        splits: usize,
    ) -> Result<Self, KernelError> {
        let blueprint = Self {
            lines,
            splits,
            ..self
        };
        blueprint.validate(client)?;
        Ok(blueprint)
    }

    fn validate<R: Runtime>(&self, client: &ComputeClient<R>) -> Result<(), KernelError> {
        let stage = self.stage_elements() * size_of::<f32>();
        check_cube(client, self.units(), stage)
    }

    /// Checks that the device has room for the cube of two products.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if it has not.
    pub fn validate_gated<R: Runtime>(&self, client: &ComputeClient<R>) -> Result<(), KernelError> {
        let stage = 2 * self.stage_elements() * size_of::<f32>();
        check_cube(client, 2 * self.units(), stage)
    }

    /// Units in a cube, for each product.
    pub fn units(&self) -> usize {
        self.splits * 32
    }

    /// Sums of a plane.
    pub fn plane_elements(&self) -> usize {
        self.token_groups * TOKENS * self.lines.count()
    }

    /// Elements of shared memory, for each product: the sums of every plane.
    pub fn stage_elements(&self) -> usize {
        self.splits * self.plane_elements()
    }

    /// Cubes along each axis of the grid.
    pub fn cubes(&self, problem: &ProductProblem) -> [usize; 3] {
        let columns = problem.columns.div_ceil(self.lines.count());
        [columns, problem.batches, 1]
    }
}

impl StreamCoupledBlueprint {
    /// The blueprint for the products of `problem`, over a depth of `bytes`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn new<R: Runtime>(
        client: &ComputeClient<R>,
        element: MmaElement,
        problem: &CoupleProblem,
        bytes: usize,
    ) -> Result<Self, KernelError> {
        let blocks = problem.blocks;
        let token_groups = token_groups(problem.tokens);
        // With 16 tokens, one plane per block was faster than two on an H100, with one token slower.
        let most = if token_groups == 1 { 32 / blocks } else { 1 };
        // With eight, 4096 x 4096 features at rank 1024 took 13.4 us on an H100 instead of 12.4, 4096 x 11008
        // at rank 1488 31.0 instead of 26.6.
        let lines = StreamLines::Sixteen;
        let groups = problem.rank.div_ceil(lines.count());
        let blueprint = Self {
            element,
            blocks,
            lines,
            splits: splits(groups * blocks, bytes, 4096, most),
            token_groups,
            split_ranks: problem.split.is_some(),
        };
        blueprint.validate(client)?;
        Ok(blueprint)
    }

    /// The same with other lines, and the depth shared by another number of planes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn with<R: Runtime>(
        self,
        client: &ComputeClient<R>,
        lines: StreamLines,
        splits: usize,
    ) -> Result<Self, KernelError> {
        let blueprint = Self {
            lines,
            splits,
            ..self
        };
        blueprint.validate(client)?;
        Ok(blueprint)
    }

    /// Checks that the device has room for the cube.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if it has not.
    pub fn validate<R: Runtime>(&self, client: &ComputeClient<R>) -> Result<(), KernelError> {
        let stage = self.stage_elements() * size_of::<f32>();
        check_cube(client, self.units(), stage)
    }

    /// Cubes of a grid for so many ranks.
    pub fn cubes(&self, rank: usize) -> usize {
        rank.div_ceil(self.lines.count())
    }

    /// Units in a cube.
    pub fn units(&self) -> usize {
        self.blocks * self.splits * 32
    }

    /// Elements of shared memory: the sums of every plane.
    pub fn stage_elements(&self) -> usize {
        self.blocks * self.splits * self.token_groups * TOKENS * self.lines.count()
    }
}
