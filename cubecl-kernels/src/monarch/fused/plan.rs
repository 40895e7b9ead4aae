//! Tiles of the fused kernel.

use cubecl::prelude::*;

use crate::error::{KernelError, Missing};
use crate::product::ProductProblem;
use crate::product::mma_plan::activation_seconds;
use crate::product::wgmma_plan::{DEPTH, GROUP_ROWS, ROWS, WgmmaBlueprint};
use crate::ptx::PANEL_STEPS;

/// Two groups of four planes that multiply, and one that loads.
pub(super) const UNITS: usize = 3 * 128;

/// Terms of one product of the tensor cores.
const STEP: usize = 16;

/// Panels of the left factor in shared memory: the first number that leaves room for so many of the
/// input, or else the last.
const LEFT_STAGES: [(usize, usize); 2] = [(3, 4), (2, 2)];

/// What the times of the layers of the paper's Llama, GPT-2 and ViT on one H100 were fitted with, to
/// 13 % (llama7b.down_proj, which was left out, takes 25 % longer): seconds of a launch, of the end of a tile of 256 columns, and cycles per second.
const LAUNCH_SECONDS: f64 = 1.0e-6;
const END_SECONDS: f64 = 2.5e-6;
const CYCLES: f64 = 1.755e9;

/// Bytes per cycle of shared memory.
const SHARED_RATE: f64 = 128.0;

/// Cycles from the start of a run of products to its results, beyond those of the products.
const LATENCY: f64 = 150.0;

/// Most panels of the input in shared memory.
const MOST_STAGES: usize = 8;

/// Everything about the kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FusedBlueprint {
    /// How outputs are summed and stored; its stages are panels of the left factor.
    pub output: WgmmaBlueprint,
    /// Columns of `Z` that one input block gives to one output block: `r / b`.
    pub part: usize,
    /// Panels of the input, and of the right factor, in shared memory.
    pub inner_stages: usize,
}

impl FusedBlueprint {
    /// Fits the rings into shared memory beside the tiles of `output`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if parts are not of a width that the kernel takes, or if there is
    /// no room.
    pub fn new<R: Runtime>(
        client: &ComputeClient<R>,
        output: WgmmaBlueprint,
        part: usize,
        blocks: usize,
    ) -> Result<Self, KernelError> {
        let room = client.properties().hardware.max_shared_memory_size;
        let mut required = 0;
        let empty = Self {
            output,
            part,
            inner_stages: 0,
        };
        if !empty.takes_parts(blocks) {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        for (stages, least) in LEFT_STAGES {
            let mut blueprint = Self {
                output: WgmmaBlueprint { stages, ..output },
                ..empty
            };
            let (fixed, each) = (blueprint.shared_bytes(), blueprint.stage_bytes());
            blueprint.inner_stages = (room.saturating_sub(fixed) / each).min(MOST_STAGES);
            if blueprint.inner_stages >= least {
                return Ok(blueprint);
            }
            required = fixed + least * each;
        }
        Err(KernelError::Unavailable(Missing::SharedMemory {
            required,
            limit: room,
        }))
    }

    /// Seconds that it should take, about, for the products `inner` and `output`.
    ///
    /// What holds it back is shared memory: panels are written once, and what tensor cores read of
    /// them is read by each group of planes; then the way from the first product to the second.
    pub fn seconds<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        inner: &ProductProblem,
        output: &ProductProblem,
    ) -> f64 {
        let (columns, bytes) = (self.output.columns, self.output.element.bytes());
        let panels = inner.depth.div_ceil(DEPTH);
        let written = panels * (ROWS + self.part) * DEPTH + self.part * columns;
        let first = panels * DEPTH * (GROUP_ROWS + self.part);
        let read = 2 * (first + self.part * columns);
        let shared = ((written + read) * bytes) as f64 / SHARED_RATE;
        // A product of 16 terms takes half a cycle for each column.
        let first = panels as f64 * ((PANEL_STEPS * self.part / 2) as f64 + LATENCY);
        let chain = first + LATENCY + (self.part_steps() * columns / 2) as f64;
        let part = 0.6 * shared + 0.5 * chain + 300.0;
        // Stores are part of the end of a tile, what activations take is not.
        let activation = (ROWS * columns) as f64 * activation_seconds(output);
        let end = END_SECONDS * (columns as f64 / 256.0).powi(2) + activation;
        let waves = self.output.waves(client, output) as f64;
        LAUNCH_SECONDS + waves * (end + inner.batches as f64 * part / CYCLES)
    }

