//! Monarch products.

use cubecl::prelude::*;
use cubecl_kernels::monarch::{self, MonarchBackward, MonarchForward, reference};
use cubecl_kernels::{MonarchDims, OutputOrder, Strategy};
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
    forward_matches_reference_in_one_kernel
    layers_of_one_input_match_reference
    a_layer_gates_another
    backward_matches_reference_when_sizes_share_no_factor_with_a_tile
    backward_matches_reference_when_sizes_fill_tiles
    backward_matches_reference_for_strided_tensors
    backward_matches_reference_on_tensor_cores
    no_tokens_give_zero_gradients
    ; alone both_passes_match_reference_with_measured_plans
}

const ORDERS: [OutputOrder; 2] = [OutputOrder::Contiguous, OutputOrder::Interleaved];

/// Blocks, rank, input and output features.
type Sizes = (usize, usize, usize, usize);

fn dims((blocks, rank, n, m): Sizes, order: OutputOrder) -> MonarchDims {
    MonarchDims::new(blocks, rank, n, m, order).unwrap()
}

/// Inputs of one operation, rounded to the element type.
struct Data {
    input: Blocks,
    right: Blocks,
    left: Blocks,
    bias: Blocks,
    grad: Blocks,
}

impl Data {
    fn new(dims: &MonarchDims, tokens: usize, dtype: Dtype) -> Self {
        let rng = &mut StdRng::seed_from_u64(2);
        Self {
            input: Blocks::random([1, tokens, dims.in_features()], dtype, rng),
            right: Blocks::random(dims.right_shape(), dtype, rng),
            left: Blocks::random(dims.left_shape(), dtype, rng),
            bias: Blocks::random([1, 1, dims.out_features()], dtype, rng),
            grad: Blocks::random([1, tokens, dims.out_features()], dtype, rng),
        }
    }

    /// `Z` by the plain composition.
    fn inner(&self, dims: &MonarchDims, dtype: Dtype) -> Blocks {
        let x = self.input.split(dims.blocks());
        x.product(&self.right.transposed(), dtype)
            .permuted(dims.left_blocks())
    }
}

fn check_forward<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    dims: MonarchDims,
    tokens: usize,
    with_bias: bool,
) {
    let (n, m) = (dims.in_features(), dims.out_features());
    let data = Data::new(&dims, tokens, setting.dtype);
    let [blocks, _, rank] = dims.scratch_shape(tokens);
    let inner = setting.scratch(client, tokens, |room| [blocks, room, rank]);
    let bias = with_bias.then_some(data.bias.values.as_slice());
    let (output, epilogue) = setting.finish(client, [tokens, m], bias);
    let operands = MonarchForward {
        input: setting.input(client, &[tokens, n], &data.input.values),
        right: setting.input(client, &dims.right_shape(), &data.right.values),
        left: setting.input(client, &dims.left_shape(), &data.left.values),
        epilogue,
        output: output.binding(),
    };
    let dtype = setting.dtype;
    let mut asked = false;
    let scratch = |shape| {
        asked = true;
        assert_eq!(shape, dims.scratch_shape(tokens));
        inner.binding()
    };
    let launched = monarch::forward(
        client,
        operands,
        &dims,
        dtype.elem(),
        &setting.strategy,
        scratch,
    );
    if !setting.ran(launched) {
        return;
    }
    if !matches!(setting.strategy, Strategy::Auto | Strategy::Tuned) {
        // A layer that gates another at once has no kernel for both products.
        let one = dims.layers(1).map(|one| one.scratch_shape(tokens));
        let at_once = Ok(dims.scratch_shape(tokens)) != one;
        let gated_at_once = setting.gated && at_once;
        let apart = (setting.strategy != Strategy::Fused || gated_at_once) && tokens > 0;
        assert_eq!(asked, apart, "scratch for {setting:?}");
    }
    let bias = with_bias.then_some(data.bias.values.as_slice());
    let (x, right, left) = (&data.input.values, &data.right.values, &data.left.values);
    let expected = setting.expected(
        tokens,
        reference::forward(&dims, tokens, x, right, left, bias),
    );
    let blocks = data
        .inner(&dims, dtype)
        .product(&data.left.transposed(), dtype);
    let composed = match dims.order() {
        OutputOrder::Contiguous => blocks.merged(),
        OutputOrder::Interleaved => blocks.merged_interleaved(),
    };
    let composed = composed.biased(bias, dtype);
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
    dims: MonarchDims,
    tokens: usize,
) {
    let (n, m) = (dims.in_features(), dims.out_features());
    let data = Data::new(&dims, tokens, setting.dtype);
    let inner = setting.output(client, &dims.backward_scratch_shape(tokens));
    let grad_input = setting.output(client, &[tokens, n]);
    let grad_right = setting.output(client, &dims.right_shape());
    let grad_left = setting.output(client, &dims.left_shape());
    let operands = MonarchBackward {
        grad_output: setting.input(client, &[tokens, m], &data.grad.values),
        input: setting.input(client, &[tokens, n], &data.input.values),
        right: setting.input(client, &dims.right_shape(), &data.right.values),
        left: setting.input(client, &dims.left_shape(), &data.left.values),
        inner: inner.binding(),
        grad_input: grad_input.binding(),
        grad_right: grad_right.binding(),
        grad_left: grad_left.binding(),
    };
    let dtype = setting.dtype;
    if !setting.ran(monarch::backward(
        client,
        operands,
        &dims,
        dtype.elem(),
        &setting.strategy,
    )) {
        return;
    }
    let (g, x) = (&data.grad.values, &data.input.values);
    let (right, left) = (&data.right.values, &data.left.values);
    let expected = reference::backward(&dims, tokens, g, x, right, left);
    let z = data.inner(&dims, dtype);
    let grad = match dims.order() {
        OutputOrder::Contiguous => data.grad.split(dims.left_blocks()),
        OutputOrder::Interleaved => data.grad.split_interleaved(dims.blocks()),
    };
    let grad_y = grad.product(&data.left, dtype).permuted(dims.blocks());
    let x = data.input.split(dims.blocks());
    let what = |name: &str| format!("{name}: {setting:?} {dims:?} tokens {tokens}");
    let composed = grad.transposed().product(&z, dtype).values;
    let found = grad_left.read(client);
    assert_close(
        &what("grad_left"),
        &found,
        &expected.left,
        &composed,
        GRADIENT,
    );
    let composed = grad_y.transposed().product(&x, dtype).values;
    let found = grad_right.read(client);
    assert_close(
        &what("grad_right"),
        &found,
        &expected.right,
        &composed,
        GRADIENT,
    );
    let composed = grad_y.product(&data.right, dtype).merged().values;
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
        for order in ORDERS {
            for tokens in [0, 1, 17, 67] {
                check_forward(client, setting, dims((3, 15, 57, 39), order), tokens, true);
            }
            check_forward(client, setting, dims((1, 7, 11, 5), order), 3, false);
        }
        check_forward(
            client,
            setting,
            dims((2, 134, 74, 262), OutputOrder::Contiguous),
            257,
            true,
        );
    }
}

