//! How a plane reads lines of a factor: through shared memory of its own, ahead of its products.

use cubecl::prelude::*;

use super::plan::{Ring, StreamLines, TOKENS};
use crate::ptx::{
    MmaElement, Quad, commit_copies, copy_async, load_shared_quad, multiply_add, round_to_tf32,
    wait_copies,
};

/// What a plane multiplies: groups of lines of a factor with all tokens, over a part of the depth.
///
/// Addresses and strides are in bytes; both operands are contiguous along the depth.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Stream {
    /// Address of the factor.
    pub factor: u64,
    /// Bytes from one batch of the factor to the next.
    pub factor_batch: u64,
    /// Bytes from one line of the factor to the next.
    pub factor_stride: u64,
    /// Address of the input.
    pub input: u64,
    /// Bytes from one batch of the input to the next.
    pub input_batch: u64,
    /// Bytes from one token of the input to the next.
    pub input_stride: u64,
    /// Tokens.
    pub tokens: u32,
    /// Lines of a batch.
    pub lines: u32,
    /// Groups of lines of a batch.
    pub line_groups: u32,
    /// Bytes of a line.
    pub depth: u32,
    /// The plane's first group of lines.
    pub first: u32,
    /// Groups of lines from one of the plane to its next.
    pub every: u32,
    /// The last group of lines of all batches; read again where a plane has none left.
    pub last: u32,
    /// The first stage of the plane's part of the depth, in each line.
    pub start: u32,
    /// Stages of its part of the depth.
    pub steps: u32,
    /// Stages in all.
    pub total: u32,
}

/// The part of the depth, `depth` bytes, that belongs to plane `split`: its first stage and how many
/// they are.
#[cube]
pub(super) fn part_of_depth(
    depth: u32,
    split: u32,
    #[comptime] splits: usize,
    #[comptime] ring: Ring,
) -> (u32, u32) {
    let all = depth.div_ceil(comptime!(ring.step as u32));
    let each = all.div_ceil(comptime!(splits as u32));
    let start = min(split * each, all);
    (start, min(each, all - start))
}

/// Starts copying a plane's first stages to its ring, at `base` in shared memory.
#[cube]
pub(super) fn start(stream: &Stream, base: u32, #[comptime] ring: Ring) {
    for stage in 0..comptime!(ring.stages as u32 - 1) {
        fill(stream, stage, base, ring);
    }
}

/// Starts copying stage `index`, if there is one. Lines past the end are those of the last one; zeros
/// stand for what lies past the depth and the tokens.
#[cube]
fn fill(stream: &Stream, index: u32, base: u32, #[comptime] ring: Ring) {
    if index < stream.total {
        let (chunks, lines) = comptime!(((ring.step / 16) as u32, ring.lines.count()));
        // Rows that a plane copies at a time; all of a unit's are even, or all are odd.
        let rows = comptime!(32 / (ring.step / 16));
        let position = UNIT_POS % 32;
        let chunk = position % chunks;
        let row = position / chunks;

        let group = index / stream.steps;
        let step = stream.start + index - group * stream.steps;
        let group = min(stream.first + group * stream.every, stream.last);
        let batch = group / stream.line_groups;
        let line = (group - batch * stream.line_groups) * comptime!(lines as u32) + row;
        let byte = step * comptime!(ring.step as u32) + chunk * 16;
        let inside = byte < stream.depth;

        let stage = base
            + (index % comptime!(ring.stages as u32)) * comptime!(ring.stage_bytes() as u32)
            + row * comptime!(ring.step as u32)
            + permuted(chunk * 16, row);
        let factor =
            stream.factor + u64::cast_from(batch) * stream.factor_batch + u64::cast_from(byte);
        #[unroll]
        for copy in 0..comptime!(lines / rows) {
            let line = min(line + comptime!((copy * rows) as u32), stream.lines - 1);
            copy_async(
                stage,
                comptime!((copy * rows * ring.step) as u32),
                factor + u64::cast_from(line) * stream.factor_stride,
                u32::cast_from(inside),
                16usize,
            );
        }
        let input =
            stream.input + u64::cast_from(batch) * stream.input_batch + u64::cast_from(byte);
        #[unroll]
        for copy in 0..comptime!(ring.tokens.div_ceil(rows)) {
            let token = row + comptime!((copy * rows) as u32);
            if row < comptime!((ring.tokens - copy * rows).min(rows) as u32) {
                copy_async(
                    stage,
                    comptime!(((lines + copy * rows) * ring.step) as u32),
                    input + u64::cast_from(token) * stream.input_stride,
                    u32::cast_from(inside && token < stream.tokens),
                    16usize,
                );
            }
        }
    }
    commit_copies();
}

/// Where `byte` of a row lies in it: odd rows have their halves of 128 bytes exchanged, so that eight
/// lanes that read 64 bytes of two rows meet every bank once.
#[cube]
fn permuted(byte: u32, row: u32) -> u32 {
    byte ^ ((row % 2) * 64)
}

/// Sums the products of each plane's next group of lines with all tokens, after `done` stages, and writes
/// them to `stage`, the plane's own from `start` on. The sums of the next turn have to go elsewhere: units
/// meet once for each.
#[cube]
pub(super) fn stage_turn(
    stream: &Stream,
    done: u32,
    base: u32,
    stage: &mut Shared<[f32]>,
    start: usize,
    #[comptime] ring: Ring,
) {
    let mut sums = Array::<Quad<f32>>::new(comptime!(ring.token_groups()));
    sum_group(stream, done, base, &mut sums, ring);
    stage_sums(&sums, stage, start, ring);
    sync_cube();
}

