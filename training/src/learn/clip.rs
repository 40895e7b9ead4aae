//! The norm of a whole gradient.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// `gradients` of `model`, scaled down to `norm` where their norm, over all parameters together, is
/// larger. Nothing is read back from the device.
pub(crate) fn clip_to_norm(
    model: &impl Module,
    mut gradients: GradientsParams,
    norm: f64,
) -> GradientsParams {
    let mut squares = Squares {
        gradients: &gradients,
        sum: None,
    };
    model.visit(&mut squares);
    let Some(sum) = squares.sum else {
        return gradients;
    };
    // norm / max(‖g‖, norm) is 1 for a gradient that is short enough.
    let scale = sum.sqrt().clamp_min(norm).recip() * norm;
    model.visit(&mut Scaled {
        gradients: &mut gradients,
        scale,
    });
    gradients
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scaled<'a> {
    gradients: &'a mut GradientsParams,
    scale: Tensor<1>,
}

impl ModuleVisitor for Scaled<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let scaled = gradient * self.scale.clone().reshape([1; D]);
            self.gradients.register(param.id, scaled);
        }
    }
}
