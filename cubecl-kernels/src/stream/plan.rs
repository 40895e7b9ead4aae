//! How planes share a product of few tokens.

use cubecl::prelude::*;

use crate::device::{check_cube, processors};
use crate::epilogue::Finish;
use crate::error::KernelError;
use crate::operand::View;
use crate::product::{ProductProblem, TokenAxis};
use crate::ptx::MmaElement;

/// Lines of a factor that a plane multiplies at a time.
pub(crate) const LINES: usize = 16;

/// Tokens of one tensor-core product.
pub(crate) const TOKENS: usize = 8;

/// Tokens up to which the kernels here are used.
pub(crate) const FEW_TOKENS: usize = 32;

/// Planes that share a depth, at most.
pub(crate) const MOST_SPLITS: usize = 16;

/// Bytes of depth below which a plane is not worth starting.
const LEAST_BYTES: usize = 256;

/// Everything about the product kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamBlueprint {
    pub element: MmaElement,
    /// Groups of [`LINES`] outputs of a cube.
    pub groups: usize,
    /// Planes that share the depth of each group.
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
    /// Planes that share the depth of each block.
    pub splits: usize,
    /// Groups of [`TOKENS`] tokens.
    pub token_groups: usize,
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

/// Planes that share a depth of `bytes`, if `lines` groups of lines are to keep `planes` busy.
fn splits(lines: usize, bytes: usize, planes: usize, most: usize) -> usize {
    let wanted = planes.div_ceil(lines).next_power_of_two();
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
        let lines = problem.columns.div_ceil(LINES) * problem.batches;
        // 16 planes for each multiprocessor keep enough loads under way.
        let planes = 16 * processors(client);
        let blueprint = Self {
            element,
            groups: 1,
            splits: splits(lines, depth * element.bytes(), planes, MOST_SPLITS),
            token_groups: token_groups(problem.rows),
            split_columns: problem.split.is_some(),
            finish: problem.finish,
        };
        blueprint.validate(client)?;
        Ok(Some(blueprint))
    }

    /// The same with the depth shared by another number of planes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn with_splits<R: Runtime>(
        self,
        client: &ComputeClient<R>,
        splits: usize,
    ) -> Result<Self, KernelError> {
        let blueprint = Self { splits, ..self };
        blueprint.validate(client)?;
        Ok(blueprint)
    }

    fn validate<R: Runtime>(&self, client: &ComputeClient<R>) -> Result<(), KernelError> {
        let stage = self.stage_elements() * size_of::<f32>();
        check_cube(client, self.units(), stage)
    }

    /// Units in a cube.
    pub fn units(&self) -> usize {
        self.groups * self.splits * 32
    }

    /// Elements of shared memory: the sums of every plane.
    pub fn stage_elements(&self) -> usize {
        self.groups * self.splits * self.token_groups * TOKENS * LINES
    }

    /// Cubes along each axis of the grid.
    pub fn cubes(&self, problem: &ProductProblem) -> [usize; 3] {
        [
            problem.columns.div_ceil(self.groups * LINES),
            problem.batches,
            1,
        ]
    }
}

impl StreamCoupledBlueprint {
    /// The blueprint for `blocks` products of `tokens` rows over a depth of `bytes`.
    pub fn new(
        element: MmaElement,
        blocks: usize,
        tokens: usize,
        rank: usize,
        bytes: usize,
    ) -> Self {
        let token_groups = token_groups(tokens);
        // With 16 tokens, one plane per block was faster than two on an H100, with one token slower.
        let most = if token_groups == 1 { 32 / blocks } else { 1 };
        Self {
            element,
            blocks,
            splits: splits(rank.div_ceil(LINES) * blocks, bytes, 4096, most),
            token_groups,
        }
    }

    /// The same with the depth shared by another number of planes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn with_splits<R: Runtime>(
        self,
        client: &ComputeClient<R>,
        splits: usize,
    ) -> Result<Self, KernelError> {
        let blueprint = Self { splits, ..self };
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

    /// Units in a cube.
    pub fn units(&self) -> usize {
        self.blocks * self.splits * 32
    }

    /// Elements of shared memory: the sums of every plane.
    pub fn stage_elements(&self) -> usize {
        self.blocks * self.splits * self.token_groups * TOKENS * LINES
    }
}