/// Sums the products of the plane's next group of lines with all tokens, after `done` stages.
#[cube]
fn sum_group(
    stream: &Stream,
    done: u32,
    base: u32,
    sums: &mut Array<Quad<f32>>,
    #[comptime] ring: Ring,
) {
    #[unroll]
    for tile in 0..comptime!(ring.token_groups()) {
        sums[tile] = Quad::<f32>::new(0.0f32);
    }
    let mut index = done;
    let end = done + stream.steps;
    while index < end {
        wait_copies(comptime!(ring.stages - 2));
        // Every lane's copies have arrived, and every lane has read the stage that is filled next.
        sync_plane();
        fill(
            stream,
            index + comptime!(ring.stages as u32 - 1),
            base,
            ring,
        );
        let stage =
            base + (index % comptime!(ring.stages as u32)) * comptime!(ring.stage_bytes() as u32);
        multiply(stage, sums, ring);
        index += 1;
    }
}

/// Adds the products of the lines in a stage with the tokens in it.
#[cube]
fn multiply(stage: u32, sums: &mut Array<Quad<f32>>, #[comptime] ring: Ring) {
    let position = UNIT_POS % 32;
    let group = position / 4;
    let start = (position % 4) * 16;
    let row = comptime!(ring.step as u32);
    let low = stage + group * row + start;
    let odd = group % 2;
    let first_token = stage + comptime!((ring.lines.count() * ring.step) as u32) + start;
    #[unroll]
    for chunk in 0..comptime!(ring.step / 64) {
        let byte = permuted(comptime!((chunk * 64) as u32), odd);
        let a = load_rounded(low + byte, ring.element);
        let mut b = Quad::<u32>::new(0u32);
        if comptime!(ring.lines == StreamLines::Sixteen) {
            b = load_rounded(low + byte + comptime!((8 * ring.step) as u32), ring.element);
        }
        #[unroll]
        for tile in 0..comptime!(ring.token_groups()) {
            let mut from = first_token + comptime!((chunk * 64) as u32);
            if comptime!(ring.tokens > 1) {
                from = first_token
                    + group * row
                    + byte
                    + comptime!((tile * TOKENS * ring.step) as u32);
            }
            let x = load_rounded(from, ring.element);
            #[unroll]
            for half in 0..2usize {
                let mut quad = Quad::<u32>::empty();
                quad.insert(0usize, a.extract(comptime!(2 * half)));
                quad.insert(1usize, b.extract(comptime!(2 * half)));
                quad.insert(2usize, a.extract(comptime!(2 * half + 1)));
                quad.insert(3usize, b.extract(comptime!(2 * half + 1)));
                sums[tile] = multiply_add(
                    quad,
                    x.extract(comptime!(2 * half)),
                    x.extract(comptime!(2 * half + 1)),
                    sums[tile],
                    ring.element,
                );
            }
        }
    }
}

/// 16 bytes of shared memory, rounded if they are `f32`.
#[cube]
fn load_rounded(address: u32, #[comptime] element: MmaElement) -> Quad<u32> {
    let mut words = load_shared_quad(address);
    if comptime!(element == MmaElement::Tf32) {
        #[unroll]
        for i in 0..4usize {
            words.insert(i, round_to_tf32(words.extract(i)));
        }
    }
    words
}

/// Writes the sums of a plane to `stage` from `start` on, `[token, line]`.
#[cube]
fn stage_sums(
    sums: &Array<Quad<f32>>,
    stage: &mut Shared<[f32]>,
    start: usize,
    #[comptime] ring: Ring,
) {
    let lines = comptime!(ring.lines.count());
    let position = (UNIT_POS % 32) as usize;
    let at = start + position / 4;
    let token = (position % 4) * 2;
    if comptime!(ring.tokens == 1) {
        if token == 0 {
            let quad = sums[0];
            stage_token(stage, at, quad.extract(0usize), quad.extract(2usize), ring);
        }
    } else {
        #[unroll]
        for tile in 0..comptime!(ring.token_groups()) {
            let quad = sums[tile];
            let at = at + (comptime!(tile * TOKENS) + token) * lines;
            stage_token(stage, at, quad.extract(0usize), quad.extract(2usize), ring);
            let at = at + lines;
            stage_token(stage, at, quad.extract(1usize), quad.extract(3usize), ring);
        }
    }
}

/// Writes a lane's sums of one token, the second of a line eight further, where there is one.
#[cube]
fn stage_token(stage: &mut Shared<[f32]>, at: usize, low: f32, high: f32, #[comptime] ring: Ring) {
    stage[at] = low;
    if comptime!(ring.lines == StreamLines::Sixteen) {
        stage[at + 8] = high;
    }
}

/// The sum of `splits` planes, the first of which staged it at `from`.
#[cube]
pub(super) fn staged_sum(
    stage: &Shared<[f32]>,
    from: usize,
    #[comptime] splits: usize,
    #[comptime] ring: Ring,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for split in 0..splits {
        sum += stage[from + comptime!(split * ring.sums())];
    }
    sum
}
