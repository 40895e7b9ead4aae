//! The tile of one operand in shared memory.

use cubecl::prelude::*;

use crate::product::Along;
use crate::ptx::{
    MmaElement, Quad, copy_async, load_matrices, load_matrices_transposed, load_shared,
    round_to_tf32,
};

/// Bytes of depth in a panel, for each of its lines.
pub(crate) const DEPTH_BYTES: usize = 128;

/// Everything about a panel that is known when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Panel {
    /// Rows of `A`, or columns of `B`.
    pub lines: usize,
    /// The axis that is contiguous in device memory, and in the panel.
    pub along: Along,
    /// Bytes per copy: 4, 8 or 16.
    pub copy_bytes: usize,
    /// Element type.
    pub element: MmaElement,
    /// Units that share the copies.
    pub units: usize,
    /// Panels from one that these units copy to their next.
    pub every: usize,
}

impl Panel {
    /// Terms of each sum in a panel.
    pub fn depth(&self) -> usize {
        DEPTH_BYTES / self.element.bytes()
    }

    /// Bytes of shared memory.
    pub fn bytes(&self) -> usize {
        self.lines * DEPTH_BYTES
    }

    /// Bytes from one line to the next, or one depth to the next, whichever is not contiguous.
    fn pitch(&self) -> usize {
        match self.along {
            Along::Depth => DEPTH_BYTES,
            Along::Lines => self.lines * self.element.bytes(),
        }
    }

    /// Copies per contiguous run of the panel.
    fn pieces(&self) -> usize {
        self.pitch() / self.copy_bytes
    }

    /// Copies of each unit.
    pub fn copies(&self) -> usize {
        (self.bytes() / self.copy_bytes).div_ceil(self.units)
    }

    /// Copies of all units.
    fn total(&self) -> usize {
        self.bytes() / self.copy_bytes
    }

    /// Whether the last copies are made by some of the units only.
    fn uneven(&self) -> bool {
        !self.total().is_multiple_of(self.units)
    }

    /// Runs from one copy of a unit to its next.
    fn runs_between(&self) -> usize {
        self.units / self.pieces()
    }

    /// Whether the copies of a unit are the same piece of runs that are permuted alike.
    fn regular(&self) -> bool {
        self.units.is_multiple_of(self.pieces()) && self.runs_between().is_multiple_of(8)
    }

    /// Offset of a unit's `i`-th copy from its first, where it is known.
    fn known_offset(&self, i: usize) -> u32 {
        match self.regular() {
            true => (i * self.runs_between() * self.pitch()) as u32,
            false => 0,
        }
    }

    /// Whether the units can share the copies: a unit copies the same piece of all its runs.
    pub fn is_valid(&self) -> bool {
        self.units.is_multiple_of(self.pieces()) && (self.regular() || !self.uneven())
    }
}

/// One operand of a product, where its panels come from.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Source {
    /// Byte address of the first element.
    pub address: u64,
    /// Bytes from one line to the next.
    pub line_stride: u64,
    /// Bytes from one depth to the next.
    pub depth_stride: u64,
    /// Lines of the operand.
    pub lines: u32,
    /// Terms of each sum.
    pub depth: u32,
}

/// Place in a panel of the `i`-th copy of `unit`, one of those that share the panel's copies: its run,
/// and its first byte in the run.
#[cube]
fn place(unit: u32, #[comptime] i: usize, #[comptime] panel: Panel) -> (u32, u32) {
    let index = unit + comptime!((i * panel.units) as u32);
    let pieces = comptime!(panel.pieces() as u32);
    (
        index / pieces,
        (index % pieces) * comptime!(panel.copy_bytes as u32),
    )
}

/// Offset of byte `byte` of run `run` in a panel: chunks of 16 bytes are permuted within groups of
/// eight, differently in eight neighbouring runs.
#[cube]
fn permuted(run: u32, byte: u32, #[comptime] panel: Panel) -> u32 {
    let chunk = (byte / 16) ^ (run % 8);
    run * comptime!(panel.pitch() as u32) + chunk * 16 + byte % 16
}

