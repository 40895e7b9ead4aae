//! Calls that have to be refused, with everything left unwritten.

use cubecl::ir::IntKind;
use cubecl::prelude::*;
use cubecl_kernels::low_rank::{self, LowRankForward};
use cubecl_kernels::{Epilogue, KernelError, LowRankDims, Merge, Missing, Requirement, Strategy};

use crate::harness::clients::on_every_device;
use crate::harness::dtype::Dtype;
use crate::harness::tensors::{DeviceTensor, Layout};

on_every_device! {
    each_operand_of_the_wrong_shape_is_named
    a_buffer_that_is_too_small_is_refused
    an_output_that_is_broadcast_is_refused
    an_element_type_that_is_no_float_is_unavailable
}

const TOKENS: usize = 3;

fn dims() -> LowRankDims {
    LowRankDims::new(2, 4, 5).unwrap()
}

fn operands<R: Runtime>(client: &ComputeClient<R>, output: &DeviceTensor<R>) -> LowRankForward<R> {
    let junk = |shape: &[usize]| {
        DeviceTensor::junk(client, shape, Layout::Contiguous, Dtype::F32).binding()
    };
    LowRankForward {
        input: junk(&[TOKENS, 4]),
        u: junk(&[5, 2]),
        v: junk(&[2, 4]),
        epilogue: Epilogue {
            bias: Some(junk(&[5])),
            merged: Some((Merge::Plus, junk(&[TOKENS, 5]))),
            ..Epilogue::default()
        },
        inner: junk(&[TOKENS, 2]),
        output: output.binding(),
    }
}

fn output<R: Runtime>(client: &ComputeClient<R>, layout: Layout) -> DeviceTensor<R> {
    DeviceTensor::junk(client, &[TOKENS, 5], layout, Dtype::F32)
}

/// The error of a call, after seeing that it wrote nothing.
fn refused<R: Runtime>(
    client: &ComputeClient<R>,
    operands: LowRankForward<R>,
    output: &DeviceTensor<R>,
    dtype: ElemType,
) -> KernelError {
    let result = low_rank::forward(client, operands, &dims(), dtype, &Strategy::Auto);
    assert!(output.read(client).iter().all(|value| value.is_nan()));
    result.unwrap_err()
}

fn each_operand_of_the_wrong_shape_is_named<R: Runtime>(client: &ComputeClient<R>) {
    let output = output(client, Layout::Contiguous);
    type Spoil<R> = fn(&mut LowRankForward<R>, TensorBinding<R>);
    let spoils: [(&str, &[usize], Spoil<R>); 7] = [
        ("input", &[TOKENS, 4], |operands, wrong| {
            operands.input = wrong
        }),
        ("u", &[5, 2], |operands, wrong| operands.u = wrong),
        ("v", &[2, 4], |operands, wrong| operands.v = wrong),
        ("bias", &[5], |operands, wrong| {
            operands.epilogue.bias = Some(wrong);
        }),
        ("merged", &[TOKENS, 5], |operands, wrong| {
            operands.epilogue.merged = Some((Merge::Plus, wrong));
        }),
        ("inner", &[TOKENS, 2], |operands, wrong| {
            operands.inner = wrong
        }),
        ("output", &[TOKENS, 5], |operands, wrong| {
            operands.output = wrong
        }),
    ];
    for (operand, expected, spoil) in spoils {
        let mut operands = operands(client, &output);
        let actual = [TOKENS, 7];
        let wrong = DeviceTensor::junk(client, &actual, Layout::Contiguous, Dtype::F32);
        spoil(&mut operands, wrong.binding());
        let error = refused(client, operands, &output, Dtype::F32.elem());
        let (expected, actual) = (expected.to_vec(), actual.to_vec());
        assert_eq!(
            error,
            KernelError::Shape {
                operand,
                expected,
                actual
            }
        );
    }
}

fn a_buffer_that_is_too_small_is_refused<R: Runtime>(client: &ComputeClient<R>) {
    let output = output(client, Layout::Contiguous);
    let mut operands = operands(client, &output);
    operands.input.strides[0] = 100;
    let error = refused(client, operands, &output, Dtype::F32.elem());
    let KernelError::Buffer {
        operand,
        required,
        actual,
    } = error
    else {
        panic!("unexpected {error}");
    };
    assert_eq!((operand, required), ("input", (2 * 100 + 3 + 1) * 4));
    assert!(actual < required);
}

fn an_output_that_is_broadcast_is_refused<R: Runtime>(client: &ComputeClient<R>) {
    let output = output(client, Layout::Broadcast);
    let error = refused(
        client,
        operands(client, &output),
        &output,
        Dtype::F32.elem(),
    );
    let required = Requirement::NonZero;
    let what = "the stride of a written axis";
    assert_eq!(
        error,
        KernelError::InvalidConfig {
            what,
            actual: 0,
            required
        }
    );
}

fn an_element_type_that_is_no_float_is_unavailable<R: Runtime>(client: &ComputeClient<R>) {
    let output = output(client, Layout::Contiguous);
    let dtype = ElemType::Int(IntKind::I32);
    let error = refused(client, operands(client, &output), &output, dtype);
    assert_eq!(error, KernelError::Unavailable(Missing::ElementType(dtype)));
}
