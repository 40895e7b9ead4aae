//! Rings of stages in shared memory that some units fill and others empty.

use cubecl::prelude::*;

/// The stage of a ring that is next, and how often the ring has been round, modulo two.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Ring {
    pub stage: u32,
    pub phase: u32,
}

#[cube]
impl Ring {
    /// The first stage, not filled yet.
    pub fn start() -> Ring {
        Ring {
            stage: 0u32.runtime(),
            phase: 0u32.runtime(),
        }
    }

    /// Goes to the next of `stages`.
    pub fn advance(&mut self, #[comptime] stages: usize) {
        self.stage += 1;
        if self.stage == comptime!(stages as u32) {
            self.stage = 0;
            self.phase ^= 1;
        }
    }

    /// Leaves out `count` of `stages`, no more than there are.
    pub fn skip(&mut self, count: u32, #[comptime] stages: usize) {
        self.stage += count;
        if self.stage >= comptime!(stages as u32) {
            self.stage -= comptime!(stages as u32);
            self.phase ^= 1;
        }
    }

    /// Where [`Ring::advance`] would go.
    pub fn following(&self, #[comptime] stages: usize) -> Ring {
        let last = self.stage == comptime!(stages as u32 - 1);
        Ring {
            stage: select(last, 0u32, self.stage + 1),
            phase: select(last, self.phase ^ 1, self.phase),
        }
    }
}
