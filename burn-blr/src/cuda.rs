//! What is particular to CUDA: whether it is there, asked without starting a backend, and access
//! to its buffers.

#[cfg(feature = "cuda")]
use burn::backend::Cuda;
#[cfg(feature = "cuda")]
use burn::backend::cubecl::dtype_to_elem_type;
#[cfg(feature = "cuda")]
use burn::tensor::{Bytes, FloatDType, IntDType};
use burn::tensor::{Device, Int, Tensor, TensorData};
#[cfg(feature = "cuda")]
use burn_cubecl::CubeBackend;
#[cfg(feature = "cuda")]
use burn_cubecl::tensor::CubeTensor;
#[cfg(feature = "cuda")]
use cubecl::cuda::CudaRuntime;

/// Number of CUDA devices that answer; 0 where the driver or NVRTC is missing, or where the
/// feature `cuda` is not compiled in.
///
/// Burn's CUDA backend loads both libraries on first use and panics where one is missing, so
/// programs that are to run on any machine ask here first.
pub fn device_count() -> usize {
    #[cfg(feature = "cuda")]
    {
        // SAFETY: both functions only try to load a shared library of NVIDIA's by name, which the
        // CUDA backend does as well on its first use.
        let present = unsafe {
            cudarc::driver::sys::is_culib_present() && cudarc::nvrtc::sys::is_culib_present()
        };
        if present && cudarc::driver::result::init().is_ok() {
            let count = cudarc::driver::result::device::get_count();
            return count
                .ok()
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(0);
        }
    }
    0
}

/// The first CUDA device, where one answers.
pub fn first_device() -> Option<Device> {
    #[cfg(feature = "cuda")]
    return (device_count() > 0).then(|| Device::cuda(0));
    #[cfg(not(feature = "cuda"))]
    None
}

/// Whether NVIDIA's library for collective operations, NCCL, is found; false where the feature `cuda` is
/// not compiled in.
///
/// Burn averages gradients with it. Where it is missing, CubeCL's thread for the device panics and whoever
/// waits for it does so forever, so programs ask here first. It is looked for as `libnccl.so`, while its
/// packages often have `libnccl.so.2` alone.
pub fn has_nccl() -> bool {
    // SAFETY: this only tries to load a shared library of NVIDIA's by name, which the CUDA backend does
    // as well on the first collective operation.
    #[cfg(feature = "cuda")]
    return unsafe { cudarc::nccl::sys::is_culib_present() };
    #[cfg(not(feature = "cuda"))]
    false
}

/// Name of CUDA device `index`, such as `NVIDIA H100 80GB HBM3`, where it answers.
pub fn device_name(index: usize) -> Option<String> {
    if index >= device_count() {
        return None;
    }
    #[cfg(feature = "cuda")]
    {
        let device = cudarc::driver::result::device::get(i32::try_from(index).ok()?).ok()?;
        cudarc::driver::result::device::get_name(device).ok()
    }
    #[cfg(not(feature = "cuda"))]
    None
}

/// Keeps compiled kernels on disk from one run to the next; returns whether that took effect.
///
/// Compiling a kernel takes up to two seconds, and a model runs dozens. To be called before the
/// first use of a CUDA device; settings in `cubecl.toml` and the environment stay as they are, and
/// a configuration that the program has set by itself is left alone.
pub fn cache_kernels() -> bool {
    #[cfg(feature = "cuda")]
    {
        use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        config.compilation.cache = true;
        CubeClRuntimeConfig::try_set(config)
    }
    #[cfg(not(feature = "cuda"))]
    false
}

/// Fills the buffer of a float tensor with NaN in place, whoever else holds it; returns whether
/// that could be done, which is on a CUDA device only.
///
/// For measurements: a captured graph writes to the buffers of its capture, and a result that is
/// NaN before a replay shows whether the replay wrote it.
pub fn overwrite_with_nan<const D: usize>(tensor: Tensor<D>) -> bool {
    let bytes = tensor.shape().num_elements() * tensor.dtype().size();
    // All bits set are a NaN in f32, f16 and bf16. Rows that are apart in memory take a kernel.
    overwrite_bytes(tensor.clone(), vec![u8::MAX; bytes]) || {
        let options = (&tensor.device(), tensor.dtype());
        copy_into(&tensor, Tensor::full(tensor.shape(), f32::NAN, options))
    }
}

