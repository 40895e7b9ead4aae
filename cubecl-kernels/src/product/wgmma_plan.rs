//! Tiles of the product for compute capability 9.0.

use cubecl::ir::features::Tma;
use cubecl::prelude::*;

use super::mma_plan::{activation_seconds, fastest, store_bytes};
use super::problem::{ProductProblem, TokenAxis};
use crate::device::{check_cube, clusters, processors};
use crate::epilogue::Finish;
use crate::error::{KernelError, Missing};
use crate::operand::View;
use crate::ptx::MmaElement;
use crate::stream::plan::streams;

/// Rows of a tile.
pub(crate) const ROWS: usize = 128;
/// Rows of a group of four planes.
pub(crate) const GROUP_ROWS: usize = 64;
/// Terms of each sum in one stage: 128 bytes, the width of the swizzle.
pub(crate) const DEPTH: usize = 64;
/// Columns of the output tile that a group of planes stages at a time.
pub(crate) const CHUNK: usize = 64;
/// Bytes from one staged row to the next where rows are copied out: the extra bytes move the rows
/// that a plane writes at once to different banks.
pub(crate) const CHUNK_PITCH: usize = CHUNK * 2 + 16;
/// Two groups that multiply, and a plane that loads.
pub(crate) const UNITS: usize = 2 * 128 + 32;

/// Everything about the kernel that is known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WgmmaBlueprint {
    /// Columns of a tile: a multiple of 8 from 64 to 256.
    pub columns: usize,
    /// Panels of each operand in shared memory.
    pub stages: usize,
    pub element: MmaElement,
    pub store: WgmmaStore,
    /// Whether the columns of `C` are split.
    pub split: bool,
    pub finish: Finish,
    /// Whether neighbouring elements of what is merged can be loaded together.
    pub merged_pairs: bool,
    /// Whether tiles walk all blocks of some rows before the next rows, not all rows of a block
    /// before the next block.
    pub rows_outermost: bool,
    /// Cubes of a cluster that share the depth of a tile; with one, a cube stays for several tiles.
    pub shares: usize,
}

/// How a tile reaches device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WgmmaStore {
    /// Through a tensor map, in boxes of this many columns: 64, 32 or 16. Nothing waits for it.
    Mapped(usize),
    /// By the units, this many bytes at a time.
    Copied(usize),
}

impl WgmmaStore {
    /// The best that the layout of `C` allows.
    fn for_problem(problem: &ProductProblem, element: MmaElement) -> Self {
        let bytes = element.bytes();
        let (out, width) = (problem.out, 16 / bytes);
        let mappable = out.column == 1 && out.allows_vectors(width, bytes, [out.batch, out.row]);
        let boxed = |columns: &usize| {
            problem.split.is_none_or(|split| {
                split.width.is_multiple_of(*columns) && split.stride.is_multiple_of(width)
            })
        };
        match [CHUNK, CHUNK / 2, CHUNK / 4].into_iter().find(boxed) {
            Some(columns) if mappable => WgmmaStore::Mapped(columns),
            _ => WgmmaStore::Copied(store_bytes(problem, bytes)),
        }
    }

    /// Columns of a box; nothing copied has boxes.
    pub fn box_columns(self) -> usize {
        match self {
            WgmmaStore::Mapped(columns) => columns,
            WgmmaStore::Copied(_) => CHUNK,
        }
    }

    /// Bytes of a copy; a map takes no copies.
    pub fn copy_bytes(self) -> usize {
        match self {
            WgmmaStore::Mapped(_) => 16,
            WgmmaStore::Copied(bytes) => bytes,
        }
    }

    /// What the columns of a tile have to be a multiple of, so that no run or box crosses parts.
    fn granularity(self, problem: &ProductProblem) -> usize {
        match self {
            WgmmaStore::Mapped(columns) if problem.split.is_some() => columns,
            _ => 8,
        }
    }
}

/// Whether every even column of what is merged starts an aligned pair of elements.
fn pairs(problem: &ProductProblem, element: MmaElement) -> bool {
    let merged = problem.merged;
    let others = [merged.batch, merged.row];
    merged.column == 1
        && problem.columns.is_multiple_of(2)
        && merged.allows_vectors(2, element.bytes(), others)
}

/// Rows from which on tiles walk rows outermost, if the factors take no more than these bytes of
/// cache: 16384 tokens through 9 blocks were 5 % faster so on an H100, 1024 tokens through 16
/// blocks up to 12 % slower.
const MANY_ROWS: usize = 4096;
const CACHED_BYTES: usize = 16 << 20;

/// Columns of tiles, and the TFLOP/s that they reached on one H100, bf16, with every multiprocessor busy: in products
/// 4096 x 4096 x 4096, of the narrow one in those that [`START_SECONDS`] and the others are fitted to.
const RATES: [(usize, f64); 3] = [(256, 751.0), (128, 658.0), (64, 650.0)];

/// Which tiles, and who computes one.
struct Candidate {
    /// Most columns.
    columns: usize,
    /// Cubes that share the depth.
    shares: usize,
}

impl Candidate {
    const fn new(columns: usize, shares: usize) -> Self {
        Self { columns, shares }
    }

