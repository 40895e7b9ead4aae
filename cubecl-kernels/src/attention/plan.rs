//! Which kernel serves an attention.

use cubecl::prelude::*;

use super::problem::{AttentionProblem, OwnRows, Visible};
use crate::context::Context;
use crate::device::{check_cube, clusters, mma_element, processors, shuffles};
use crate::error::{KernelError, Missing};
use crate::mma::panel::Panel;
use crate::over_units::OverUnits;
use crate::product::Along;
use crate::ptx::MmaElement;
use crate::strategy::Strategy;

/// Keys of one step of the running softmax.
pub(crate) const STEP_KEYS: usize = 64;

/// Widest head that the sums of a plane fit its registers for.
const MAX_WIDTH: usize = 128;

/// Keys whose weights are in shared memory at a time, for a single query.
pub(crate) const WEIGHTS: usize = 1024;

/// Keys and values of a step of a plane's ring, for a single query.
pub(crate) const RING_KEYS: usize = 8;

/// Bytes of a copy to a ring, or of an appended row to the cache: so many elements have to be a piece of a row.
pub(crate) const COPY_BYTES: usize = 16;

/// Bytes of the rings of a cube that leave room for three cubes in a multiprocessor of compute capability
/// 9.0. Clusters of eight with two cubes a multiprocessor are two waves on an H100 of 132, whose groups of
/// multiprocessors do not all hold the same number of clusters: Llama 7B with 1024 keys 15 us, with three 12.
const RING_BYTES: usize = 64 << 10;

/// Most steps in a ring: more than the latency of memory asks for are of no use.
const MAX_STAGES: usize = 6;

/// Units of a cube for a single query.
const SINGLE_UNITS: usize = 256;

/// The same of a cube that has rings.
const RING_UNITS: usize = 128;

/// Fewest keys of a cube for a single query, where several divide the keys of a head.
const SHARED_KEYS: usize = 64;

/// Most cubes that divide the keys of a head: each is one more pass when they are joined.
const MAX_SPLITS: usize = 16;

/// Most cubes of a cluster, on every device that has any.
const MAX_CLUSTER: usize = 8;

/// Cubes that divide the keys of each of `heads` heads, for a single query: enough for every
/// multiprocessor to have two.
pub(crate) fn splits<R: Runtime>(client: &ComputeClient<R>, heads: usize, keys: usize) -> usize {
    let by_device = (2 * processors(client)).div_ceil(heads.max(1));
    let most = if clusters(client) {
        MAX_CLUSTER
    } else {
        MAX_SPLITS
    };
    by_device.min(keys.div_ceil(SHARED_KEYS)).clamp(1, most)
}

/// How an attention is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttentionPlan {
    /// Tiles of queries by tensor cores.
    Flash(FlashBlueprint),
    /// One cube for the only query of a head, or several.
    Single(SingleBlueprint),
}

/// Everything about the tensor-core kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlashBlueprint {
    pub element: MmaElement,
    /// Features of a head.
    pub width: usize,
    /// Planes of a cube; each has 16 queries.
    pub planes: usize,
    /// Bytes of one copy.
    pub copy_bytes: usize,
    pub visible: Visible,
    /// Whether keys and values of the queries' own tokens come with them.
    pub own: bool,
}

impl FlashBlueprint {
    /// Queries of a cube.
    pub fn rows(&self) -> usize {
        16 * self.planes
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        32 * self.planes
    }

    /// Products of 16 features, the last one padded with zeros.
    pub fn feature_steps(&self) -> usize {
        self.width.div_ceil(16)
    }

    /// Panels of 64 features that hold a head.
    pub fn panels(&self) -> usize {
        self.width.div_ceil(64)
    }

    fn panel(&self, lines: usize, along: Along) -> Panel {
        Panel {
            lines,
            along,
            copy_bytes: self.copy_bytes,
            element: self.element,
            units: self.units(),
            every: 1,
        }
    }

    /// 64 features of the queries.
    pub fn query_panel(&self) -> Panel {
        self.panel(self.rows(), Along::Depth)
    }

    /// 64 features of the keys of a step.
    pub fn key_panel(&self) -> Panel {
        self.panel(STEP_KEYS, Along::Depth)
    }

