//! From what the caller asks to the kernels that run.

use cubecl::ir::FloatKind;
use cubecl::prelude::*;

use super::problem::{CoupleGradientProblem, CoupleProblem};
use crate::coupled_product::plan::CoupleTile;
use crate::device::{check_cube, mma_element};
use crate::error::{KernelError, Missing};
use crate::operand::View;
use crate::ptx::MmaElement;
use crate::strategy::Strategy;

/// Tokens up to which one unit per output is faster: there is nothing to share yet.
const FEW_TOKENS: usize = 16;
/// `f32` sums that a unit keeps in registers.
const SUMS: usize = 64;
/// Blocks that a unit of the tiled kernel sums at once, at most.
const MAX_BLOCKS: usize = 16;

/// The kernel for one coupling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CouplePlan {
    /// [`super::kernel::naive`].
    Naive,
    /// [`super::kernel::tiled`].
    Tiled(CoupleBlueprint),
    /// [`crate::coupled_product::couple`].
    Mma(CoupleTile),
}

/// Everything about the tiled kernel that is known when it is compiled.
///
/// A unit sums `outputs` blocks for `tokens` tokens and `vector` neighbouring ranks: each source
/// element is read once for all output blocks, and each coupling once for several tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoupleBlueprint {
    /// Output blocks per unit.
    pub outputs: usize,
    /// Tokens per unit.
    pub tokens: usize,
    /// Ranks per unit.
    pub vector: usize,
}

impl CoupleBlueprint {
    /// Fits the unit's tile to the block count and the rank; both belong to the layer.
    fn for_problem(problem: &CoupleProblem, element_bytes: usize) -> Self {
        let outputs = problem.blocks;
        let views = [problem.coupling, problem.source, problem.out];
        let fits = |vector: &usize| {
            outputs * vector <= SUMS / 2
                && problem.rank.is_multiple_of(*vector)
                && views.iter().all(|view: &View| {
                    view.column == 1
                        && view.allows_vectors(*vector, element_bytes, [view.batch, view.row])
                })
        };
        let vector = [4, 2].into_iter().find(fits).unwrap_or(1);
        let tokens = (SUMS / (outputs * vector)).clamp(1, 4);
        Self {
            outputs,
            tokens,
            vector,
        }
    }

    /// Work items: one per unit.
    pub fn items(&self, problem: &CoupleProblem) -> usize {
        problem.tokens.div_ceil(self.tokens) * (problem.rank / self.vector)
    }
}

impl CouplePlan {
    /// Chooses the kernel for `problem`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what `strategy` asks for.
    pub fn new<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &CoupleProblem,
        dtype: ElemType,
        element_bytes: usize,
        strategy: &Strategy,
    ) -> Result<Self, KernelError> {
        let tiled = || match problem.blocks {
            // A unit's sums would not fit its registers.
            blocks if blocks > MAX_BLOCKS => CouplePlan::Naive,
            _ => CouplePlan::Tiled(CoupleBlueprint::for_problem(problem, element_bytes)),
        };
        let without = || match problem.tokens {
            ..=FEW_TOKENS => CouplePlan::Naive,
            _ => tiled(),
        };
        let tensor_cores = || {
            let element = mma_element(client, dtype)?;
            if element == MmaElement::Tf32 {
                // Couplings are never rounded to tf32: there would be little to gain.
                return Ok(tiled());
            }
            let tile = CoupleTile::new(problem, element)?;
            check_cube(client, tile.units, tile.standing_bytes())?;
            Ok(CouplePlan::Mma(tile))
        };
        match strategy {
            Strategy::Naive => Ok(CouplePlan::Naive),
            Strategy::Tiled => Ok(tiled()),
            Strategy::TensorCores | Strategy::Hopper | Strategy::Fused => tensor_cores(),
            // Only here may the device choose: it may lack tensor cores, or room for the tile.
            Strategy::Auto | Strategy::Tuned if element_bytes > MmaElement::Bf16.bytes() => {
                Ok(without())
            }
            Strategy::Auto | Strategy::Tuned => match tensor_cores() {
                Err(KernelError::Unavailable(_)) => Ok(without()),
                planned => planned,
            },
        }
    }
}

