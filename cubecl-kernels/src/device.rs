//! What a device can run.

use cubecl::features::{Plane, TypeUsage};
use cubecl::ir::FloatKind;
use cubecl::prelude::*;

use crate::error::{KernelError, Missing};
use crate::ptx::MmaElement;

/// Bytes of one element of `dtype`.
///
/// Kernels read and write buffers of `dtype` and convert to and from `f32`; arithmetic in
/// `dtype` is never needed.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if `dtype` is not `f32`, `f16` or `bf16`, or if the device lacks
/// it.
pub(crate) fn element_bytes<R: Runtime>(
    client: &ComputeClient<R>,
    dtype: ElemType,
) -> Result<usize, KernelError> {
    let missing = KernelError::Unavailable(Missing::ElementType(dtype));
    let bytes = match dtype {
        ElemType::Float(FloatKind::F32) => 4,
        ElemType::Float(FloatKind::F16 | FloatKind::BF16) => 2,
        _ => return Err(missing),
    };
    let usage = client.properties().type_usage(dtype);
    if !usage.contains(TypeUsage::Buffer) || !usage.contains(TypeUsage::Conversion) {
        return Err(missing);
    }
    Ok(bytes)
}

/// Whether cubes can read each other's shared memory.
pub(crate) fn clusters<R: Runtime>(client: &ComputeClient<R>) -> bool {
    client.properties().features.cube_cluster
}

/// Whether planes are of 32 units that can exchange values.
pub(crate) fn shuffles<R: Runtime>(client: &ComputeClient<R>) -> bool {
    let properties = client.properties();
    let hardware = &properties.hardware;
    hardware.plane_size_min == 32
        && hardware.plane_size_max == 32
        && properties.features.plane.contains(Plane::Ops)
}

/// The element type in which tensor cores multiply `dtype`.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if the kernels for tensor cores can not run: they are written in
/// PTX for compute capability 8.0 and above.
pub(crate) fn mma_element<R: Runtime>(
    client: &ComputeClient<R>,
    dtype: ElemType,
) -> Result<MmaElement, KernelError> {
    let missing = KernelError::Unavailable(Missing::TensorCores(dtype));
    let (element, operand) = match dtype {
        ElemType::Float(FloatKind::BF16) => (MmaElement::Bf16, dtype),
        ElemType::Float(FloatKind::F16) => (MmaElement::F16, dtype),
        ElemType::Float(FloatKind::F32) => (MmaElement::Tf32, ElemType::Float(FloatKind::TF32)),
        _ => return Err(missing),
    };
    let supported = &client.properties().features.matmul.mma;
    let runs = supported.iter().any(|config| {
        (config.m, config.n, config.k) == (16, 8, element.depth() as u32)
            && config.a_type == operand
            && config.b_type == operand
            && config.cd_type == ElemType::Float(FloatKind::F32)
    });
    if R::name(client) != "cuda" || !runs {
        return Err(missing);
    }
    Ok(element)
}

/// Multiprocessors of a device, one where it does not say.
pub(crate) fn processors<R: Runtime>(client: &ComputeClient<R>) -> usize {
    let processors = client.properties().hardware.num_streaming_multiprocessors;
    processors.unwrap_or(1).max(1) as usize
}

/// Address type for operands of at most `elements` elements.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if the device has no addresses that wide.
pub(crate) fn address_type<R: Runtime>(
    client: &ComputeClient<R>,
    elements: usize,
) -> Result<AddressType, KernelError> {
    let address = AddressType::from_len(elements);
    if !client.properties().supports_address(address) {
        return Err(KernelError::Unavailable(Missing::WideAddresses {
            elements,
        }));
    }
    Ok(address)
}

/// Checks the resources of one cube.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if the device has fewer units or less shared memory (bytes).
pub(crate) fn check_cube<R: Runtime>(
    client: &ComputeClient<R>,
    units: usize,
    shared_bytes: usize,
) -> Result<(), KernelError> {
    let hardware = &client.properties().hardware;
    let limit = hardware.max_units_per_cube.min(hardware.max_cube_dim.0) as usize;
    if units > limit {
        return Err(KernelError::Unavailable(Missing::Units {
            required: units,
            limit,
        }));
    }
    let limit = hardware.max_shared_memory_size;
    if shared_bytes > limit {
        let required = shared_bytes;
        return Err(KernelError::Unavailable(Missing::SharedMemory {
            required,
            limit,
        }));
    }
    Ok(())
}

/// Checks that an operand can start so many bytes into a buffer.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if it can not.
pub(crate) fn check_offset<R: Runtime>(
    client: &ComputeClient<R>,
    bytes: u64,
) -> Result<(), KernelError> {
    let alignment = match R::name(client) {
        // Addresses are plain numbers there.
        "cuda" => 1,
        _ => client.properties().memory.alignment,
    };
    if !bytes.is_multiple_of(alignment) {
        return Err(KernelError::Unavailable(Missing::Offset {
            bytes: bytes as usize,
            alignment: alignment as usize,
        }));
    }
    Ok(())
}

/// Checks and converts a number of cubes per axis.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if the device launches fewer along an axis.
pub(crate) fn cube_count<R: Runtime>(
    client: &ComputeClient<R>,
    [x, y, z]: [usize; 3],
) -> Result<CubeCount, KernelError> {
    let max = client.properties().hardware.max_cube_count;
    let axis = |required: usize, limit: u32| match u32::try_from(required) {
        Ok(count) if count <= limit => Ok(count),
        _ => Err(KernelError::Unavailable(Missing::Cubes {
            required,
            limit: limit as usize,
        })),
    };
    Ok(CubeCount::Static(
        axis(x, max.0)?,
        axis(y, max.1)?,
        axis(z, max.2)?,
    ))
}

/// Cubes for `elements` units of work, spread over the axes so that any number fits.
///
/// # Errors
///
/// [`KernelError::Unavailable`] if even three full axes do not hold them.
pub(crate) fn cubes_for_elements<R: Runtime>(
    client: &ComputeClient<R>,
    elements: usize,
    units: usize,
) -> Result<CubeCount, KernelError> {
    let cubes = elements.div_ceil(units);
    let max = client.properties().hardware.max_cube_count;
    let x = cubes.min(max.0 as usize).max(1);
    let y = cubes.div_ceil(x).min(max.1 as usize).max(1);
    let z = cubes.div_ceil(x * y).max(1);
    cube_count(client, [x, y, z])
}
