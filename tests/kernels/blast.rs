//! BLAST products.

use cubecl::prelude::*;
use cubecl_kernels::blast::{self, BlastBackward, BlastForward, reference};
use cubecl_kernels::{BlastDims, Strategy};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::blocks::Blocks;
use crate::harness::clients::on_every_device;
use crate::harness::compare::{FORWARD, GRADIENT, assert_close};
use crate::harness::dtype::Dtype;
use crate::setting::Setting;

on_every_device! {
    forward_matches_reference_when_sizes_share_no_factor_with_a_tile
    forward_matches_reference_when_sizes_fill_tiles
    forward_matches_reference_for_strided_tensors
    forward_matches_reference_on_tensor_cores
    forward_applies_the_epilogue
    forward_matches_reference_with_little_scratch
    forward_matches_reference_with_the_coupling_in_the_product
    layers_of_one_input_match_reference
    a_layer_gates_another
    backward_matches_reference_when_sizes_share_no_factor_with_a_tile
    backward_matches_reference_when_sizes_fill_tiles
    backward_matches_reference_for_strided_tensors
    backward_matches_reference_on_tensor_cores
    no_tokens_give_zero_gradients
    ; alone both_passes_match_reference_with_measured_plans
}

/// Blocks, rank, input and output features.
type Sizes = (usize, usize, usize, usize);

fn dims((blocks, rank, n, m): Sizes) -> BlastDims {
    BlastDims::new(blocks, rank, n, m).unwrap()
}

/// Inputs of one operation, rounded to the element type.
struct Data {
    input: Blocks,
    u: Blocks,
    s: Blocks,
    v: Blocks,
    bias: Blocks,
    grad: Blocks,
}

impl Data {
    fn new(dims: &BlastDims, tokens: usize, dtype: Dtype, seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(3 + seed);
        Self {
            input: Blocks::random([1, tokens, dims.in_features()], dtype, rng),
            u: Blocks::random(dims.u_shape(), dtype, rng),
            s: Blocks::random(dims.s_shape(), dtype, rng),
            v: Blocks::random(dims.v_shape(), dtype, rng),
            bias: Blocks::random([1, 1, dims.out_features()], dtype, rng),
            grad: Blocks::random([1, tokens, dims.out_features()], dtype, rng),
        }
    }

    /// `Y` by the plain composition.
    fn inner(&self, dims: &BlastDims, dtype: Dtype) -> Blocks {
        self.input
            .split(dims.blocks())
            .product(&self.v.transposed(), dtype)
    }
}

fn check_forward<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    sizes: Sizes,
    tokens: usize,
    with_bias: bool,
) {
    let dims = dims(sizes);
    let (n, m) = (dims.in_features(), dims.out_features());
    let data = Data::new(&dims, tokens, setting.dtype, 0);
    let coupled = setting.scratch(client, tokens, |tokens| dims.scratch_shape(tokens));
    let bias = with_bias.then_some(data.bias.values.as_slice());
    let (output, epilogue) = setting.finish(client, [tokens, m], bias);
    let operands = BlastForward {
        input: setting.input(client, &[tokens, n], &data.input.values),
        u: setting.input(client, &dims.u_shape(), &data.u.values),
        s: setting.input(client, &dims.s_shape(), &data.s.values),
        v: setting.input(client, &dims.v_shape(), &data.v.values),
        epilogue,
        coupled: coupled.binding(),
        output: output.binding(),
    };
    let dtype = setting.dtype;
    if !setting.ran(blast::forward(
        client,
        operands,
        &dims,
        dtype.elem(),
        &setting.strategy,
    )) {
        return;
    }
    let bias = with_bias.then_some(data.bias.values.as_slice());
    let (x, u, s, v) = (
        &data.input.values,
        &data.u.values,
        &data.s.values,
        &data.v.values,
    );
    let expected = setting.expected(tokens, reference::forward(&dims, tokens, x, u, s, v, bias));
    let z = data.inner(&dims, dtype).coupled(&data.s, dtype);
    let composed = z
        .product(&data.u.transposed(), dtype)
        .merged()
        .biased(bias, dtype);
    let what = format!("{setting:?} {dims:?} tokens {tokens}");
    assert_close(
        &what,
        &output.read(client),
        &expected,
        &setting.composed(tokens, composed.values),
        FORWARD,
    );
    coupled.read(client);
}