/// Writes `data` to the buffer of an integer tensor in place, whoever else holds it, after conversion
/// to its dtype; returns whether that could be done, which is on a CUDA device only.
///
/// For the inputs of a captured graph, which reads the buffers of its capture.
///
/// # Panics
///
/// If the shapes differ.
pub fn overwrite_int<const D: usize>(tensor: Tensor<D, Int>, data: TensorData) -> bool {
    assert_eq!(data.shape, tensor.shape(), "overwrite: another shape");
    let data = data.convert_dtype(tensor.dtype());
    #[cfg(feature = "cuda")]
    {
        let bytes = data.bytes.to_vec();
        // Rows that are apart in memory take a kernel.
        int_buffer(tensor.clone()).is_some_and(|buffer| write(&buffer, bytes))
            || copy_int_into(&tensor, Tensor::from_data(data, &tensor.device()))
    }
    #[cfg(not(feature = "cuda"))]
    {
        drop((tensor, data));
        false
    }
}

/// Copies `source` into the buffer of `target` in place, whoever else holds that, after conversion to
/// its dtype; returns whether that could be done, which is between tensors of one CUDA device only.
///
/// For the inputs of a captured graph, which reads the buffers of its capture, and for its results,
/// which the next replay overwrites.
///
/// # Panics
///
/// If the shapes differ.
pub fn copy_into<const D: usize>(target: &Tensor<D>, source: Tensor<D>) -> bool {
    assert_eq!(source.shape(), target.shape(), "copy: another shape");
    #[cfg(feature = "cuda")]
    {
        let source = source.cast(FloatDType::from(target.dtype()));
        let buffers = float_buffer(target.clone()).zip(float_buffer(source));
        buffers.is_some_and(|(target, source)| copy(target, source))
    }
    #[cfg(not(feature = "cuda"))]
    false
}

/// As [`copy_into`], for integer tensors.
///
/// # Panics
///
/// If the shapes differ.
pub fn copy_int_into<const D: usize>(target: &Tensor<D, Int>, source: Tensor<D, Int>) -> bool {
    assert_eq!(source.shape(), target.shape(), "copy: another shape");
    #[cfg(feature = "cuda")]
    {
        let source = source.cast(IntDType::from(target.dtype()));
        let buffers = int_buffer(target.clone()).zip(int_buffer(source));
        buffers.is_some_and(|(target, source)| copy(target, source))
    }
    #[cfg(not(feature = "cuda"))]
    false
}

fn overwrite_bytes<const D: usize>(tensor: Tensor<D>, bytes: Vec<u8>) -> bool {
    #[cfg(feature = "cuda")]
    return float_buffer(tensor).is_some_and(|tensor| write(&tensor, bytes));
    #[cfg(not(feature = "cuda"))]
    {
        drop((tensor, bytes));
        false
    }
}

/// The tensor as the CUDA runtime knows it, with all that it follows from enqueued; nothing for one
/// of another backend.
#[cfg(feature = "cuda")]
fn float_buffer<const D: usize>(tensor: Tensor<D>) -> Option<CubeTensor<CudaRuntime>> {
    let tensor = tensor.try_into_primitive::<Cuda>().ok()?;
    #[cfg(feature = "fusion")]
    let tensor = {
        let client = tensor.client.clone();
        client.resolve_tensor_float::<CubeBackend<CudaRuntime>>(tensor)
    };
    Some(tensor)
}

/// As [`float_buffer`].
#[cfg(feature = "cuda")]
fn int_buffer<const D: usize>(tensor: Tensor<D, Int>) -> Option<CubeTensor<CudaRuntime>> {
    let tensor = tensor.try_into_primitive::<Cuda>().ok()?;
    #[cfg(feature = "fusion")]
    let tensor = {
        let client = tensor.client.clone();
        client.resolve_tensor_int::<CubeBackend<CudaRuntime>>(tensor)
    };
    Some(tensor)
}

/// Copies between tensors of one shape and dtype; returns whether they are on one device.
#[cfg(feature = "cuda")]
fn copy(target: CubeTensor<CudaRuntime>, source: CubeTensor<CudaRuntime>) -> bool {
    if target.device != source.device {
        return false;
    }
    let client = target.client.clone();
    let element = dtype_to_elem_type(target.dtype);
    cubecl::std::tensor::copy_into(&client, source.binding(), target.binding(), element);
    true
}

/// Writes to a buffer that holds as many bytes; returns whether it does.
#[cfg(feature = "cuda")]
fn write(tensor: &CubeTensor<CudaRuntime>, bytes: Vec<u8>) -> bool {
    if tensor.handle.size_in_used() as usize != bytes.len() {
        return false;
    }
    tensor
        .client
        .write(&tensor.handle, Bytes::from_bytes_vec(bytes));
    true
}