    /// All features of the values of a step.
    pub fn value_panel(&self) -> Panel {
        self.panel(64 * self.panels(), Along::Lines)
    }

    /// Bytes of the queries.
    pub fn query_bytes(&self) -> usize {
        self.panels() * self.query_panel().bytes()
    }

    /// Bytes of the keys of a step; its values take as many.
    pub fn step_bytes(&self) -> usize {
        self.panels() * self.key_panel().bytes()
    }

    /// Bytes of shared memory: the queries, and keys and values of two steps.
    pub fn shared_bytes(&self) -> usize {
        self.query_bytes() + 4 * self.step_bytes()
    }

    /// Checks that the device can run it.
    fn validate<R: Runtime>(&self, context: &Context<'_, R>) -> Result<(), KernelError> {
        let panels = [self.query_panel(), self.key_panel(), self.value_panel()];
        if panels.iter().any(|panel| !panel.is_valid()) {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        check_cube(context.client, self.units(), self.shared_bytes())
    }
}

/// Everything about the kernel for one query that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SingleBlueprint {
    /// Features of a head.
    pub width: usize,
    /// Elements that are read at a time.
    pub vector: usize,
    /// Units of a cube.
    pub units: usize,
    /// Neighbouring units that read a key together, a power of two in a plane; of no account to a ring.
    pub lanes: usize,
    /// Steps of keys and values in the ring of each plane; none where units load what they use.
    pub stages: usize,
    /// Cubes that divide the keys of a head.
    pub splits: usize,
    pub visible: Visible,
    /// Whether key and value of the query's own token come with it.
    pub own: bool,
}

impl SingleBlueprint {
    /// Reads of one row.
    pub fn pieces(&self) -> usize {
        self.width / self.vector
    }

    /// Groups of units that share the keys when values are summed.
    pub fn groups(&self) -> usize {
        self.units / self.pieces()
    }

    /// How units that have no rings reduce what they have.
    pub fn over_units(&self) -> OverUnits {
        OverUnits {
            units: self.units,
            shuffles: self.lanes > 1,
        }
    }

    /// Vectors of the sums of all groups.
    pub fn sums(&self) -> usize {
        self.groups() * self.pieces()
    }

    /// Planes of a cube that has rings.
    pub fn planes(&self) -> usize {
        self.units / 32
    }

    /// Values that a plane with a ring reads at a time.
    pub fn value_groups(&self) -> usize {
        32 / self.pieces()
    }

    /// Bytes of a step of keys and values.
    pub fn stage_bytes(&self) -> usize {
        2 * RING_KEYS * self.pieces() * COPY_BYTES
    }

    /// Bytes of the rings of all planes.
    pub fn ring_bytes(&self) -> usize {
        self.planes() * self.stages * self.stage_bytes()
    }

    /// The same with rings, if rows come in pieces of their copies, and a plane reads one at a time.
    fn with_rings(self, element_bytes: usize) -> Option<Self> {
        let fits = self.vector * element_bytes == COPY_BYTES && self.pieces() <= 32;
        let units = RING_UNITS;
        let one = Self { units, ..self }.planes() * self.stage_bytes();
        let stages = (RING_BYTES / one).clamp(2, MAX_STAGES);
        let rings = Self {
            units,
            stages,
            ..self
        };
        fits.then_some(rings)
    }

    /// Checks that the row of the query's own token can be turned by halves.
    fn check_own(&self, own: &OwnRows) -> Result<(), KernelError> {
        let halves = own
            .angles
            .is_none_or(|angles| angles.aligned && self.pieces().is_multiple_of(2));
        match halves {
            true => Ok(()),
            false => Err(KernelError::Unavailable(Missing::TensorLayout)),
        }
    }

    /// Vectors of the query, and of key and value of its own token.
    pub fn rows(&self) -> usize {
        if self.own {
            3 * self.pieces()
        } else {
            self.pieces()
        }
    }

