//! How planes share a product of few tokens.

use core::cmp::Reverse;

use cubecl::prelude::*;

use crate::couple::CoupleProblem;
use crate::device::{check_cube, processors};
use crate::epilogue::Finish;
use crate::error::{KernelError, Missing};
use crate::operand::View;
use crate::product::{ProductProblem, TokenAxis};
use crate::ptx::MmaElement;

/// Lines of a factor that a plane multiplies at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StreamLines {
    /// Half of a fragment: twice as many groups, where lines are few.
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
}

/// Tokens of one tensor-core product.
pub(crate) const TOKENS: usize = 8;

/// Tokens up to which the kernels here are used.
pub(crate) const FEW_TOKENS: usize = 32;

/// Planes of a cube, at most, where they do not follow from the blocks of a coupling.
const MOST_PLANES: usize = 8;

/// Planes that share a depth, at most, in the kernel with coupling.
const MOST_COUPLED_SPLITS: usize = 2;

/// Stages of a ring, at most.
const MOST_STAGES: usize = 8;

/// Bytes of each line that a stage can have, best first: shorter runs fit where tokens or blocks are
/// many, but were slower where both fit, although planes share them more evenly. On an H100, 11008 x 4096
/// features as Monarch: 22.8 us with 256, 25.6 with 128 in the first product.
const STEPS: [usize; 2] = [256, 128];

/// Shared memory that the driver keeps for itself in each cube.
const RESERVED: usize = 1024;

/// The shared memory that a plane has to itself: stages that asynchronous copies fill ahead of the
/// products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ring {
    pub element: MmaElement,
    /// Lines of the factor in a stage.
    pub lines: StreamLines,
    /// Tokens in a stage: one, or whole groups of [`TOKENS`].
    pub tokens: usize,
    /// Bytes of each line in a stage.
    pub step: usize,
    /// Stages, two at least; all but one are on their way at a time.
    pub stages: usize,
}

/// How planes of a cube are to read a factor.
#[derive(Clone, Copy)]
struct Way {
    lines: StreamLines,
    step: usize,
    /// Planes of a cube.
    planes: usize,
    /// Planes that share a depth.
    splits: usize,
}

/// What they read.
#[derive(Clone, Copy)]
struct Factor {
    element: MmaElement,
    /// Tokens that its lines are multiplied with.
    tokens: usize,
    /// Bytes of a line.
    bytes: usize,
}

impl Ring {
    /// The longest ring that is of use in so many turns of all cubes together, and for which the planes
    /// have room; their sums are staged twice. Where turns are more than multiprocessors, and three
    /// stages leave room for another cube on one, they do.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for two stages.
    fn new<R: Runtime>(
        client: &ComputeClient<R>,
        factor: Factor,
        way: Way,
        turns: usize,
    ) -> Result<Self, KernelError> {
        let tokens = match factor.tokens {
            ..=1 => 1,
            tokens => token_groups(tokens) * TOKENS,
        };
        let ring = |stages: usize| Self {
            element: factor.element,
            lines: way.lines,
            tokens,
            step: way.step,
            stages,
        };
        let limit = client.properties().hardware.max_shared_memory_size;
        let alone = turns <= processors(client);
        let cubes = processors(client) * if alone { 1 } else { 2 };
        let rounds = factor.bytes.div_ceil(way.step).div_ceil(way.splits);
        let useful = (rounds * turns.div_ceil(cubes) + 1).clamp(2, MOST_STAGES);
        let most = |room: usize| {
            let fits = |stages: &usize| ring(*stages).shared(way.planes) <= room;
            (2..=useful).rev().find(fits)
        };
        let stages = match most((limit / 2).saturating_sub(RESERVED)) {
            Some(stages) if !alone && stages >= useful.min(3) => stages,
            _ => most(limit).unwrap_or(2),
        };
        check_cube(client, way.planes * 32, ring(stages).shared(way.planes))?;
        Ok(ring(stages))
    }