fn check_backward<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    sizes: Sizes,
    tokens: usize,
) {
    let dims = dims(sizes);
    let (n, m) = (dims.in_features(), dims.out_features());
    let data = Data::new(&dims, tokens, setting.dtype, 0);
    let scratch = [(); 2].map(|()| setting.output(client, &dims.scratch_shape(tokens)));
    let grad_input = setting.output(client, &[tokens, n]);
    let grad_u = setting.output(client, &dims.u_shape());
    let grad_s = setting.output(client, &dims.s_shape());
    let grad_v = setting.output(client, &dims.v_shape());
    let operands = BlastBackward {
        grad_output: setting.input(client, &[tokens, m], &data.grad.values),
        input: setting.input(client, &[tokens, n], &data.input.values),
        u: setting.input(client, &dims.u_shape(), &data.u.values),
        s: setting.input(client, &dims.s_shape(), &data.s.values),
        v: setting.input(client, &dims.v_shape(), &data.v.values),
        inner: scratch[0].binding(),
        coupled: scratch[1].binding(),
        grad_input: grad_input.binding(),
        grad_u: grad_u.binding(),
        grad_s: grad_s.binding(),
        grad_v: grad_v.binding(),
    };
    let dtype = setting.dtype;
    if !setting.ran(blast::backward(
        client,
        operands,
        &dims,
        dtype.elem(),
        &setting.strategy,
    )) {
        return;
    }
    let (g, x) = (&data.grad.values, &data.input.values);
    let (u, s, v) = (&data.u.values, &data.s.values, &data.v.values);
    let expected = reference::backward(&dims, tokens, g, x, u, s, v);
    let y = data.inner(&dims, dtype);
    let z = y.coupled(&data.s, dtype);
    let grad = data.grad.split(dims.blocks());
    let grad_z = grad.product(&data.u, dtype);
    let grad_y = grad_z.coupled(&data.s.swapped(), dtype);
    let x = data.input.split(dims.blocks());
    let what = |name: &str| format!("{name}: {setting:?} {dims:?} tokens {tokens}");
    let composed = grad.transposed().product(&z, dtype).values;
    assert_close(
        &what("grad_u"),
        &grad_u.read(client),
        &expected.u,
        &composed,
        GRADIENT,
    );
    let composed = y.coupling_gradient(&grad_z, dtype).values;
    assert_close(
        &what("grad_s"),
        &grad_s.read(client),
        &expected.s,
        &composed,
        GRADIENT,
    );
    let composed = grad_y.transposed().product(&x, dtype).values;
    assert_close(
        &what("grad_v"),
        &grad_v.read(client),
        &expected.v,
        &composed,
        GRADIENT,
    );
    let composed = grad_y.product(&data.v, dtype).merged().values;
    let found = grad_input.read(client);
    assert_close(
        &what("grad_input"),
        &found,
        &expected.input,
        &composed,
        GRADIENT,
    );
    for tensor in scratch {
        tensor.read(client);
    }
}

fn forward_matches_reference_when_sizes_share_no_factor_with_a_tile<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for setting in Setting::all() {
        for tokens in [0, 1, 17, 67] {
            check_forward(client, setting, (3, 13, 57, 39), tokens, true);
        }
        check_forward(client, setting, (1, 7, 11, 5), 3, false);
        check_forward(client, setting, (18, 35, 36, 54), 23, true);
        check_forward(client, setting, (2, 131, 74, 262), 257, true);
    }
}

fn forward_matches_reference_when_sizes_fill_tiles<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::all() {
        check_forward(client, setting, (4, 64, 128, 256), 64, true);
        check_forward(client, setting, (2, 128, 128, 256), 128, false);
        check_forward(client, setting, (16, 32, 64, 128), 16, true);
        check_forward(client, setting, (16, 32, 64, 128), 32, true);
    }
}

fn forward_matches_reference_for_strided_tensors<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::strided() {
        check_forward(client, setting, (4, 24, 48, 32), 12, true);
        check_forward(client, setting, (3, 13, 57, 39), 67, true);
    }
}