fn forward_matches_reference_when_sizes_fill_tiles<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::all() {
        for order in ORDERS {
            check_forward(client, setting, dims((4, 64, 128, 256), order), 64, true);
        }
        check_forward(
            client,
            setting,
            dims((2, 128, 128, 256), OutputOrder::Contiguous),
            128,
            false,
        );
        check_forward(
            client,
            setting,
            dims((16, 32, 64, 128), OutputOrder::Interleaved),
            16,
            true,
        );
    }
}

fn forward_matches_reference_for_strided_tensors<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::strided() {
        for order in ORDERS {
            check_forward(client, setting, dims((4, 24, 48, 32), order), 12, true);
            check_forward(client, setting, dims((3, 15, 57, 39), order), 67, true);
        }
    }
}

fn backward_matches_reference_when_sizes_share_no_factor_with_a_tile<R: Runtime>(
    client: &ComputeClient<R>,
) {
    for setting in Setting::all() {
        for order in ORDERS {
            for tokens in [1, 17, 67] {
                check_backward(client, setting, dims((3, 15, 57, 39), order), tokens);
            }
            check_backward(client, setting, dims((1, 7, 11, 5), order), 3);
        }
    }
}

fn backward_matches_reference_when_sizes_fill_tiles<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::all() {
        for order in ORDERS {
            check_backward(client, setting, dims((4, 64, 128, 256), order), 64);
        }
        check_backward(
            client,
            setting,
            dims((2, 128, 256, 256), OutputOrder::Contiguous),
            128,
        );
    }
}

fn backward_matches_reference_for_strided_tensors<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::strided() {
        for order in ORDERS {
            check_backward(client, setting, dims((4, 24, 48, 32), order), 12);
            check_backward(client, setting, dims((3, 15, 57, 39), order), 67);
        }
    }
}

fn no_tokens_give_zero_gradients<R: Runtime>(client: &ComputeClient<R>) {
    let setting = Setting::plain(Dtype::F32, Strategy::Auto);
    check_backward(
        client,
        setting,
        dims((3, 15, 57, 39), OutputOrder::Contiguous),
        0,
    );
}

/// Rows of whole copies, but no whole tiles; parts of 1, 6, 8 and 24 ranks.
const TENSOR_SIZES: [Sizes; 4] = [
    (8, 8, 128, 192),
    (4, 24, 160, 224),
    (16, 128, 384, 640),
    (3, 72, 264, 600),
];

fn forward_matches_reference_on_tensor_cores<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::tensor_cores().into_iter().chain(Setting::hopper()) {
        for sizes in TENSOR_SIZES {
            for tokens in [1, 16, 31, 33, 197] {
                let order = match tokens % 2 {
                    0 => OutputOrder::Contiguous,
                    _ => OutputOrder::Interleaved,
                };
                check_forward(client, setting, dims(sizes, order), tokens, tokens % 3 == 1);
            }
            check_forward(
                client,
                setting,
                dims(sizes, OutputOrder::Contiguous),
                67,
                true,
            );
        }
    }
}

