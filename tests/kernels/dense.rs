//! Dense products.

use cubecl::prelude::*;
use cubecl_kernels::Strategy;
use cubecl_kernels::dense::{DenseForward, forward};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::blocks::Blocks;
use crate::harness::clients::on_every_device;
use crate::harness::compare::{FORWARD, assert_close};
use crate::harness::dtype::Dtype;
use crate::harness::tensors::Layout;
use crate::setting::Setting;

on_every_device! {
    forward_matches_reference_with_weights_along_inputs_and_along_outputs
    forward_applies_the_epilogue
    few_tiles_of_great_depth_match_the_reference
    a_layer_gates_another
}

fn check<R: Runtime>(
    client: &ComputeClient<R>,
    setting: Setting,
    [tokens, inputs, outputs]: [usize; 3],
    with_bias: bool,
) {
    let dtype = setting.dtype;
    let rng = &mut StdRng::seed_from_u64(2);
    let input = Blocks::random([1, tokens, inputs], dtype, rng);
    let weight = Blocks::random([1, inputs, outputs], dtype, rng);
    let bias = Blocks::random([1, 1, outputs], dtype, rng);
    let added = with_bias.then_some(bias.values.as_slice());
    let (output, epilogue) = setting.finish(client, [tokens, outputs], added);
    let operands = DenseForward {
        input: Setting {
            read: Layout::Contiguous,
            ..setting
        }
        .input(client, &[tokens, inputs], &input.values),
        weight: setting.input(client, &[inputs, outputs], &weight.values),
        epilogue,
        output: output.binding(),
    };
    if !setting.ran(forward(client, operands, dtype.elem(), &setting.strategy)) {
        return;
    }
    let expected: Vec<f64> = (0..tokens * outputs)
        .map(|n| {
            let (token, column) = (n / outputs, n % outputs);
            let terms = (0..inputs).map(|k| input.at(0, token, k) * weight.at(0, k, column));
            terms.sum::<f64>() + if with_bias { bias.values[column] } else { 0.0 }
        })
        .collect();
    let composed = input.product(&weight, dtype).biased(added, dtype);
    assert_close(
        &format!("{setting:?} {tokens} x {inputs} x {outputs}, bias {with_bias}"),
        &output.read(client),
        &setting.expected(tokens, expected),
        &setting.composed(tokens, composed.values),
        FORWARD,
    );
}

fn forward_matches_reference_with_weights_along_inputs_and_along_outputs<R: Runtime>(
    client: &ComputeClient<R>,
) {
    let tensor_cores = Setting::tensor_cores().into_iter();
    for setting in Setting::all().into_iter().chain(tensor_cores) {
        for read in [Layout::Contiguous, Layout::Transposed] {
            let setting = Setting { read, ..setting };
            for (sizes, with_bias) in [
                ([1, 64, 48], true),
                ([5, 33, 17], false),
                ([70, 96, 40], true),
            ] {
                // Tensors of 16 bits need rows of a multiple of four bytes on tensor cores.
                let odd = sizes[1] % 2 == 1;
                if odd
                    && Setting::tensor_cores()
                        .iter()
                        .any(|cores| cores.strategy == setting.strategy)
                {
                    continue;
                }
                check(client, setting, sizes, with_bias);
            }
        }
    }
}

fn forward_applies_the_epilogue<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::finished() {
        check(client, setting, [40, 64, 64], true);
    }
}

/// Sizes for which cubes of a cluster share the depth on compute capability 9.0: eight, four, two, and two with wider
/// tiles.
fn few_tiles_of_great_depth_match_the_reference<R: Runtime>(client: &ComputeClient<R>) {
    let finished = Setting::finished().into_iter();
    let finished = finished.filter(|setting| setting.strategy == Strategy::Hopper);
    for setting in Setting::hopper().into_iter().chain(finished) {
        // A map of the factor needs its depth along the rows.
        let read = Layout::Transposed;
        for sizes in [[130, 4096, 96], [70, 1000, 40]] {
            check(client, Setting { read, ..setting }, sizes, true);
        }
    }
    let setting = Setting::plain(Dtype::Bf16, Strategy::Hopper);
    for sizes in [[640, 1024, 256], [900, 2048, 248], [700, 3328, 712]] {
        let read = Layout::Transposed;
        check(client, Setting { read, ..setting }, sizes, false);
    }
}

fn a_layer_gates_another<R: Runtime>(client: &ComputeClient<R>) {
    for setting in Setting::gated() {
        for tokens in [1, 16, 67] {
            let read = Layout::Transposed;
            check(
                client,
                Setting { read, ..setting },
                [tokens, 64, 256],
                tokens == 16,
            );
        }
    }
}
