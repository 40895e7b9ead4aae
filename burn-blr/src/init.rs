//! Parameters, and the initial distributions of the factors.
//!
//! Each product starts out like Burn's dense layer, whose weights are uniform in
//! `±1/√in`: an output feature has variance `1/3` for inputs of variance one. The first factor
//! keeps the variance of its input, `1/fan_in`, so that the intermediates have variance one; the
//! last has `1/(3 r)`, since an output feature is a sum over `r` of them.
//!
//! For BLAST the couplings are uniform in `[0, 2]`: mean one, so that training starts near low-rank,
//! and mean square `4/3`, which `V` makes up for.

use burn::module::{Initializer, Param, ParamId};
use burn::tensor::{Device, Tensor};

/// A parameter with the value of `tensor`, which gets gradients once its module is moved to autodiff
/// with `train`.
///
/// [`Param::from_tensor`] asks the tensor whether it gets gradients, and one that is not on an
/// autodiff device says no: `train` would leave such a parameter frozen.
pub fn parameter<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    parameter_with_id(ParamId::new(), tensor)
}

/// As [`parameter`], with the id of another one.
pub fn parameter_with_id<const D: usize>(id: ParamId, tensor: Tensor<D>) -> Param<Tensor<D>> {
    let (device, shape) = (tensor.device(), tensor.shape());
    let value = move |_: &Device, require_grad| tensor.set_require_grad(require_grad);
    Param::uninitialized(id, value, device, true, shape)
}

/// Entries of the factor next to the output, over `rank` summands.
pub(crate) fn last(rank: usize) -> Initializer {
    normal(1.0 / (3.0 * rank as f64))
}

/// Entries of the factor next to the input, over `fan_in` summands.
pub(crate) fn first(fan_in: usize) -> Initializer {
    normal(1.0 / fan_in as f64)
}

/// Entries of `V` of BLAST: `Z_j = Σ_i S_ji ∘ V_i x_i` sums over all inputs with couplings of mean
/// square `4/3`.
pub(crate) fn blast_first(in_features: usize) -> Initializer {
    normal(3.0 / (4.0 * in_features as f64))
}

/// Couplings of BLAST.
pub(crate) fn blast_couplings() -> Initializer {
    Initializer::Uniform { min: 0.0, max: 2.0 }
}

/// Bias as in Burn's dense layer: uniform in `±1/√in`.
pub(crate) fn bias(
    present: bool,
    in_features: usize,
    out_features: usize,
    device: &Device,
) -> Option<Param<Tensor<1>>> {
    let bound = 1.0 / (in_features as f64).sqrt();
    present.then(|| {
        Initializer::Uniform {
            min: -bound,
            max: bound,
        }
        .init([out_features], device)
    })
}

fn normal(variance: f64) -> Initializer {
    Initializer::Normal {
        mean: 0.0,
        std: variance.sqrt(),
    }
}
