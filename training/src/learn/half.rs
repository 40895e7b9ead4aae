//! Copies of a model in the dtype it computes in.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor};

/// `model` with parameters of `dtype`, of which gradients reach those of `model`. Norms stay as they
/// are: they compute in `f32` whatever the rest does.
pub(crate) fn in_dtype<M: Module>(model: &M, dtype: FloatDType) -> M {
    let mut cast = Cast {
        dtype,
        norms_around: 0,
    };
    model.clone().map(&mut cast)
}

struct Cast {
    dtype: FloatDType,
    /// How many norms the visitor is in.
    norms_around: usize,
}

fn is_norm(container: &str) -> bool {
    container.ends_with("TokenNorm")
}

impl ModuleMapper for Cast {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.norms_around += usize::from(is_norm(container_type));
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.norms_around -= usize::from(is_norm(container_type));
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let tensor = param.val();
        if self.norms_around > 0 || tensor.dtype() == DType::from(self.dtype) {
            return param;
        }
        Param::initialized(param.id, tensor.cast(self.dtype))
    }
}