    /// Bytes of shared memory: rings and an end for each plane, or the query, weights and what units reduce
    /// through; the sums of all groups, and what a cluster is joined in.
    pub fn shared_bytes(&self) -> usize {
        let joined = self.groups() * self.width + self.width + 2;
        match self.stages {
            0 => {
                let entries = self.over_units().entries();
                size_of::<f32>() * (self.width + WEIGHTS + entries + joined)
            }
            _ => {
                let rows = self.rows() * COPY_BYTES;
                self.ring_bytes() + rows + size_of::<f32>() * (2 * self.planes() + joined)
            }
        }
    }
}

impl AttentionPlan {
    /// Plans `problem`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] where no kernel serves it.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        problem: &AttentionProblem,
    ) -> Result<Self, KernelError> {
        let bytes = context.element_bytes;
        let exact = matches!(context.strategy, Strategy::Naive | Strategy::Tiled);
        if problem.tokens == 1 {
            let registers = SingleBlueprint {
                width: problem.width,
                vector: problem.vector(16 / bytes, bytes),
                units: SINGLE_UNITS,
                lanes: if shuffles(context.client) { 8 } else { 1 },
                stages: 0,
                splits: splits(context.client, problem.batch * problem.heads, problem.keys),
                visible: problem.visible,
                own: false,
            };
            if registers.groups() == 0 {
                return Err(KernelError::Unavailable(Missing::TensorLayout));
            }
            let check = |blueprint: &SingleBlueprint| {
                check_cube(context.client, blueprint.units, blueprint.shared_bytes())
            };
            // Copies that units do not wait for come with tensor cores.
            let copies = mma_element(context.client, context.dtype);
            let rings = registers.with_rings(bytes);
            if let Some(own) = &problem.own {
                copies?;
                if !clusters(context.client) {
                    return Err(KernelError::Unavailable(Missing::Clusters));
                }
                let blueprint = rings.ok_or(KernelError::Unavailable(Missing::TensorLayout))?;
                blueprint.check_own(own)?;
                let blueprint = SingleBlueprint {
                    own: true,
                    ..blueprint
                };
                return check(&blueprint).map(|()| Self::Single(blueprint));
            }
            let rings = rings.filter(|rings| !exact && copies.is_ok() && check(rings).is_ok());
            let blueprint = match rings {
                Some(rings) => rings,
                None => check(&registers).map(|()| registers)?,
            };
            return Ok(Self::Single(blueprint));
        }
        let element = mma_element(context.client, context.dtype)?;
        let copy_bytes = problem.vector(8, bytes) * bytes;
        // Weights are rounded to the element type before they multiply the values; in tf32 that
        // would cost f32 its precision.
        if exact || element == MmaElement::Tf32 {
            return Err(KernelError::Unavailable(Missing::TensorCores(
                context.dtype,
            )));
        }
        // Own rows that turn would be turned by every cube that reads them.
        let whole = |own: &OwnRows| own.angles.is_none() && copy_bytes == COPY_BYTES;
        let own_fits = problem.own.as_ref().is_none_or(whole);
        if copy_bytes < 4 || problem.width > MAX_WIDTH || !own_fits {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        let blueprint = FlashBlueprint {
            element,
            width: problem.width,
            planes: 4,
            copy_bytes,
            visible: problem.visible,
            own: problem.own.is_some(),
        };
        blueprint.validate(context)?;
        Ok(Self::Flash(blueprint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With fewer, clusters of eight for each of 32 heads are two waves on an H100.
    #[test]
    fn three_cubes_with_rings_fit_a_multiprocessor() -> Result<(), KernelError> {
        // Of compute capability 9.0, by the CUDA programming guide; each cube takes 1 KiB more.
        let (room, reserved) = (228 << 10, 1 << 10);
        for (width, element_bytes) in [(64, 2), (128, 2), (128, 4)] {
            let registers = SingleBlueprint {
                width,
                vector: COPY_BYTES / element_bytes,
                units: SINGLE_UNITS,
                lanes: 8,
                stages: 0,
                splits: MAX_CLUSTER,
                visible: Visible::Causal,
                own: true,
            };
            let rings = registers.with_rings(element_bytes);
            let rings = rings.ok_or(KernelError::Unavailable(Missing::TensorLayout))?;
            let bytes = rings.shared_bytes();
            assert!(3 * (bytes + reserved) <= room, "{width}: {bytes}");
        }
        Ok(())
    }
}