    /// Whether the kernel knows when it is compiled which panels of the left factor each part meets:
    /// never more than two, and every run of [`Self::turns`] parts is whole.
    fn takes_parts(&self, blocks: usize) -> bool {
        let turns = self.turns();
        let ends = |turn| self.first_step(turn) + self.part_steps();
        self.part.is_multiple_of(STEP)
            && blocks.is_multiple_of(turns)
            && (0..turns).all(|turn| ends(turn) <= 2 * PANEL_STEPS)
    }

    /// Products of 16 terms in a part.
    pub fn part_steps(&self) -> usize {
        self.part / STEP
    }

    /// Parts after which a panel of the left factor ends with a part.
    pub fn turns(&self) -> usize {
        let steps = self.part_steps().max(1);
        PANEL_STEPS >> steps.trailing_zeros().min(PANEL_STEPS.ilog2())
    }

    /// Where a part begins in a panel of the left factor, in products of 16 terms.
    pub fn first_step(&self, turn: usize) -> usize {
        turn * self.part_steps() % PANEL_STEPS
    }

    /// Whether the groups that multiply take registers from the one that loads.
    ///
    /// Only where the compiler is sure to give every unit the 168 that 384 units can have: with
    /// fewer to share out, the groups would wait forever.
    pub fn shares_registers(&self) -> bool {
        // Sums, those of a part, and the part as an operand.
        self.output.columns / 2 + self.part / 2 + self.part / 4 >= 160
    }

    /// Bytes of one panel of the input, that of the right factor, and their barriers.
    fn stage_bytes(&self) -> usize {
        (ROWS + self.part) * DEPTH * self.output.element.bytes() + 16
    }

    /// Bytes of shared memory of a cube, alignment included.
    fn shared_bytes(&self) -> usize {
        let bytes = self.output.element.bytes();
        let left = self.output.stages * (self.output.columns * DEPTH * bytes + 16);
        let staged = self.output.staged_elements() * bytes;
        self.inner_stages * self.stage_bytes() + left + staged + 2048
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epilogue::Finish;
    use crate::product::wgmma_plan::WgmmaStore;
    use crate::ptx::MmaElement;

    fn blueprint(columns: usize, part: usize) -> FusedBlueprint {
        let output = WgmmaBlueprint {
            columns,
            stages: 2,
            element: MmaElement::Bf16,
            store: WgmmaStore::Mapped(64),
            split: false,
            finish: Finish::default(),
            merged_pairs: false,
            rows_outermost: false,
            shares: 1,
        };
        FusedBlueprint {
            output,
            part,
            inner_stages: 4,
        }
    }

    #[test]
    fn parts_end_with_a_panel_after_their_turns() {
        let expected = [
            (16, 4),
            (32, 2),
            (48, 4),
            (64, 1),
            (80, 4),
            (96, 2),
            (128, 1),
        ];
        for (part, turns) in expected {
            let blueprint = blueprint(256, part);
            assert_eq!(blueprint.turns(), turns, "{part}");
            // What the kernel lets go of in all turns are the panels of all these parts.
            let ended = |turn| (blueprint.first_step(turn) + blueprint.part_steps()) / PANEL_STEPS;
            let ended: usize = (0..turns).map(ended).sum();
            assert_eq!(ended * DEPTH, turns * part, "{part}");
            assert!(blueprint.takes_parts(4), "{part}");
        }
    }

    #[test]
    fn other_parts_are_not_taken() {
        // No whole product; three panels for one part; parts left over.
        for (part, blocks) in [(24, 4), (112, 4), (144, 4), (192, 4), (16, 2), (96, 3)] {
            assert!(
                !blueprint(256, part).takes_parts(blocks),
                "{part}, {blocks}"
            );
        }
    }

    #[test]
    fn registers_are_shared_only_where_all_are_used() {
        assert!(blueprint(256, 64).shares_registers());
        assert!(!blueprint(256, 32).shares_registers());
        assert!(!blueprint(128, 64).shares_registers());
    }
}