/// Where this unit's next copies come from and go to.
///
/// The copies of a unit are the same piece of runs that lie a known distance apart. Little is kept
/// and little computed for each: the copies run beside the products, and every instruction that
/// they save is one more for those.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Cursor {
    /// The unit among those that share the copies.
    unit: u32,
    /// Address in device memory of the first copy.
    from: u64,
    /// Bytes from one copy to the next.
    between: u64,
    /// Bytes from one panel to the next.
    advance: u64,
    /// Offset in the panel of the first copy.
    to: u32,
    /// Runs from that of the first copy to the end of the operand.
    runs_left: i32,
    /// Bytes from the first copy to the end of its run.
    bytes_left: i32,
}

/// The cursor of `unit`, one of those that share the copies, for the panels from `line` on, the
/// first of them the `first`-th along the depth.
#[cube]
pub(crate) fn cursor(
    source: &Source,
    unit: u32,
    line: u32,
    first: u32,
    #[comptime] panel: Panel,
) -> Cursor {
    let bytes = comptime!(panel.element.bytes() as u32);
    let (run, byte) = place(unit, 0usize, panel);
    let apart = comptime!(panel.runs_between() as u64);
    let every = comptime!(panel.every as u64);
    let to = permuted(run, byte, panel);
    if comptime!(panel.along == Along::Depth) {
        let lines = line + run;
        let start = first * comptime!(DEPTH_BYTES as u32) + byte;
        Cursor {
            unit,
            from: source.address
                + u64::cast_from(lines) * source.line_stride
                + u64::cast_from(start),
            between: source.line_stride * apart,
            advance: comptime!((DEPTH_BYTES * panel.every) as u64).runtime(),
            to,
            runs_left: source.lines as i32 - lines as i32,
            bytes_left: (source.depth * bytes) as i32 - start as i32,
        }
    } else {
        let start = line * bytes + byte;
        let run = first * comptime!(panel.depth() as u32) + run;
        Cursor {
            unit,
            from: source.address
                + u64::cast_from(run) * source.depth_stride
                + u64::cast_from(start),
            between: source.depth_stride * apart,
            advance: source.depth_stride * comptime!(panel.depth() as u64) * every,
            to,
            runs_left: source.depth as i32 - run as i32,
            bytes_left: (source.lines * bytes) as i32 - start as i32,
        }
    }
}

/// Starts the copies of this unit for the next panel into shared memory at `stage`; what lies
/// outside the operand is zero.
#[cube]
pub(crate) fn start_copies(cursor: &mut Cursor, stage: u32, #[comptime] panel: Panel) {
    let runs_left = select(cursor.bytes_left > 0, cursor.runs_left, 0i32);
    let first = stage + cursor.to;
    let mut from = cursor.from;
    #[unroll]
    for i in 0..comptime!(panel.copies()) {
        let inside = u32::cast_from(runs_left > comptime!((i * panel.runs_between()) as i32));
        let offset = comptime!(panel.known_offset(i));
        let mut to = first;
        if comptime!(!panel.regular()) {
            let (run, byte) = place(cursor.unit, i, panel);
            to = stage + permuted(run, byte, panel);
        }
        if comptime!(panel.uneven() && i + 1 == panel.copies()) {
            let total = comptime!(panel.total() as u32);
            if cursor.unit + comptime!((i * panel.units) as u32) < total {
                copy_async(to, offset, from, inside, panel.copy_bytes);
            }
        } else {
            copy_async(to, offset, from, inside, panel.copy_bytes);
        }
        from += cursor.between;
    }
    cursor.from += cursor.advance;
    if comptime!(panel.along == Along::Depth) {
        cursor.bytes_left -= comptime!((DEPTH_BYTES * panel.every) as i32);
    } else {
        cursor.runs_left -= comptime!((panel.depth() * panel.every) as i32);
    }
}

/// Moves the cursor from the end of one operand, `panels` panels after its start, to the start of
/// the next, `between` bytes after that of this one.
#[cube]
pub(crate) fn next_operand(
    cursor: &mut Cursor,
    between: u64,
    panels: u32,
    #[comptime] panel: Panel,
) {
    cursor.from = cursor.from + between - u64::cast_from(panels) * cursor.advance;
    if comptime!(panel.along == Along::Depth) {
        cursor.bytes_left += (panels * comptime!(DEPTH_BYTES as u32)) as i32;
    } else {
        cursor.runs_left += (panels * comptime!(panel.depth() as u32)) as i32;
    }
}