    /// Columns of a tile for `problem`: no more than needed to cover all in the same number of tiles.
    fn columns_for(&self, problem: &ProductProblem, granularity: usize) -> usize {
        let tiles = problem.columns.div_ceil(self.columns);
        let columns = problem.columns.div_ceil(tiles);
        columns
            .next_multiple_of(granularity)
            .clamp(LEAST_COLUMNS, self.columns)
    }
}

/// Fewest columns of a tile.
const LEAST_COLUMNS: usize = CHUNK;

/// Tried by [`WgmmaBlueprint::for_problem`]; those that share the depth are for few tiles of great depth.
///
/// 128 columns shared by four or eight cubes were behind these wherever sharing gains.
const CANDIDATES: [Candidate; 7] = [
    Candidate::new(256, 1),
    Candidate::new(128, 1),
    Candidate::new(64, 1),
    Candidate::new(128, 2),
    Candidate::new(64, 2),
    Candidate::new(64, 4),
    Candidate::new(64, 8),
];

/// TFLOP/s of tiles of so many columns, between those of [`RATES`].
fn rate(columns: usize) -> f64 {
    let between = RATES.windows(2).map(|pair| {
        let ((wide, high), (narrow, low)) = (pair[0], pair[1]);
        let share = (columns as f64 - narrow as f64) / (wide - narrow) as f64;
        (share, low + share * (high - low))
    });
    let mut inside = between.filter(|(share, _)| (0.0..=1.0).contains(share));
    inside.next().map_or(RATES[0].1, |(_, rate)| rate)
}

/// Most panels of each operand in shared memory.
const MOST_STAGES: usize = 8;

/// Outputs that a unit stores together where cubes share the depth.
pub(crate) const STORED: usize = 8;

/// Seconds from the start of a launch to the first product; of a tile beside its products; and to store one
/// output. About, fitted as in [`super::mma_plan`].
const START_SECONDS: f64 = 2.1e-6;
const TILE_SECONDS: f64 = 0.29e-6;
const STORE_SECONDS: f64 = 2.7e-11;

/// Where cubes share the depth: seconds for every doubling of their number, and for one output to be handed over,
/// about.
const SHARE_SECONDS: f64 = 0.6e-6;
const HAND_SECONDS: f64 = 1.2e-10;

/// Bytes per second from the second cache to one multiprocessor, and to all of an H100 where neighbours read
/// different panels; of factors from memory; and FLOP/s of one multiprocessor that waits for none of them. About.
const PORT_RATE: f64 = 118e9;
const CACHE_RATE: f64 = 9e12;
const MEMORY_RATE: f64 = 2.2e12;
const PEAK_RATE: f64 = 7.9e12;

impl WgmmaBlueprint {
    /// The candidate that should be fastest for `problem`, and the seconds it should take, about.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device has no such tensor cores or no room for any
    /// candidate, or if the operands have no layout for tensor maps.
    pub fn for_problem<R: Runtime>(
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        dtype: ElemType,
        element: MmaElement,
    ) -> Result<(Self, f64), KernelError> {
        let candidate = |index| Self::candidate(index, client, problem, dtype, element);
        fastest((0..Self::CANDIDATES).map(candidate))
    }

    /// Number of candidates.
    pub const CANDIDATES: usize = CANDIDATES.len();