    /// What so many turns of all cubes cost: the bytes that the busiest multiprocessor reads. Tokens are
    /// found in the second cache.
    fn cost<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        (planes, splits): (usize, usize),
        bytes: usize,
        turns: usize,
    ) -> usize {
        let rounds = bytes.div_ceil(self.step).div_ceil(splits);
        let turn = planes * rounds * self.step * (4 * self.lines.count() + self.tokens) / 4;
        turn * turns.div_ceil(processors(client))
    }

    /// Groups of [`TOKENS`] tokens.
    pub fn token_groups(&self) -> usize {
        self.tokens.div_ceil(TOKENS)
    }

    /// Bytes of a stage.
    pub fn stage_bytes(&self) -> usize {
        (self.lines.count() + self.tokens) * self.step
    }

    /// Bytes of all stages.
    pub fn bytes(&self) -> usize {
        self.stages * self.stage_bytes()
    }

    /// Sums of a plane.
    pub fn sums(&self) -> usize {
        self.tokens * self.lines.count()
    }

    /// Bytes of shared memory for the rings of so many planes and their sums, which are staged twice.
    fn shared(&self, planes: usize) -> usize {
        planes * (self.bytes() + 2 * self.sums() * size_of::<f32>())
    }

    /// Cubes of so many planes for `turns` turns: as many as stay on the device at a time.
    fn cubes<R: Runtime>(&self, client: &ComputeClient<R>, planes: usize, turns: usize) -> usize {
        let limit = client.properties().hardware.max_shared_memory_size;
        let resident = limit / (self.shared(planes) + RESERVED);
        turns.min(processors(client) * resident.clamp(1, 2))
    }
}

/// Everything about the product kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamBlueprint {
    pub ring: Ring,
    /// Groups of lines of a cube at a time.
    pub groups: usize,
    /// Planes that share the depth of each.
    pub splits: usize,
    /// Whether the columns of `C` are split.
    pub split_columns: bool,
    pub finish: Finish,
}

/// Everything about the kernel with coupling that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamCoupledBlueprint {
    pub ring: Ring,
    /// Blocks, each multiplied by planes of its own.
    pub blocks: usize,
    /// Planes that share the depth of each block.
    pub splits: usize,
    /// Whether the ranks of the output are split.
    pub split_ranks: bool,
}