/// The kernel for the gradient of the couplings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CoupleGradientPlan {
    /// [`super::kernel::gradient_naive`].
    Naive,
    /// [`super::kernel::gradient_tiled`].
    Tiled(CoupleGradientBlueprint),
    /// [`super::kernel::gradient_mma`].
    Mma(CoupleGradientTile),
}

/// Planes of a cube of the gradient kernel for tensor cores: a unit for each pair of blocks.
pub(crate) const GRADIENT_PLANES: usize = 8;

/// Everything about the gradient kernel for tensor cores that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoupleGradientTile {
    /// At most 16.
    pub blocks: usize,
    /// Of 16 bits.
    pub element: MmaElement,
}

impl CoupleGradientTile {
    /// The tile for `problem`, which must have 16-bit elements, at most 16 blocks, and ranks that
    /// can be loaded eight at a time.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the problem is not so, or the device has no room.
    fn new<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &CoupleGradientProblem,
        element: MmaElement,
    ) -> Result<Self, KernelError> {
        let octets = |view: View| {
            view.column == 1 && view.allows_vectors(8, element.bytes(), [view.batch, view.row])
        };
        let possible = element != MmaElement::Tf32
            && problem.blocks <= MAX_BLOCKS
            && problem.rank.is_multiple_of(8)
            && [problem.grad, problem.source, problem.out]
                .into_iter()
                .all(octets);
        if !possible {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        let tile = Self {
            blocks: problem.blocks,
            element,
        };
        check_cube(client, tile.units(), tile.shared_bytes())?;
        Ok(tile)
    }

    /// Groups of eight blocks.
    pub fn halves(&self) -> usize {
        self.blocks.div_ceil(8)
    }

    /// Units in a cube.
    pub fn units(&self) -> usize {
        GRADIENT_PLANES * 32
    }

    /// Bytes of shared memory: the sums of every plane, for eight ranks.
    pub fn shared_bytes(&self) -> usize {
        GRADIENT_PLANES * 8 * self.halves() * 32 * 16
    }
}

/// Everything about the tiled gradient kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoupleGradientBlueprint {
    /// Output blocks, and input blocks, whose pairs a unit sums.
    pub pairs: usize,
    /// Neighbouring ranks of a cube, one per unit.
    pub ranks: usize,
    /// Units of a cube that share the tokens.
    pub lanes: usize,
}

impl CoupleGradientBlueprint {
    /// Units in a cube.
    pub fn units(&self) -> usize {
        self.ranks * self.lanes
    }

    /// Elements of shared memory, for one sum per pair and unit.
    pub fn stage_elements(&self) -> usize {
        self.pairs * self.pairs * self.units()
    }
}

impl CoupleGradientPlan {
    /// Chooses the kernel.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what `strategy` asks for.
    pub fn new<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &CoupleGradientProblem,
        dtype: ElemType,
        strategy: &Strategy,
    ) -> Result<Self, KernelError> {
        let tiled = || {
            let pairs = problem.blocks.min(4);
            let blueprint = CoupleGradientBlueprint {
                pairs,
                ranks: 32,
                lanes: 8,
            };
            let bytes = blueprint.stage_elements() * size_of::<f32>();
            check_cube(client, blueprint.units(), bytes)?;
            Ok(CoupleGradientPlan::Tiled(blueprint))
        };
        let tensor_cores = || {
            let element = mma_element(client, dtype)?;
            CoupleGradientTile::new(client, problem, element).map(CoupleGradientPlan::Mma)
        };
        let exact = dtype == ElemType::Float(FloatKind::F32);
        match strategy {
            Strategy::Naive => Ok(CoupleGradientPlan::Naive),
            Strategy::Tiled => tiled(),
            // Couplings are never rounded to tf32: there would be little to gain.
            Strategy::TensorCores | Strategy::Hopper | Strategy::Fused if exact => tiled(),
            Strategy::TensorCores | Strategy::Hopper | Strategy::Fused => tensor_cores(),
            // Only here may the device choose: it may lack tensor cores, or room for a cube.
            Strategy::Auto | Strategy::Tuned => {
                let planned = if exact {
                    tiled()
                } else {
                    tensor_cores().or_else(|_| tiled())
                };
                planned.or(Ok(CoupleGradientPlan::Naive))
            }
        }
    }
}
