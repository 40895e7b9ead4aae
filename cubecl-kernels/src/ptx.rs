//! The PTX instructions that the tensor-core kernels are made of (CUDA, compute capability 8.0 and
//! above).
//!
//! Shared memory is addressed by 32-bit byte addresses, device memory by 64-bit ones: a kernel
//! computes both once and then adds offsets that are known when it is compiled.

use cubecl::intrinsic;
use cubecl::prelude::*;

/// Four 32-bit registers: a 16-byte access, or one operand of a tensor-core product.
pub(crate) type Quad<T> = Vector<T, Const<4>>;

/// The value of `x`.
///
/// `gpu_asm!` passes a mutable variable as a pointer to it.
#[cube]
pub(crate) fn value<T: CubePrimitive>(x: T) -> T {
    intrinsic!(|scope| { x.read_value(scope).into() })
}

/// Byte address of `slice` in shared memory.
#[cube]
pub(crate) fn shared_address<T: CubePrimitive>(slice: &[T]) -> u32 {
    let address: u32;
    // SAFETY: the pointer is only turned into an address.
    let pointer = unsafe { slice.as_ptr_unchecked() };
    gpu_asm!(
        "{{ .reg .u64 t; cvta.to.shared.u64 t, {pointer}; cvt.u32.u64 {address}, t; }}",
        pointer = in(_) pointer, address = out(_) address, options(pure, nomem),
    );
    address
}

/// Byte address of `slice` in device memory.
#[cube]
pub(crate) fn global_address<T: CubePrimitive>(slice: &[T]) -> u64 {
    let address: u64;
    // SAFETY: the pointer is only turned into an address.
    let pointer = unsafe { slice.as_ptr_unchecked() };
    gpu_asm!(
        "cvta.to.global.u64 {address}, {pointer};",
        pointer = in(_) pointer, address = out(_) address, options(pure, nomem),
    );
    address
}

/// Byte address of `slice`, which is written, in device memory.
#[cube]
pub(crate) fn written_address<T: CubePrimitive>(slice: &mut [T]) -> u64 {
    let address: u64;
    // SAFETY: the pointer is only turned into an address.
    let pointer = unsafe { slice.as_mut_ptr_unchecked() };
    gpu_asm!(
        "cvta.to.global.u64 {address}, {pointer};",
        pointer = in(_) pointer, address = out(_) address, options(pure, nomem),
    );
    address
}

/// Starts copying `bytes` (4, 8 or 16) from device memory to `shared + offset` in shared memory;
/// zeros are written instead where `inside` is zero.
#[cube]
pub(crate) fn copy_async(
    shared: u32,
    #[comptime] offset: u32,
    global: u64,
    inside: u32,
    #[comptime] bytes: usize,
) {
    let cache = comptime!(if bytes == 16 { "cg" } else { "ca" });
    gpu_asm!(
        "{{ .reg .pred p; setp.eq.u32 p, {inside}, 0;",
        "cp.async.{cache}.shared.global.L2::128B [{shared} + {offset}], [{global}], {bytes}, p; }}",
        shared = in(_) value::<u32>(shared), global = in(_) value::<u64>(global), inside = in(_) value::<u32>(inside),
    );
}

/// Ends a group of copies.
#[cube]
pub(crate) fn commit_copies() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits until at most `pending` groups of copies are under way.
#[cube]
pub(crate) fn wait_copies(#[comptime] pending: usize) {
    gpu_asm!("cp.async.wait_group {pending};");
}

/// Waits for `units` units of the cube that name the same barrier, 1 to 15.
#[cube]
pub(crate) fn sync_some(barrier: u32, #[comptime] units: usize) {
    gpu_asm!("bar.sync {barrier}, {units};", barrier = in(_) value::<u32>(barrier));
}

/// Waits for all units of all cubes of the cluster, whose writes to shared memory are seen by all then.
#[cube]
pub(crate) fn sync_cluster() {
    arrive_at_cluster();
    wait_for_cluster();
}

/// The first half of [`sync_cluster`]: does not wait.
#[cube]
pub(crate) fn arrive_at_cluster() {
    gpu_asm!("barrier.cluster.arrive.release;");
}

/// The second half of [`sync_cluster`].
#[cube]
pub(crate) fn wait_for_cluster() {
    gpu_asm!("barrier.cluster.wait.acquire;");
}

