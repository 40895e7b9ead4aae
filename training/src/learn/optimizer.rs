//! AdamW for a whole model, whose state is restored on the device of the training.

use burn::module::ParamGroup;
use burn::optim::{
    AdamW, AdamWConfig, DynOptimizer, DynState, LearningRate, ModuleOptimizer, StateSink,
    StateSource,
};
use burn::tensor::Device;
use burn::tensor::kind::BridgeTensor;

use super::TrainOptions;

const EPSILON: f32 = 1e-8;
const BETA_2: f32 = 0.95;

/// The optimizer of a training on `device`.
pub(crate) fn optimizer(options: &TrainOptions, device: &Device) -> ModuleOptimizer {
    let config = AdamWConfig::new().with_epsilon(EPSILON).with_beta_2(BETA_2);
    let decaying = config
        .clone()
        .with_weight_decay(options.weight_decay as f32);
    let plain = config.with_weight_decay(0.0).build();
    let of_training = OfTraining {
        matrices: decaying.build(),
        vectors: plain.clone(),
        device: device.clone(),
    };
    ModuleOptimizer::from(plain).with_group(ParamGroup::all(), of_training, None)
}

/// AdamW that spares vectors the decay. Burn restores states on the default device, which may be one
/// that is not there (CUDA, where it is compiled in); this restores them on `device`.
struct OfTraining {
    matrices: AdamW,
    vectors: AdamW,
    device: Device,
}

impl OfTraining {
    fn of_rank(&self, rank: usize) -> &AdamW {
        match rank {
            0 | 1 => &self.vectors,
            _ => &self.matrices,
        }
    }
}

impl DynOptimizer for OfTraining {
    fn step_dyn(
        &self,
        rank: usize,
        lr: LearningRate,
        tensor: BridgeTensor,
        grad: BridgeTensor,
        state: Option<DynState>,
    ) -> (BridgeTensor, Option<DynState>) {
        self.of_rank(rank).step_dyn(rank, lr, tensor, grad, state)
    }

    fn to_device_dyn(&self, state: DynState, device: &Device) -> DynState {
        self.matrices.to_device_dyn(state, device)
    }

    fn state_flatten(&self, prefix: &str, state: &DynState, out: &mut StateSink) {
        self.matrices.state_flatten(prefix, state, out);
    }

    fn state_unflatten(
        &self,
        rank: usize,
        prefix: &str,
        src: &mut StateSource,
        _default: &Device,
    ) -> Option<DynState> {
        self.matrices
            .state_unflatten(rank, prefix, src, &self.device)
    }
}