fn backward_matches_reference_when_sizes_share_no_factor_with_a_tile<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for setting in Setting::all() {
        for tokens in [1, 17, 67] {
            check_backward(client, setting, (3, 13, 57, 39), tokens);
        }
        check_backward(client, setting, (1, 7, 11, 5), 3);
        check_backward(client, setting, (18, 35, 36, 54), 23);
    }
}

fn backward_matches_reference_when_sizes_fill_tiles<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::all() {
        check_backward(client, setting, (4, 64, 128, 256), 64);
        check_backward(client, setting, (2, 128, 256, 256), 128);
    }
}

fn backward_matches_reference_for_strided_tensors<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::strided() {
        check_backward(client, setting, (4, 24, 48, 32), 12);
        check_backward(client, setting, (3, 13, 57, 39), 67);
    }
}

fn no_tokens_give_zero_gradients<R: Runtime>(client: &ComputeClient<R>) {
    let setting = Setting::plain(Dtype::F32, Strategy::Auto);
    check_backward(client, setting, (3, 13, 57, 39), 0);
}

/// Rows of whole copies, but no whole tiles: for one block of few, of 16, and in between; of a depth
/// that couples in one kernel and of one that does not.
const TENSOR_SIZES: [Sizes; 5] = [
    (1, 8, 16, 24),
    (3, 24, 120, 168),
    (9, 40, 648, 216),
    (16, 72, 384, 640),
    (2, 136, 528, 400),
];

fn forward_matches_reference_on_tensor_cores<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::tensor_cores().into_iter().chain(Setting::hopper()) {
        for sizes in TENSOR_SIZES {
            for tokens in [1, 7, 16, 31, 33, 197] {
                check_forward(client, setting, sizes, tokens, tokens % 2 == 1);
            }
        }
    }
    // More tiles than cubes that couple.
    let (sizes, tokens) = MANY_TILES;
    check_forward(client, Setting::tensor_cores()[1], sizes, tokens, false);
}

/// Several weights and one input, against each weight by itself.
fn check_layers<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    (sizes, layers): (Sizes, usize),
    tokens: usize,
) {
    let one = dims(sizes);
    let all = one.layers(layers).unwrap();
    let (n, m, dtype) = (one.in_features(), one.out_features(), setting.dtype);
    let data: Vec<Data> = (0..layers)
        .map(|layer| Data::new(&one, tokens, dtype, layer as u64))
        .collect();
    let along_rows = |block: usize, row: usize, column: usize| {
        data[row / one.rank()].v.at(block, row % one.rank(), column)
    };
    let along_columns = |block: usize, row: usize, column: usize| {
        let s = &data[column / one.rank()].s;
        s.at(block, row, column % one.rank())
    };
    let along_blocks = |block: usize, row: usize, column: usize| {
        let u = &data[block / one.blocks()].u;
        u.at(block % one.blocks(), row, column)
    };
    let side_by_side = |part: &dyn Fn(&Data) -> Vec<f64>| {
        let parts: Vec<Vec<f64>> = data.iter().map(part).collect();
        (0..tokens * layers * m)
            .map(|at| parts[at / m % layers][at / (m * layers) * m + at % m])
            .collect::<Vec<f64>>()
    };
    let input = &data[0].input;
    let bias = side_by_side(&|data| data.bias.values.repeat(tokens));
    let bias = &bias[..layers * m];
    let (output, epilogue) = setting.finish(client, [tokens, layers * m], Some(bias));
    let [blocks, _, ranks] = all.scratch_shape(tokens);
    let coupled = setting.scratch(client, tokens, |room| [blocks, room, ranks]);
    let joined = |shape: [usize; 3], f: &dyn Fn(usize, usize, usize) -> f64| {
        setting.input(client, &shape, &Blocks::from_fn(shape, f).values)
    };
    let operands = BlastForward {
        input: setting.input(client, &[tokens, n], &input.values),
        u: joined(all.u_shape(), &along_blocks),
        s: joined(all.s_shape(), &along_columns),
        v: joined(all.v_shape(), &along_rows),
        epilogue,
        coupled: coupled.binding(),
        output: output.binding(),
    };
    let launched = blast::forward(client, operands, &all, dtype.elem(), &setting.strategy);
    if !setting.ran(launched) {
        return;
    }
    let expected = side_by_side(&|data| {
        let (u, s, v) = (&data.u.values, &data.s.values, &data.v.values);
        let bias = Some(data.bias.values.as_slice());
        reference::forward(&one, tokens, &input.values, u, s, v, bias)
    });
    let composed = side_by_side(&|data| {
        let y = input
            .split(one.blocks())
            .product(&data.v.transposed(), dtype);
        let z = y.coupled(&data.s, dtype);
        let out = z.product(&data.u.transposed(), dtype).merged();
        out.biased(Some(&data.bias.values), dtype).values
    });
    assert_close(
        &format!("{setting:?} {all:?} tokens {tokens}"),
        &output.read(client),
        &setting.expected(tokens, expected),
        &setting.composed(tokens, composed),
        FORWARD,
    );
}