    /// A candidate for `problem`, and the seconds it should take, about.
    ///
    /// # Errors
    ///
    /// As [`WgmmaBlueprint::for_problem`].
    pub fn candidate<R: Runtime>(
        index: usize,
        client: &ComputeClient<R>,
        problem: &ProductProblem,
        dtype: ElemType,
        element: MmaElement,
    ) -> Result<(Self, f64), KernelError> {
        let tma = &client.properties().features.tma;
        // The instructions exist on compute capability 9.0 alone; later ones have wider copies.
        if !tma.contains(Tma::Base) || tma.contains(Tma::Im2colWide) {
            return Err(KernelError::Unavailable(Missing::TensorCores(dtype)));
        }
        let (lhs, rhs) = (problem.lhs, problem.rhs);
        let mapped = |view: View, line: usize, depth: usize| {
            streams(view, line, depth, problem.depth, element)
        };
        let possible = element != MmaElement::Tf32
            && problem.tokens == TokenAxis::Rows
            && mapped(lhs, lhs.row, lhs.column)
            && mapped(rhs, rhs.column, rhs.row);
        if !possible {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        let class = problem.with_rounded_tokens();
        let factors = problem.batches * problem.columns * problem.depth * element.bytes();
        let candidate = &CANDIDATES[index];
        let (shares, steps) = (candidate.shares, class.depth.div_ceil(DEPTH));
        let store = match shares {
            1 => WgmmaStore::for_problem(problem, element),
            _ => WgmmaStore::Copied(store_bytes(problem, element.bytes())),
        };
        if shares > 1 {
            if !clusters(client) {
                return Err(KernelError::Unavailable(Missing::Clusters));
            }
            // Of fewer steps there is nothing to share.
            if store.copy_bytes() < STORED * element.bytes() || steps < 2 * shares {
                return Err(KernelError::Unavailable(Missing::TensorLayout));
            }
        }
        let columns = candidate.columns_for(problem, store.granularity(problem));
        let mut blueprint = Self {
            columns,
            stages: 0,
            element,
            store,
            split: problem.split.is_some(),
            finish: problem.finish,
            merged_pairs: pairs(problem, element),
            rows_outermost: class.rows >= MANY_ROWS && factors <= CACHED_BYTES,
            shares,
        };
        let room = client.properties().hardware.max_shared_memory_size;
        let room = room.saturating_sub(blueprint.shared_bytes());
        blueprint.stages = (room / blueprint.stage_bytes()).min(MOST_STAGES);
        if blueprint.stages < 2 {
            check_cube(
                client,
                UNITS,
                blueprint.shared_bytes() + 2 * blueprint.stage_bytes(),
            )?;
        }
        let waves = blueprint.waves(client, &class) as f64;
        let steps = steps.div_ceil(shares) as f64;
        let outputs = (ROWS * columns) as f64;
        let output = STORE_SECONDS + activation_seconds(problem);
        let end = TILE_SECONDS + outputs / shares as f64 * output;
        let flops = (2 * ROWS * columns * DEPTH) as f64;
        let seconds = match shares {
            1 => waves * (end + steps * flops / (rate(columns) * 1e12 / 132.0)),
            _ => {
                let bytes = blueprint.stage_bytes() as f64;
                let cubes = blueprint.cubes(client, &class).min(processors(client)) as f64;
                let loads = (bytes / PORT_RATE).max(cubes * bytes / CACHE_RATE);
                let sums = waves * steps * loads.max(flops / PEAK_RATE);
                let end = end + (shares as f64).log2() * SHARE_SECONDS + outputs * HAND_SECONDS;
                waves * end + sums.max(factors as f64 / MEMORY_RATE)
            }
        };
        Ok((blueprint, START_SECONDS + seconds))
    }

    /// Name of a candidate in stored results.
    pub fn candidate_name(index: usize) -> String {
        let Candidate { columns, shares } = CANDIDATES[index];
        match shares {
            1 => format!("wgmma {columns}"),
            _ => format!("wgmma {columns} / {shares}"),
        }
    }

    /// Tiles of all blocks.
    pub fn tiles(&self, problem: &ProductProblem) -> usize {
        problem.batches * problem.rows.div_ceil(ROWS) * problem.columns.div_ceil(self.columns)
    }

    /// Cubes: one for each multiprocessor, if there are tiles for all, or a cluster for each tile.
    pub fn cubes<R: Runtime>(&self, client: &ComputeClient<R>, problem: &ProductProblem) -> usize {
        match self.shares {
            1 => self.tiles(problem).min(processors(client)),
            shares => self.tiles(problem) * shares,
        }
    }

    /// Tiles that some cube computes one after the other, or clusters that some come after.
    pub fn waves<R: Runtime>(&self, client: &ComputeClient<R>, problem: &ProductProblem) -> usize {
        let room = match self.shares {
            1 => processors(client),
            2 => processors(client) / 2,
            // Groups of multiprocessors do not all divide into clusters: an H100 has room for 30 of four, 15 of eight.
            shares => (processors(client) * 10 / (11 * shares)).max(1),
        };
        self.tiles(problem).div_ceil(room)
    }

    /// Bytes from one row of sums to the next where cubes share the depth: the extra bytes move the rows that a
    /// plane writes at once to different banks.
    pub fn sums_pitch(&self) -> usize {
        self.columns * size_of::<f32>() + 32
    }

    /// Elements of shared memory for what cubes that share the depth hand to one of them: from each, some rows.
    pub fn handed_sums(&self) -> usize {
        match self.shares {
            1 => 0,
            _ => ROWS * self.sums_pitch() / size_of::<f32>(),
        }
    }

    /// Chunks of columns that a tile is stored in.
    pub fn chunks(&self) -> usize {
        self.columns.div_ceil(CHUNK)
    }

    /// First column of a chunk in its tile: the last one may repeat columns of the one before.
    pub fn chunk_start(&self, chunk: usize) -> usize {
        (chunk * CHUNK).min(self.columns - CHUNK)
    }

    /// Elements of shared memory that outputs are staged in.
    pub fn staged_elements(&self) -> usize {
        match self.store {
            _ if self.shares > 1 => 0,
            // Two chunks for each group.
            WgmmaStore::Mapped(_) => 2 * 2 * GROUP_ROWS * CHUNK,
            WgmmaStore::Copied(_) => 2 * GROUP_ROWS * CHUNK_PITCH / self.element.bytes(),
        }
    }

    /// Bytes of the panels of one stage and their barriers.
    fn stage_bytes(&self) -> usize {
        (ROWS + self.columns) * DEPTH * self.element.bytes() + 16
    }

    /// Bytes of shared memory of a cube, alignment included.
    fn shared_bytes(&self) -> usize {
        let outputs = self.staged_elements() * self.element.bytes();
        let handed = self.handed_sums() * size_of::<f32>();
        self.stages * self.stage_bytes() + outputs + handed + 1024
    }
}
