//! Low-rank products.

use cubecl::prelude::*;
use cubecl_kernels::low_rank::{self, LowRankBackward, LowRankForward, reference};
use cubecl_kernels::{LowRankDims, Strategy};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::blocks::Blocks;
use crate::harness::clients::on_every_device;
use crate::harness::compare::{FORWARD, GRADIENT, assert_close};
use crate::harness::dtype::Dtype;
use crate::harness::tensors::Layout;
use crate::setting::Setting;

on_every_device! {
    forward_matches_reference_when_sizes_share_no_factor_with_a_tile
    forward_matches_reference_when_sizes_fill_tiles
    forward_matches_reference_for_strided_tensors
    forward_matches_reference_on_tensor_cores
    forward_applies_the_epilogue
    forward_matches_reference_with_little_scratch
    backward_matches_reference_when_sizes_share_no_factor_with_a_tile
    backward_matches_reference_when_sizes_fill_tiles
    backward_matches_reference_for_strided_tensors
    backward_matches_reference_on_tensor_cores
    backward_accepts_a_gradient_that_is_broadcast
    no_tokens_give_zero_gradients
    ; alone both_passes_match_reference_with_measured_plans
}

/// Inputs of one operation, rounded to the element type.
struct Data {
    input: Blocks,
    u: Blocks,
    v: Blocks,
    bias: Blocks,
    grad: Blocks,
}

impl Data {
    fn new(dims: &LowRankDims, tokens: usize, dtype: Dtype) -> Self {
        let rng = &mut StdRng::seed_from_u64(1);
        let [out, rank] = dims.u_shape();
        Self {
            input: Blocks::random([1, tokens, dims.in_features()], dtype, rng),
            u: Blocks::random([1, out, rank], dtype, rng),
            v: Blocks::random([1, rank, dims.in_features()], dtype, rng),
            bias: Blocks::random([1, 1, out], dtype, rng),
            grad: Blocks::random([1, tokens, out], dtype, rng),
        }
    }
}

fn check_forward<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    (rank, n, m): (usize, usize, usize),
    tokens: usize,
    with_bias: bool,
) {
    let dims = LowRankDims::new(rank, n, m).unwrap();
    let data = Data::new(&dims, tokens, setting.dtype);
    let inner = setting.scratch(client, tokens, |tokens| dims.scratch_shape(tokens));
    let bias = with_bias.then_some(data.bias.values.as_slice());
    let (output, epilogue) = setting.finish(client, [tokens, m], bias);
    let operands = LowRankForward {
        input: setting.input(client, &[tokens, n], &data.input.values),
        u: setting.input(client, &dims.u_shape(), &data.u.values),
        v: setting.input(client, &dims.v_shape(), &data.v.values),
        epilogue,
        inner: inner.binding(),
        output: output.binding(),
    };
    let dtype = setting.dtype;
    if !setting.ran(low_rank::forward(
        client,
        operands,
        &dims,
        dtype.elem(),
        &setting.strategy,
    )) {
        return;
    }
    let bias = with_bias.then_some(data.bias.values.as_slice());
    let (x, u, v) = (&data.input.values, &data.u.values, &data.v.values);
    let expected = setting.expected(tokens, reference::forward(&dims, tokens, x, u, v, bias));
    let composed = data
        .input
        .product(&data.v.transposed(), dtype)
        .product(&data.u.transposed(), dtype)
        .biased(bias, dtype);
    let what = format!("{setting:?} {dims:?} tokens {tokens}");
    assert_close(
        &what,
        &output.read(client),
        &expected,
        &setting.composed(tokens, composed.values),
        FORWARD,
    );
    inner.read(client);
}

fn check_backward<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    (rank, n, m): (usize, usize, usize),
    tokens: usize,
) {
    let dims = LowRankDims::new(rank, n, m).unwrap();
    let data = Data::new(&dims, tokens, setting.dtype);
    compare_backward(client, setting, &dims, tokens, &data, setting);
}