fn layers_of_one_input_match_reference<R: Runtime>(client: &ComputeClient<R>) {
    let sizes = [((4, 64, 128, 256), 3), ((16, 48, 256, 640), 3)];
    let settings = Setting::all().into_iter().chain(Setting::tensor_cores());
    for setting in settings.chain(Setting::hopper()).chain(Setting::fused()) {
        for sizes in sizes {
            for tokens in [1, 16, 67] {
                check_layers(client, setting, sizes, tokens);
            }
        }
    }
    // What tensor cores do not take.
    for setting in Setting::all() {
        check_layers(client, setting, ((3, 16, 57, 48), 2), 5);
    }
}

fn a_layer_gates_another<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::gated() {
        for sizes in [(4, 64, 128, 256), (16, 48, 256, 640)] {
            for tokens in [1, 16, 67] {
                check_layers(client, setting, (sizes, 2), tokens);
            }
        }
    }
}

fn forward_applies_the_epilogue<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::finished() {
        check_forward(client, setting, (2, 24, 48, 80), 5, true);
        check_forward(client, setting, (2, 24, 48, 80), 70, true);
    }
}

fn forward_matches_reference_with_little_scratch<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::little_scratch() {
        for tokens in [23, 48, 70] {
            check_forward(client, setting, (2, 24, 48, 80), tokens, true);
        }
    }
}

/// Sizes and tokens of which every multiprocessor has several tiles, and couplings that one group of planes
/// loads more of than the other.
const MANY_TILES: (Sizes, usize) = ((12, 136, 96, 96), 4100);

/// Blocks in pairs and one left over, or one alone; depths that are no whole panels; ranks that end
/// inside a tile.
const FUSED_SIZES: [Sizes; 7] = [
    (16, 104, 1152, 320),
    (12, 72, 768, 96),
    (5, 328, 960, 80),
    (9, 72, 360, 72),
    (1, 8, 64, 24),
    (3, 200, 408, 96),
    (2, 64, 128, 128),
];

fn forward_matches_reference_with_the_coupling_in_the_product<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for (number, sizes) in FUSED_SIZES.into_iter().enumerate() {
        let setting = Setting::fused()[number % 2];
        for tokens in [1, 33, 128, 300] {
            check_forward(client, setting, sizes, tokens, number % 3 == 0);
        }
    }
    // More tiles than multiprocessors.
    check_forward(client, Setting::fused()[1], (2, 328, 128, 80), 4100, false);
    let (sizes, tokens) = MANY_TILES;
    check_forward(client, Setting::fused()[1], sizes, tokens, false);
}

fn backward_matches_reference_on_tensor_cores<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::tensor_cores() {
        for sizes in TENSOR_SIZES {
            for tokens in [1, 33, 197] {
                check_backward(client, setting, sizes, tokens);
            }
        }
    }
}

fn both_passes_match_reference_with_measured_plans<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::tuned() {
        // The first of each class of token counts is measured, the second takes what is known.
        for tokens in [5, 4, 70, 65] {
            check_forward(client, setting, (2, 24, 48, 80), tokens, true);
            check_backward(client, setting, (2, 24, 48, 80), tokens);
        }
    }
}