/// What a `cube` of the cluster has at the place that has this `address` in one's own shared memory.
#[cube]
pub(crate) fn load_of_cube(address: u32, #[comptime] cube: u32) -> f32 {
    let out: f32;
    gpu_asm!(
        "{{ .reg .u32 a; mapa.shared::cluster.u32 a, {address}, {cube}; ld.shared::cluster.f32 {out}, [a]; }}",
        out = out(_) out, address = in(_) value::<u32>(address), options(readonly),
    );
    out
}

/// Address, for [`store_pair_in_cluster`], of the place of `cube` that has this `address` in one's own shared memory.
#[cube]
pub(crate) fn address_in_cluster(address: u32, cube: u32) -> u32 {
    let out: u32;
    gpu_asm!(
        "mapa.shared::cluster.u32 {out}, {address}, {cube};",
        out = out(_) out, address = in(_) value::<u32>(address), cube = in(_) value::<u32>(cube), options(pure, nomem),
    );
    out
}

/// Stores 8 bytes to the shared memory of a cube of the cluster.
#[cube]
pub(crate) fn store_pair_in_cluster(address: u32, first: f32, second: f32) {
    gpu_asm!(
        "st.shared::cluster.v2.f32 [{address}], {{{first}, {second}}};",
        address = in(_) value::<u32>(address), first = in(_) value::<f32>(first), second = in(_) value::<f32>(second),
    );
}

/// Keeps `registers`, a multiple of 8, for each unit of the group of four planes and gives back the
/// rest; all four have to come here.
#[cube]
pub(crate) fn give_registers(#[comptime] registers: usize) {
    gpu_asm!("setmaxnreg.dec.sync.aligned.u32 {registers};");
}

/// Waits until there are `registers`, a multiple of 8, for each unit of the group of four planes; all
/// four have to come here.
#[cube]
pub(crate) fn take_registers(#[comptime] registers: usize) {
    gpu_asm!("setmaxnreg.inc.sync.aligned.u32 {registers};");
}

/// Loads four 8 x 8 matrices of 16-bit elements (or 8 x 4 of 32-bit ones); lane `l` names row `l % 8` of matrix
/// `l / 8`, 16 bytes at `address + offset`.
#[cube]
pub(crate) fn load_matrices(address: u32, #[comptime] offset: usize) -> Quad<u32> {
    let out: Quad<u32>;
    gpu_asm!(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {out}, [{address} + {offset}];",
        out = out(_) out, address = in(_) value::<u32>(address), options(readonly),
    );
    out
}

/// As [`load_matrices`], each matrix transposed; 16-bit elements only.
#[cube]
pub(crate) fn load_matrices_transposed(address: u32, #[comptime] offset: usize) -> Quad<u32> {
    let out: Quad<u32>;
    gpu_asm!(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {out}, [{address} + {offset}];",
        out = out(_) out, address = in(_) value::<u32>(address), options(readonly),
    );
    out
}

/// Element types that tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MmaElement {
    /// 8 bits of significand, 8 of exponent.
    Bf16,
    /// 11 bits of significand, 5 of exponent.
    F16,
    /// `f32` rounded to 11 bits of significand.
    Tf32,
}

impl MmaElement {
    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        match self {
            MmaElement::Bf16 | MmaElement::F16 => 2,
            MmaElement::Tf32 => 4,
        }
    }

    /// Name in PTX.
    pub fn name(self) -> &'static str {
        match self {
            MmaElement::Bf16 => "bf16",
            MmaElement::F16 => "f16",
            MmaElement::Tf32 => "tf32",
        }
    }

    /// Terms that one product sums: 32 bytes of each row.
    pub fn depth(self) -> usize {
        32 / self.bytes()
    }
}

/// `A B + C` for `A` 16 x k, `B` k x 8, where k is [`MmaElement::depth`], summed in `f32`.
#[cube]
pub(crate) fn multiply_add(
    a: Quad<u32>,
    b0: u32,
    b1: u32,
    c: Quad<f32>,
    #[comptime] element: MmaElement,
) -> Quad<f32> {
    let ty = comptime!(element.name());
    let k = comptime!(element.depth());
    let out: Quad<f32>;
    gpu_asm!(
        "mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32 {out}, {a}, {{{b0}, {b1}}}, {c};",
        out = out(_) out, a = in(_) value::<Quad<u32>>(a), b0 = in(_) value::<u32>(b0), b1 = in(_) value::<u32>(b1),
        c = in(_) value::<Quad<f32>>(c), options(pure, nomem),
    );
    out
}

/// Sums of `columns` columns that a unit holds, in a vector whose length has to be a power of two.
pub(crate) fn group_sums(columns: usize) -> usize {
    (columns / 2).next_power_of_two()
}