fn compare_backward<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    dims: &LowRankDims,
    tokens: usize,
    data: &Data,
    grad_setting: Setting,
) {
    let (n, m) = (dims.in_features(), dims.out_features());
    let inner = setting.output(client, &dims.scratch_shape(tokens));
    let grad_input = setting.output(client, &[tokens, n]);
    let grad_u = setting.output(client, &dims.u_shape());
    let grad_v = setting.output(client, &dims.v_shape());
    let operands = LowRankBackward {
        grad_output: grad_setting.input(client, &[tokens, m], &data.grad.values),
        input: setting.input(client, &[tokens, n], &data.input.values),
        u: setting.input(client, &dims.u_shape(), &data.u.values),
        v: setting.input(client, &dims.v_shape(), &data.v.values),
        inner: inner.binding(),
        grad_input: grad_input.binding(),
        grad_u: grad_u.binding(),
        grad_v: grad_v.binding(),
    };
    let dtype = setting.dtype;
    if !setting.ran(low_rank::backward(
        client,
        operands,
        dims,
        dtype.elem(),
        &setting.strategy,
    )) {
        return;
    }
    let (g, x) = (&data.grad.values, &data.input.values);
    let expected = reference::backward(dims, tokens, g, x, &data.u.values, &data.v.values);
    let y = data.input.product(&data.v.transposed(), dtype);
    let grad_y = data.grad.product(&data.u, dtype);
    let what = |name: &str| format!("{name}: {setting:?} {dims:?} tokens {tokens}");
    let composed = data.grad.transposed().product(&y, dtype).values;
    assert_close(
        &what("grad_u"),
        &grad_u.read(client),
        &expected.u,
        &composed,
        GRADIENT,
    );
    let composed = grad_y.transposed().product(&data.input, dtype).values;
    assert_close(
        &what("grad_v"),
        &grad_v.read(client),
        &expected.v,
        &composed,
        GRADIENT,
    );
    let composed = grad_y.product(&data.v, dtype).values;
    let found = grad_input.read(client);
    assert_close(
        &what("grad_input"),
        &found,
        &expected.input,
        &composed,
        GRADIENT,
    );
    inner.read(client);
}

fn forward_matches_reference_when_sizes_share_no_factor_with_a_tile<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for setting in Setting::all() {
        for tokens in [0, 1, 17, 67] {
            check_forward(client, setting, (13, 71, 37), tokens, true);
        }
        check_forward(client, setting, (1, 5, 3), 2, false);
        check_forward(client, setting, (67, 33, 131), 257, true);
    }
}

fn forward_matches_reference_when_sizes_fill_tiles<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::all() {
        check_forward(client, setting, (128, 64, 256), 256, true);
        check_forward(client, setting, (64, 128, 192), 16, false);
        check_forward(client, setting, (8, 512, 64), 64, true);
    }
}

fn forward_matches_reference_for_strided_tensors<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::strided() {
        check_forward(client, setting, (20, 44, 36), 12, true);
        check_forward(client, setting, (13, 71, 37), 67, true);
        check_forward(client, setting, (132, 36, 140), 133, true);
    }
}

fn backward_matches_reference_when_sizes_share_no_factor_with_a_tile<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for setting in Setting::all() {
        for tokens in [1, 17, 67] {
            check_backward(client, setting, (13, 71, 37), tokens);
        }
        check_backward(client, setting, (67, 33, 131), 257);
    }
}

fn backward_matches_reference_when_sizes_fill_tiles<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::all() {
        check_backward(client, setting, (128, 128, 256), 256);
        check_backward(client, setting, (64, 128, 192), 16);
    }
}

fn backward_matches_reference_for_strided_tensors<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::strided() {
        check_backward(client, setting, (20, 44, 36), 12);
        check_backward(client, setting, (13, 71, 37), 67);
    }
}

/// As after `output.sum().backward()`.
fn backward_accepts_a_gradient_that_is_broadcast<R: Runtime>(client: &ComputeClient<R>) {
    for strategy in [Strategy::Naive, Strategy::Tiled] {
        let setting = Setting::plain(Dtype::F32, strategy);
        let dims = LowRankDims::new(8, 24, 40).unwrap();
        let mut data = Data::new(&dims, 19, setting.dtype);
        data.grad.values.fill(0.5);
        let grad_setting = Setting {
            read: Layout::Broadcast,
            ..setting
        };
        compare_backward(client, setting, &dims, 19, &data, grad_setting);
    }
}

fn no_tokens_give_zero_gradients<R: Runtime>(client: &ComputeClient<R>) {
    for mut setting in Setting::all() {
        for written in [Layout::Contiguous, Layout::Padded, Layout::Transposed] {
            setting.written = written;
            check_backward(client, setting, (13, 71, 37), 0);
        }
    }
}

/// Rank, input and output features: rows of whole copies of 16, 8 and 4 bytes, but no whole tiles.
const TENSOR_SIZES: [(usize, usize, usize); 4] = [
    (8, 16, 24),
    (136, 264, 200),
    (76, 300, 132),
    (150, 514, 310),
];

fn forward_matches_reference_on_tensor_cores<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::tensor_cores().into_iter().chain(Setting::hopper()) {
        for sizes in TENSOR_SIZES {
            for tokens in [1, 7, 16, 31, 33, 197] {
                check_forward(client, setting, sizes, tokens, tokens % 2 == 1);
            }
        }
    }
}

fn forward_applies_the_epilogue<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::finished() {
        check_forward(client, setting, (24, 48, 80), 5, true);
        check_forward(client, setting, (24, 48, 80), 70, true);
    }
}

fn forward_matches_reference_with_little_scratch<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::little_scratch() {
        for tokens in [23, 48, 70] {
            check_forward(client, setting, (24, 48, 80), tokens, true);
        }
    }
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
            check_forward(client, setting, (24, 48, 80), tokens, true);
            check_backward(client, setting, (24, 48, 80), tokens);
        }
    }
}
