//! Rings of stages in shared memory that some units fill and others empty.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

/// Makes the barriers of a ring, by the first unit: a unit and its copies arrive at `full`, `readers` at `empty`.
#[cube]
pub(crate) fn init_barriers(
    full: &Shared<[Barrier]>,
    empty: &Shared<[Barrier]>,
    #[comptime] stages: usize,
    #[comptime] readers: u32,
) {
    if UNIT_POS == 0 {
        #[unroll]
        for stage in 0..stages {
            full[stage].init_manual(1u32);
            empty[stage].init_manual(readers);
        }
    }
}

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