/// Words of `steps` times 16 columns that a unit holds, in a vector whose length has to be a power of
/// two.
pub(crate) fn held_words(steps: usize) -> usize {
    (4 * steps).next_power_of_two()
}

/// Products of 16 terms in a panel.
pub(crate) const PANEL_STEPS: usize = 4;

/// PTX of the asynchronous products of one panel's depth: sums and results are `%0` on, the sums'
/// old values follow, then the two descriptors.
///
/// One block of assembly for all of it: the compiler serialises products whose wait is elsewhere.
fn group_products(columns: usize, element: MmaElement) -> String {
    let (sums, held) = (columns / 2, group_sums(columns));
    let registers: Vec<String> = (0..sums).map(|i| format!("t{i}")).collect();
    let registers = registers.join(", ");
    let ty = element.name();
    let mut text = format!("{{\n.reg .b64 da, db;\n.reg .f32 t<{sums}>;\n");
    for i in 0..sums {
        text += &format!("mov.f32 t{i}, %{};\n", held + i);
    }
    text += "wgmma.fence.sync.aligned;\n";
    for step in 0..PANEL_STEPS {
        // 16 terms are 32 bytes, two units of a descriptor's address.
        text += &format!("add.s64 da, %{}, {};\n", 2 * held, 2 * step);
        text += &format!("add.s64 db, %{}, {};\n", 2 * held + 1, 2 * step);
        text += &format!(
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{ty}.{ty} {{{registers}}}, da, db, 1, 1, 1, 0, 0;\n"
        );
    }
    text += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    for i in 0..sums {
        text += &format!("mov.f32 %{i}, t{i};\n");
    }
    text + "}\n"
}

/// `A B + C` by four planes, for `A` 64 x 64 and `B` 64 x `columns` in shared memory as tensor maps
/// with a swizzle of 128 bytes write them, named by their [`descriptor`]s.
#[cube]
pub(crate) fn multiply_group<N: Size>(
    sums: Vector<f32, N>,
    left: u64,
    right: u64,
    #[comptime] columns: usize,
    #[comptime] element: MmaElement,
) -> Vector<f32, N> {
    let body = comptime!(group_products(columns, element));
    let out: Vector<f32, N>;
    gpu_asm!(
        "// {out} {sums} {left} {right}",
        "{body}",
        out = out(_) out, sums = in(_) value::<Vector<f32, N>>(sums),
        left = in(_) value::<u64>(left), right = in(_) value::<u64>(right),
    );
    out
}

/// PTX of the asynchronous products of `steps` times 16 terms with the left operand in registers:
/// results and old sums as in [`group_products`], then `words` registers, of which four belong to
/// each 16 terms, then the descriptors of the panel that the first terms are in, from its 16 terms
/// number `first` on, and of the one after it.
fn held_products(
    columns: usize,
    element: MmaElement,
    words: usize,
    first: usize,
    steps: usize,
) -> String {
    let (sums, held) = (columns / 2, group_sums(columns));
    let registers: Vec<String> = (0..sums).map(|i| format!("t{i}")).collect();
    let registers = registers.join(", ");
    let ty = element.name();
    let mut text = format!("{{\n.reg .b64 db;\n.reg .f32 t<{sums}>;\n");
    for i in 0..sums {
        text += &format!("mov.f32 t{i}, %{};\n", held + i);
    }
    text += "wgmma.fence.sync.aligned;\n";
    for step in 0..steps {
        let at = first + step;
        let panel = 2 * held + words + at / PANEL_STEPS;
        text += &format!("add.s64 db, %{panel}, {};\n", 2 * (at % PANEL_STEPS));
        let left: Vec<String> = (0..4)
            .map(|i| format!("%{}", 2 * held + 4 * step + i))
            .collect();
        let left = left.join(", ");
        text += &format!(
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{ty}.{ty} {{{registers}}}, {{{left}}}, db, 1, 1, 1, 0;\n"
        );
    }
    text += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    for i in 0..sums {
        text += &format!("mov.f32 %{i}, t{i};\n");
    }
    text + "}\n"
}