fn layers_of_one_input_match_reference<R: Runtime>(client: &ComputeClient<R>) {
    let several = |sizes, layers| {
        let dims = dims(sizes, OutputOrder::Contiguous);
        dims.layers(layers).unwrap()
    };
    let settings = Setting::all().into_iter().chain(Setting::tensor_cores());
    for setting in settings.chain(Setting::hopper()) {
        // With one block they are low-rank.
        for dims in [
            several((4, 64, 128, 256), 3),
            several((1, 32, 48, 64), 3),
            several((8, 128, 384, 640), 2),
        ] {
            for tokens in [1, 16, 67] {
                check_forward(client, setting, dims, tokens, tokens == 16);
            }
            check_backward(client, setting, dims, 17);
        }
    }
    // What tensor cores do not take.
    for setting in Setting::all() {
        let dims = several((3, 15, 57, 39), 2);
        check_forward(client, setting, dims, 5, true);
        check_backward(client, setting, dims, 17);
    }
    for setting in Setting::fused() {
        for dims in [
            several((4, 64, 128, 256), 3),
            several((8, 256, 384, 640), 2),
        ] {
            for tokens in [1, 77, 129] {
                check_forward(client, setting, dims, tokens, tokens == 77);
            }
        }
    }
    let interleaved = dims((4, 24, 48, 32), OutputOrder::Interleaved);
    assert!(interleaved.layers(2).is_err() && interleaved.layers(0).is_err());
    assert_eq!(interleaved.layers(1), Ok(interleaved));
}

fn a_layer_gates_another<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::gated() {
        for sizes in [(4, 64, 128, 256), (1, 64, 64, 128), (8, 128, 384, 640)] {
            let dims = dims(sizes, OutputOrder::Contiguous).layers(2).unwrap();
            for tokens in [1, 16, 67] {
                check_forward(client, setting, dims, tokens, tokens == 16);
            }
        }
    }
}

fn forward_applies_the_epilogue<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::finished() {
        let order = OutputOrder::Interleaved;
        check_forward(client, setting, dims((2, 24, 48, 80), order), 5, true);
        check_forward(client, setting, dims((2, 24, 48, 80), order), 70, true);
    }
}

fn forward_matches_reference_with_little_scratch<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::little_scratch() {
        for tokens in [23, 48, 70] {
            check_forward(
                client,
                setting,
                dims((2, 24, 48, 80), OutputOrder::Interleaved),
                tokens,
                true,
            );
        }
    }
}

/// Parts of 16 to 128 ranks, which panels of the left factor end with after 1, 2 or 4 of; one to three
/// tiles of columns, whole and not; depths that are no whole panels.
const FUSED_SIZES: [Sizes; 8] = [
    (4, 256, 512, 320),
    (4, 64, 192, 192),
    (2, 192, 208, 368),
    (2, 256, 320, 800),
    (4, 192, 288, 1376),
    (8, 128, 192, 320),
    (4, 320, 256, 1056),
    (1, 64, 72, 520),
];

fn forward_matches_reference_in_one_kernel<R: Runtime>(client: &ComputeClient<R>) {
    for (number, sizes) in FUSED_SIZES.into_iter().enumerate() {
        // Each order, bias and element type is a kernel of its own: not every one at every size.
        let setting = Setting::fused()[number % 2];
        let order = ORDERS[number / 2 % 2];
        for tokens in [1, 77, 129, 300] {
            check_forward(client, setting, dims(sizes, order), tokens, number % 3 == 0);
        }
    }
    for setting in Setting::finished() {
        if setting.strategy == Strategy::Hopper {
            let fused = Setting {
                strategy: Strategy::Fused,
                ..setting
            };
            let order = match setting.merge {
                None => OutputOrder::Contiguous,
                Some(_) => OutputOrder::Interleaved,
            };
            check_forward(client, fused, dims((4, 64, 192, 800), order), 130, true);
        }
    }
}

fn backward_matches_reference_on_tensor_cores<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::tensor_cores() {
        for sizes in TENSOR_SIZES {
            for tokens in [1, 33, 197] {
                check_backward(
                    client,
                    setting,
                    dims(sizes, OutputOrder::Contiguous),
                    tokens,
                );
            }
        }
    }
}

fn both_passes_match_reference_with_measured_plans<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::tuned() {
        // The first of each class of token counts is measured, the second takes what is known.
        for tokens in [5, 4, 70, 65] {
            let order = OutputOrder::Interleaved;
            check_forward(client, setting, dims((2, 24, 48, 80), order), tokens, true);
            check_backward(client, setting, dims((2, 24, 48, 80), order), tokens);
        }
    }
}
