//! Tiles of the coupled product for compute capability 9.0.

use cubecl::prelude::*;

use super::plan::CoupleTile;
use crate::couple::CoupleProblem;
use crate::device::{check_cube, processors};
use crate::error::KernelError;
use crate::product::ProductProblem;
use crate::product::mma_plan::fastest;
use crate::product::wgmma_plan::{DEPTH, GROUP_ROWS, WgmmaBlueprint};
use crate::ptx::MmaElement;

/// Ranks of a cube's tile.
pub(crate) const COLUMNS: usize = GROUP_ROWS;
/// Tokens of a cube's tile.
pub(crate) const ROWS: [usize; 3] = [64, 48, 32];
/// Groups of four planes that multiply.
pub(crate) const GROUPS: u32 = 2;
/// Their units.
pub(crate) const MULTIPLYING: usize = GROUPS as usize * 128;
/// With a plane for each that loads.
pub(crate) const UNITS: usize = MULTIPLYING + GROUPS as usize * 32;

/// Most panels of each operand in shared memory for a group, and fewest.
const MOST_STAGES: usize = 6;
const LEAST_STAGES: usize = 2;

/// Seconds of a launch, of coupling a block of 64 tokens, and bytes of panels per second that a
/// multiprocessor loads: fitted to tiles of all sizes on 11 layers of the paper on one H100, to 9 % in
/// the mean (with 16 blocks it has become 5 % faster since). What limits the kernel is the way to and from
/// the second cache; more panels under way gained nothing, nor did clusters of two cubes, whether they
/// load one operand for both or divide the blocks.
const START_SECONDS: f64 = 2.0e-6;
const BLOCK_SECONDS: f64 = 0.35e-6;
const LOAD_RATE: f64 = 70e9;

/// Everything about the kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoupledWgmmaBlueprint {
    pub element: MmaElement,
    /// At most [`super::plan::MAX_BLOCKS`].
    pub blocks: usize,
    /// Tokens of a tile, one of [`ROWS`].
    pub rows: usize,
    /// Panels of each operand in shared memory, as many for each group.
    pub stages: usize,
}

impl CoupledWgmmaBlueprint {
    /// The blueprint for a product and its coupling that should be fastest, and the seconds that it
    /// should take, about.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no such tensor cores or no room for any tile, or
    /// if the operands have no layout for tensor maps.
    pub fn for_problem<R: Runtime>(
        client: &ComputeClient<R>,
        product: &ProductProblem,
        couple: &CoupleProblem,
        dtype: ElemType,
        element: MmaElement,
    ) -> Result<(Self, f64), KernelError> {
        // What any product through tensor maps asks of both operands.
        WgmmaBlueprint::candidate(0, client, product, dtype, element)?;
        CoupleTile::check_fused(couple, element)?;
        let class = product.with_rounded_tokens();
        fastest(ROWS.into_iter().map(|rows| {
            let blueprint = Self::with_rows(client, rows, couple.blocks, element)?;
            Ok((blueprint, blueprint.seconds(client, &class)))
        }))
    }

    /// The blueprint with tiles of so many tokens.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no room for it.
    fn with_rows<R: Runtime>(
        client: &ComputeClient<R>,
        rows: usize,
        blocks: usize,
        element: MmaElement,
    ) -> Result<Self, KernelError> {
        let with_stages = |stages| Self {
            element,
            blocks,
            rows,
            stages: GROUPS as usize * stages,
        };
        let room = client.properties().hardware.max_shared_memory_size;
        let mut numbers = (LEAST_STAGES..=MOST_STAGES).rev().map(with_stages);
        let found = numbers.find(|blueprint| blueprint.shared_bytes() <= room);
        let blueprint = found.unwrap_or(with_stages(LEAST_STAGES));
        check_cube(client, UNITS, blueprint.shared_bytes())?;
        Ok(blueprint)
    }

    /// Seconds that it should take, about.
    fn seconds<R: Runtime>(&self, client: &ComputeClient<R>, product: &ProductProblem) -> f64 {
        let [across, down, _] = self.couple().cubes(product.rows, product.columns);
        let waves = (across * down).div_ceil(processors(client)) as f64;
        let loaded = self.blocks * product.depth.div_ceil(DEPTH) * self.panel_bytes();
        let coupled = (self.blocks * self.rows) as f64 / 64.0;
        START_SECONDS + waves * (loaded as f64 / LOAD_RATE + coupled * BLOCK_SECONDS)
    }

    /// Cubes: one for each multiprocessor, if there are tiles for all.
    pub fn cubes<R: Runtime>(&self, client: &ComputeClient<R>, couple: &CoupleProblem) -> usize {
        let [across, down, _] = self.couple().cubes(couple.tokens, couple.rank);
        (across * down).min(processors(client))
    }

    /// The tile of `Y` and of its couplings.
    pub fn couple(&self) -> CoupleTile {
        CoupleTile {
            rows: self.rows,
            columns: COLUMNS,
            blocks: self.blocks,
            element: self.element,
            units: MULTIPLYING,
        }
    }

    /// Output blocks of which a stage takes the couplings for [`COLUMNS`] ranks: as many as it has lines for.
    pub fn piece(&self) -> usize {
        (COLUMNS / self.blocks).min(self.blocks)
    }

    /// Stages that the couplings of a tile take.
    pub fn pieces(&self) -> usize {
        self.blocks.div_ceil(self.piece())
    }

    /// Bytes of shared memory of a cube, with alignment and barriers.
    pub fn shared_bytes(&self) -> usize {
        self.couple().panels_start() + self.stages * self.panel_bytes() + 1024
    }

    /// Bytes of a panel of both operands.
    fn panel_bytes(&self) -> usize {
        (self.rows + COLUMNS) * DEPTH * self.element.bytes()
    }
}