/// All ways to share a product, as lines of a plane and planes for each.
pub(crate) fn ways() -> impl Iterator<Item = (StreamLines, usize)> {
    let splits = || (0..=MOST_PLANES.ilog2()).map(|log| 1 << log);
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

/// The first of the [`STEPS`] that is possible; else why the last is not.
fn with_step<B>(blueprint: impl Fn(usize) -> Result<B, KernelError>) -> Result<B, KernelError> {
    let [long, short] = STEPS;
    blueprint(long).or_else(|_| blueprint(short))
}

/// The possible blueprint of least cost.
///
/// # Errors
///
/// The first reason why one is not possible, if none is.
fn cheapest<B, C: Ord>(
    candidates: impl Iterator<Item = Result<B, KernelError>>,
    cost: impl Fn(&B) -> C,
) -> Result<B, KernelError> {
    let cheaper = |one: Result<B, KernelError>, other: Result<B, KernelError>| match (one, other) {
        (Ok(one), Ok(other)) if cost(&other) < cost(&one) => Ok(other),
        (Err(_), Ok(other)) => Ok(other),
        (one, _) => one,
    };
    let unserved = KernelError::Unavailable(Missing::TensorLayout);
    candidates.reduce(cheaper).unwrap_or(Err(unserved))
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
        // Where tokens are many, each half of a fragment would load them again.
        let few = problem.rows <= TOKENS;
        let ways = ways().filter(|(lines, _)| few || *lines == StreamLines::Sixteen);
        Self::best(client, problem, element, 1, ways).map(Some)
    }

    /// The blueprint for a cube that has `products` such products, by the best of some ways.
    fn best<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        element: MmaElement,
        products: usize,
        ways: impl Iterator<Item = (StreamLines, usize)>,
    ) -> Result<Self, KernelError> {
        let bytes = problem.depth * element.bytes();
        let candidates = ways.map(|(lines, splits)| {
            with_step(|step| {
                Self::candidate(client, problem, element, products, lines, splits, step)
            })
        });
        cheapest(candidates, |blueprint: &Self| {
            let shares = (products * blueprint.planes(), blueprint.splits);
            let turns = blueprint.turns(problem);
            // Of equals more lines, and more planes that share them.
            let many = (blueprint.ring.lines.count(), blueprint.splits);
            (
                blueprint.ring.cost(client, shares, bytes, turns),
                Reverse(many),
            )
        })
    }

    /// The blueprint by lines and bytes of a stage, and planes that share the depth: as many planes as the
    /// device has room for.
    fn candidate<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        element: MmaElement,
        products: usize,
        lines: StreamLines,
        splits: usize,
        step: usize,
    ) -> Result<Self, KernelError> {
        let factor = Factor {
            element,
            tokens: problem.rows,
            bytes: problem.depth * element.bytes(),
        };
        let line_groups = problem.columns.div_ceil(lines.count()) * problem.batches;
        let mut planes = MOST_PLANES.max(products * splits);
        loop {
            let groups = planes / (products * splits);
            let way = Way {
                lines,
                step,
                planes,
                splits,
            };
            match Ring::new(client, factor, way, line_groups.div_ceil(groups)) {
                Ok(ring) => {
                    return Ok(Self {
                        ring,
                        groups,
                        splits,
                        split_columns: problem.split.is_some(),
                        finish: problem.finish,
                    });
                }
                Err(reason) if groups == 1 => return Err(reason),
                Err(_) => planes /= 2,
            }
        }
    }

    /// The same with other lines, and the depth shared by another number of planes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn with<R: Runtime>(
        self,
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        lines: StreamLines,
        splits: usize,
    ) -> Result<Self, KernelError> {
        let element = self.ring.element;
        Self::best(
            client,
            problem,
            element,
            1,
            core::iter::once((lines, splits)),
        )
    }

    /// The blueprint for `problem` and another of the same sizes and strides in one cube.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn gated<R: Runtime>(
        self,
        client: &ComputeClient<R>,
        problem: &ProductProblem,
    ) -> Result<Self, KernelError> {
        let ways = ways().filter(|(lines, _)| *lines == self.ring.lines);
        Self::best(client, problem, self.ring.element, 2, ways)
    }

    /// Planes of a cube, for each product.
    pub fn planes(&self) -> usize {
        self.groups * self.splits
    }

    /// Sums of all planes of a product.
    pub fn staged(&self) -> usize {
        self.planes() * self.ring.sums()
    }

    /// Turns of all cubes together.
    fn turns(&self, problem: &ProductProblem) -> usize {
        let line_groups = problem.columns.div_ceil(self.ring.lines.count());
        (line_groups * problem.batches).div_ceil(self.groups)
    }

    /// Cubes of the grid, each of which has `products` products.
    pub fn cubes<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        products: usize,
    ) -> usize {
        let planes = products * self.planes();
        self.ring.cubes(client, planes, self.turns(problem))
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
        let few = problem.tokens <= TOKENS;
        let ways = ways().filter(|(lines, splits)| {
            *splits <= MOST_COUPLED_SPLITS && (few || *lines == StreamLines::Sixteen)
        });
        let sixteen = Self::best(client, element, problem, bytes, ways);
        // Where tokens or blocks are many, there is room for half of the lines only.
        sixteen.or_else(|_| {
            let eight = core::iter::once((StreamLines::Eight, 1));
            Self::best(client, element, problem, bytes, eight)
        })
    }

    /// The blueprint by the best of some ways.
    fn best<R: Runtime>(
        client: &ComputeClient<R>,
        element: MmaElement,
        problem: &CoupleProblem,
        bytes: usize,
        ways: impl Iterator<Item = (StreamLines, usize)>,
    ) -> Result<Self, KernelError> {
        let factor = Factor {
            element,
            tokens: problem.tokens,
            bytes,
        };
        let turns = |lines: StreamLines| problem.rank.div_ceil(lines.count());
        let candidates = ways.map(|(lines, splits)| {
            with_step(|step| {
                let way = Way {
                    lines,
                    step,
                    planes: problem.blocks * splits,
                    splits,
                };
                Ok(Self {
                    ring: Ring::new(client, factor, way, turns(lines))?,
                    blocks: problem.blocks,
                    splits,
                    split_ranks: problem.split.is_some(),
                })
            })
        });
        cheapest(candidates, |blueprint: &Self| {
            let shares = (blueprint.planes(), blueprint.splits);
            let lines = blueprint.ring.lines;
            let cost = blueprint.ring.cost(client, shares, bytes, turns(lines));
            // Of equals more lines, and fewer planes that meet.
            (cost, Reverse(lines.count()), blueprint.splits)
        })
    }

    /// The same with other lines, and the depth shared by another number of planes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for the cube.
    pub fn with<R: Runtime>(
        self,
        client: &ComputeClient<R>,
        problem: &CoupleProblem,
        bytes: usize,
        lines: StreamLines,
        splits: usize,
    ) -> Result<Self, KernelError> {
        let way = core::iter::once((lines, splits));
        Self::best(client, self.ring.element, problem, bytes, way)
    }

    /// Planes of a cube.
    pub fn planes(&self) -> usize {
        self.blocks * self.splits
    }

    /// Sums of all planes.
    pub fn staged(&self) -> usize {
        self.planes() * self.ring.sums()
    }

    /// Cubes of a grid for so many ranks.
    pub fn cubes<R: Runtime>(&self, client: &ComputeClient<R>, rank: usize) -> usize {
        let turns = rank.div_ceil(self.ring.lines.count());
        self.ring.cubes(client, self.planes(), turns)
    }
}