/// `A B + C` by four planes, for `A` 64 x 16 `steps` in registers and `B` in shared memory, from 16
/// terms number `first` of the panel `right` on and then in the panel `next`, both as for
/// [`multiply_group`].
///
/// `left` holds neighbouring columns in a word: for every 16 columns those of a unit's first row and
/// of the row eight below, of the first eight columns and of the second.
#[cube]
pub(crate) fn multiply_held<N: Size, W: Size>(
    sums: Vector<f32, N>,
    left: Vector<u32, W>,
    right: u64,
    next: u64,
    #[comptime] columns: usize,
    #[comptime] first: usize,
    #[comptime] steps: usize,
    #[comptime] element: MmaElement,
) -> Vector<f32, N> {
    let words = comptime!(held_words(steps));
    let body = comptime!(held_products(columns, element, words, first, steps));
    let out: Vector<f32, N>;
    gpu_asm!(
        "// {out} {sums} {left} {right} {next}",
        "{body}",
        out = out(_) out, sums = in(_) value::<Vector<f32, N>>(sums),
        left = in(_) value::<Vector<u32, W>>(left),
        right = in(_) value::<u64>(right), next = in(_) value::<u64>(next),
    );
    out
}

/// Describes a panel of rows of 128 bytes, permuted by the 128-byte swizzle, in shared memory.
#[cube]
pub(crate) fn descriptor(address: u32) -> u64 {
    // Eight rows are 1024 bytes; layout 1 is the swizzle.
    let layout = comptime!(((1024u64 >> 4) << 32) | (1u64 << 62) | (1u64 << 16));
    u64::cast_from((address & 0x3FFFFu32) >> 4u32) | layout
}

/// `f32` bits rounded to the nearest tf32; truncation would double the error.
#[cube]
pub(crate) fn round_to_tf32(bits: u32) -> u32 {
    let out: u32;
    gpu_asm!(
        "cvt.rna.tf32.f32 {out}, {bits};",
        out = out(_) out, bits = in(_) value::<u32>(bits), options(pure, nomem),
    );
    out
}

/// `2^x`, to two units in the last place.
#[cube]
pub(crate) fn exp2(x: f32) -> f32 {
    let out: f32;
    gpu_asm!(
        "ex2.approx.ftz.f32 {out}, {x};",
        out = out(_) out, x = in(_) value::<f32>(x), options(pure, nomem),
    );
    out
}

/// `1 / x`, to one unit in the last place.
#[cube]
pub(crate) fn reciprocal(x: f32) -> f32 {
    let out: f32;
    gpu_asm!(
        "rcp.approx.ftz.f32 {out}, {x};",
        out = out(_) out, x = in(_) value::<f32>(x), options(pure, nomem),
    );
    out
}

/// Two sums rounded to 16-bit elements, `low` in the lower half.
#[cube]
pub(crate) fn pack(low: f32, high: f32, #[comptime] element: MmaElement) -> u32 {
    let ty = comptime!(element.name());
    let out: u32;
    gpu_asm!(
        "cvt.rn.{ty}x2.f32 {out}, {high}, {low};",
        out = out(_) out, high = in(_) value::<f32>(high), low = in(_) value::<f32>(low), options(pure, nomem),
    );
    out
}

/// The two 16-bit elements of a word, that of the lower half first.
#[cube]
pub(crate) fn unpack(word: u32, #[comptime] element: MmaElement) -> (f32, f32) {
    if comptime!(element == MmaElement::Bf16) {
        (
            f32::reinterpret(word << 16u32),
            f32::reinterpret(word & 0xFFFF_0000u32),
        )
    } else {
        let low: f32;
        gpu_asm!(
            "{{ .reg .b16 l, h; mov.b32 {{l, h}}, {word}; cvt.f32.f16 {low}, l; }}",
            low = out(_) low, word = in(_) value::<u32>(word), options(pure, nomem),
        );
        let high: f32;
        gpu_asm!(
            "{{ .reg .b16 l, h; mov.b32 {{l, h}}, {word}; cvt.f32.f16 {high}, h; }}",
            high = out(_) high, word = in(_) value::<u32>(word), options(pure, nomem),
        );
        (low, high)
    }
}

/// Loads 4 bytes of device memory that other units may write later.
#[cube]
pub(crate) fn load_word(address: u64) -> u32 {
    let out: u32;
    gpu_asm!(
        "ld.global.b32 {out}, [{address}];",
        out = out(_) out, address = in(_) value::<u64>(address), options(readonly),
    );
    out
}

/// Two bytes of each of two words: byte `i` of the result is byte `selector[i]` of `high:low`.
#[cube]
pub(crate) fn permute(low: u32, high: u32, #[comptime] selector: u32) -> u32 {
    let out: u32;
    gpu_asm!(
        "prmt.b32 {out}, {low}, {high}, {selector};",
        out = out(_) out, low = in(_) value::<u32>(low), high = in(_) value::<u32>(high), options(pure, nomem),
    );
    out
}