/// Where this lane finds fragments in a panel.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Lane {
    /// Offset of the lane's row of the first fragment.
    row: u32,
    /// Chunk of the first fragment that the row is read at.
    chunk: u32,
    /// What chunks are permuted by.
    permutation: u32,
}

/// Whether fragments are those of `A` (16 lines each) or of `B` (two of 8 lines).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Lhs,
    Rhs,
}

impl Side {
    /// Which bit of `lane / 8` moves a lane's row along the lines; the other moves it along the
    /// depth.
    fn line_bit(self) -> u32 {
        match self {
            Side::Lhs => 0,
            Side::Rhs => 1,
        }
    }
}

/// The lane's place for the fragments from `line` on, a multiple of 16.
#[cube]
pub(crate) fn lane(line: u32, #[comptime] panel: Panel, #[comptime] side: Side) -> Lane {
    let position = UNIT_POS % 32;
    let matrix = position / 8;
    let in_line = (matrix >> comptime!(side.line_bit())) & 1;
    let in_depth = (matrix >> comptime!(1 - side.line_bit())) & 1;
    let permutation = position % 8;
    let pitch = comptime!(panel.pitch() as u32);
    if comptime!(panel.along == Along::Depth) {
        Lane {
            row: (line + in_line * 8 + permutation) * pitch,
            chunk: in_depth,
            permutation,
        }
    } else if comptime!(panel.element == MmaElement::Tf32) {
        // No instruction transposes 32-bit elements: each lane reads its four by themselves.
        let inside = line + position / 4;
        Lane {
            row: (position % 4) * pitch + (inside % 4) * 4,
            chunk: inside / 4,
            permutation: position % 4,
        }
    } else {
        Lane {
            row: (in_depth * 8 + permutation) * pitch,
            chunk: line / 8 + in_line,
            permutation,
        }
    }
}

/// The fragments of 16 lines, `index` times 16 after the lane's, at product `step` of the panel in
/// shared memory at `stage`.
#[cube]
pub(crate) fn fragment(
    lane: &Lane,
    stage: u32,
    #[comptime] index: usize,
    #[comptime] step: usize,
    #[comptime] panel: Panel,
    #[comptime] side: Side,
) -> Quad<u32> {
    if comptime!(panel.along == Along::Depth) {
        let chunk = (lane.chunk ^ lane.permutation) ^ comptime!(2 * step as u32);
        let address = stage + lane.row + chunk * 16;
        let loaded = load_matrices(address, comptime!(index * 16 * panel.pitch()));
        if comptime!(panel.element == MmaElement::Tf32) {
            let mut rounded = Quad::<u32>::empty();
            #[unroll]
            for i in 0..4usize {
                rounded.insert(i, round_to_tf32(loaded.extract(i)));
            }
            rounded
        } else {
            loaded
        }
    } else if comptime!(panel.element == MmaElement::Tf32) {
        let mut rounded = Quad::<u32>::empty();
        #[unroll]
        for i in 0..4usize {
            // Chunks of four lines, 16 lines are four; runs of depth, a product is eight.
            let in_line = comptime!((i as u32 >> side.line_bit()) & 1);
            let in_depth = comptime!((i as u32 >> (1 - side.line_bit())) & 1);
            let chunk = lane.chunk + comptime!(4 * index as u32 + 2 * in_line);
            let chunk = chunk ^ (lane.permutation + comptime!(4 * in_depth));
            let run = comptime!((step as u32 * 8 + in_depth * 4) * panel.pitch() as u32);
            let address = stage + lane.row + run + chunk * 16;
            rounded.insert(i, round_to_tf32(load_shared(address)));
        }
        rounded
    } else {
        let chunk = (lane.chunk + comptime!(2 * index as u32)) ^ lane.permutation;
        let address = stage + lane.row + chunk * 16;
        load_matrices_transposed(address, comptime!(step * 16 * panel.pitch()))
    }
}