/// Stores four matrices of 8 x 8 elements of 16 bits to shared memory, each as eight lines of 16
/// bytes: lane `i` of matrix `m` names line `i % 8` at lane `8 m + i % 8`, and gives elements
/// `2 (i % 4)` on of line `i / 4` in word `m`.
#[cube]
pub(crate) fn store_matrices(line: u32, words: Quad<u32>) {
    gpu_asm!(
        "stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [{line}], {words};",
        line = in(_) value::<u32>(line), words = in(_) value::<Quad<u32>>(words),
    );
}

/// As [`store_matrices`], each matrix transposed: a lane gives elements `2 (i % 4)` on of column `i / 4`.
#[cube]
pub(crate) fn store_matrices_transposed(line: u32, words: Quad<u32>) {
    gpu_asm!(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [{line}], {words};",
        line = in(_) value::<u32>(line), words = in(_) value::<Quad<u32>>(words),
    );
}

/// Stores 4 bytes to shared memory.
#[cube]
pub(crate) fn store_shared(address: u32, word: u32) {
    gpu_asm!("st.shared.b32 [{address}], {word};", address = in(_) value::<u32>(address), word = in(_) value::<u32>(word));
}

/// Stores 8 bytes to shared memory.
#[cube]
pub(crate) fn store_shared_pair(address: u32, first: u32, second: u32) {
    gpu_asm!(
        "st.shared.v2.b32 [{address}], {{{first}, {second}}};",
        address = in(_) value::<u32>(address), first = in(_) value::<u32>(first), second = in(_) value::<u32>(second),
    );
}

/// Stores 16 bytes to shared memory.
#[cube]
pub(crate) fn store_shared_quad(address: u32, words: Quad<u32>) {
    gpu_asm!(
        "st.shared.v4.b32 [{address}], {words};",
        address = in(_) value::<u32>(address), words = in(_) value::<Quad<u32>>(words),
    );
}

/// Loads 16 bytes from shared memory.
#[cube]
pub(crate) fn load_shared_quad(address: u32) -> Quad<u32> {
    let out: Quad<u32>;
    gpu_asm!(
        "ld.shared.v4.b32 {out}, [{address}];",
        out = out(_) out, address = in(_) value::<u32>(address), options(readonly),
    );
    out
}

/// Loads 4 bytes from shared memory.
#[cube]
pub(crate) fn load_shared(address: u32) -> u32 {
    let out: u32;
    gpu_asm!(
        "ld.shared.b32 {out}, [{address}];",
        out = out(_) out, address = in(_) value::<u32>(address), options(readonly),
    );
    out
}

/// Loads 16 bytes of device memory that no unit writes while the kernel runs.
#[cube]
pub(crate) fn load_constant_quad(address: u64) -> Quad<u32> {
    let out: Quad<u32>;
    gpu_asm!(
        "ld.global.nc.v4.b32 {out}, [{address}];",
        out = out(_) out, address = in(_) value::<u64>(address), options(pure, nomem),
    );
    out
}

/// Copies 16, 8, 4 or 2 bytes from shared to device memory.
#[cube]
pub(crate) fn copy_out(from: u32, to: u64, #[comptime] bytes: usize) {
    if comptime!(bytes == 2) {
        gpu_asm!(
            "{{ .reg .b16 half; ld.shared.b16 half, [{from}]; st.global.b16 [{to}], half; }}",
            from = in(_) value::<u32>(from), to = in(_) value::<u64>(to),
        );
    } else if comptime!(bytes == 16) {
        store_global(to, load_shared_quad(from), bytes);
    } else {
        let mut words = Quad::<u32>::new(0u32);
        #[unroll]
        for i in 0..comptime!(bytes / 4) {
            words.insert(i, load_shared(from + comptime!(4 * i as u32)));
        }
        store_global(to, words, bytes);
    }
}

/// Stores 16, 8 or 4 bytes, the first of `words`, to device memory.
#[cube]
pub(crate) fn store_global(address: u64, words: Quad<u32>, #[comptime] bytes: usize) {
    if comptime!(bytes == 16) {
        gpu_asm!(
            "st.global.v4.b32 [{address}], {words};",
            address = in(_) value::<u64>(address), words = in(_) value::<Quad<u32>>(words),
        );
    } else if comptime!(bytes == 8) {
        let first = words.extract(0usize);
        let second = words.extract(1usize);
        gpu_asm!(
            "st.global.v2.b32 [{address}], {{{first}, {second}}};",
            address = in(_) value::<u64>(address), first = in(_) value::<u32>(first), second = in(_) value::<u32>(second),
        );
    } else {
        let first = words.extract(0usize);
        gpu_asm!("st.global.b32 [{address}], {first};", address = in(_) value::<u64>(address), first = in(_) value::<u32>(first));
    }
}
