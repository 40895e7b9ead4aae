//! The model that Burn trains: a step of training and of validation.

use std::sync::Arc;

use burn::module::{AutodiffModule, Module, ModuleMapper, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn::train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use models::{AnyModel, Observed};

use super::batches::{Batch, Target};
use super::clip::clip_to_norm;
use super::curve::PARTS;
use super::failure::Failure;
use super::half::in_dtype;
use super::losses::{cross_entropy, divergence, relative_square_error, square_error};
use super::{Distillation, TrainOptions};
use crate::TrainingError;

/// A model in training.
#[derive(Module, Debug)]
pub(crate) struct Trainee {
    /// What is trained.
    pub student: AnyModel,
    /// The average of its weights over the steps, where one is kept.
    pub average: Option<AnyModel>,
    #[module(skip)]
    setup: Arc<Setup>,
}

/// What does not change while a model is trained.
#[derive(Debug)]
pub(crate) struct Setup {
    pub options: TrainOptions,
    pub teaching: Option<Teaching>,
    pub failure: Failure,
}

/// The teacher, and what is learned from it.
#[derive(Debug)]
pub(crate) struct Teaching {
    /// The teacher on each device, in the dtype of computation.
    pub teachers: Vec<(Device, AnyModel)>,
    pub distillation: Distillation,
}

/// Losses of a batch, on their device until they are wanted.
#[derive(Debug)]
pub(crate) struct BatchLosses {
    /// Number of the batch.
    pub index: usize,
    /// Images, or rows of text.
    pub rows: usize,
    values: Values,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for a batch")]
enum Values {
    Pending(Tensor<1>),
    Read(Result<Vec<f32>, String>),
}

impl BatchLosses {
    /// The losses in the order in which they were put together; an error of the device in words.
    pub fn values(&self) -> Result<&[f32], &str> {
        match &self.values {
            Values::Pending(_) => Err("losses that were not read"),
            Values::Read(Ok(values)) => Ok(values),
            Values::Read(Err(reason)) => Err(reason),
        }
    }
}

impl ItemLazy for BatchLosses {
    fn sync(self) -> Self {
        let values = match self.values {
            Values::Pending(tensor) => {
                let read = tensor.try_into_vec_as::<f32>();
                Values::Read(read.map_err(|error| error.to_string()))
            }
            read => read,
        };
        Self { values, ..self }
    }
}

impl Trainee {
    pub fn new(student: AnyModel, average: Option<AnyModel>, setup: Setup) -> Self {
        Self {
            student,
            average,
            setup: Arc::new(setup),
        }
    }

    /// The model to keep: the average where there is one.
    pub fn into_result(self) -> AnyModel {
        self.average.unwrap_or(self.student)
    }

    /// What is minimised, and its parts.
    fn losses(&self, batch: &Batch) -> Result<[Tensor<1>; PARTS], TrainingError> {
        let device = &batch.device;
        let student = in_dtype(&self.student, self.setup.options.dtype);
        let found = student.observe(batch.data.input(device))?;
        let task = task_loss(&found.output, batch.data.target(device));
        let Some(teaching) = &self.setup.teaching else {
            let none = Tensor::zeros_like(&task);
            return Ok([task.clone(), task, none.clone(), none]);
        };
        let wanted = teaching.observe(batch)?;
        let (output, hidden) = teaching.distances(&self.student, found, wanted);
        let Distillation {
            task: task_weight,
            output: output_weight,
            ..
        } = teaching.distillation;
        let total = task.clone() * task_weight + output.clone() * output_weight + hidden.clone();
        Ok([total, task, output, hidden])
    }
}

/// The loss that the task has by itself.
fn task_loss(output: &Tensor<2>, target: Target) -> Tensor<1> {
    match target {
        Target::Classes(classes) => cross_entropy(output.clone(), classes),
        Target::Noise(noise) => {
            // Of a learned variance, whose channels come behind, the task says nothing.
            let [_, size] = noise.dims();
            square_error(output.clone().narrow(1, 0, size), noise)
        }
    }
}

impl Teaching {
    /// What the teacher makes of a batch; no gradients are followed there.
    fn observe(&self, batch: &Batch) -> Result<Observed, TrainingError> {
        let device = batch.device.clone().inner();
        let teacher = self.teachers.iter().find(|(place, _)| *place == device);
        let (_, teacher) = teacher.ok_or_else(|| TrainingError::Device {
            reason: format!("no teacher on {device:?}"),
        })?;
        let Observed { hidden, output } = teacher.observe(batch.data.input(&device))?;
        let hidden = hidden.into_iter();
        Ok(Observed {
            hidden: hidden.map(|state| beside(state, &batch.device)).collect(),
            output: beside(output, &batch.device),
        })
    }

    /// Distance of the outputs, and the weighted mean of those of the hidden states.
    fn distances(
        &self,
        student: &AnyModel,
        found: Observed,
        wanted: Observed,
    ) -> (Tensor<1>, Tensor<1>) {
        let temperature = self.distillation.temperature;
        let none = Tensor::zeros([1], (&found.output.device(), DType::F32));
        let output = match (self.distillation.output > 0.0, student) {
            (false, _) => none.clone(),
            (true, AnyModel::Dit(_)) => square_error(found.output, wanted.output),
            (true, _) => divergence(found.output, wanted.output, temperature),
        };
        let blocks = found.hidden.len().max(1) as f64;
        let mut hidden = none;
        let pairs = found.hidden.into_iter().zip(wanted.hidden);
        for (n, (found, wanted)) in pairs.enumerate() {
            let weight = self.distillation.hidden_weight(n) / blocks;
            if weight > 0.0 {
                let [found, wanted] = [found, wanted].map(|state| state.cast(FloatDType::F32));
                hidden = hidden + relative_square_error(found, wanted) * weight;
            }
        }
        (output, hidden)
    }
}

/// A tensor that goes together with those of a device with gradients.
fn beside<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    let strategy = device.gradient_checkpointing_strategy();
    Tensor::from_inner(tensor.with_gradient_checkpointing_strategy(strategy))
}

impl TrainStep for Trainee {
    type Input = Batch;
    type Output = BatchLosses;

    fn step(&self, batch: Batch) -> TrainOutput<BatchLosses> {
        let (index, rows) = (batch.index, batch.data.rows());
        let losses = match self.losses(&batch) {
            Ok(losses) => losses,
            Err(error) => {
                self.setup.failure.keep(error);
                let values = Values::Read(Ok(vec![f32::NAN; PARTS]));
                return TrainOutput {
                    grads: GradientsParams::new(),
                    item: BatchLosses {
                        index,
                        rows,
                        values,
                    },
                };
            }
        };
        // Gradients of the batches of a step are summed up; several devices may take their mean.
        let options = &self.setup.options;
        let summed = match options.exchange {
            super::Exchange::AllReduce => options.accumulate,
            super::Exchange::MainDevice => options.batches_per_step(),
        };
        let values = Tensor::cat(losses.iter().map(|loss| loss.clone().inner()).collect(), 0);
        let [total, ..] = losses;
        let gradients = (total / summed as f64).backward();
        let item = BatchLosses {
            index,
            rows,
            values: Values::Pending(values),
        };
        TrainOutput::new(self, gradients, item)
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        let gradients = match self.setup.options.clip {
            Some(norm) => clip_to_norm(&self.student, gradients, norm),
            None => gradients,
        };
        let mut next = optimizer.step(rate, self, gradients);
        if let (Some(share), Some(average)) = (next.setup.options.average, next.average.take()) {
            next.average = Some(averaged(average, &next.student, share));
        }
        next
    }
}

impl InferenceStep for Trainee {
    type Input = Batch;
    type Output = BatchLosses;

    /// Loss of the task, and of a classifier the labels that were found.
    fn step(&self, batch: Batch) -> BatchLosses {
        let (index, rows) = (batch.index, batch.data.rows());
        let values = match self.task_and_hits(&batch) {
            Ok(losses) => Values::Pending(Tensor::cat(losses.into(), 0)),
            Err(error) => {
                self.setup.failure.keep(error);
                Values::Read(Ok(vec![f32::NAN; 2]))
            }
        };
        BatchLosses {
            index,
            rows,
            values,
        }
    }
}

impl Trainee {
    /// Loss of the task, and of a classifier how often it was right, of the model to keep.
    fn task_and_hits(&self, batch: &Batch) -> Result<[Tensor<1>; 2], TrainingError> {
        let device = &batch.device;
        let model = self.average.as_ref().unwrap_or(&self.student);
        let model = in_dtype(model, self.setup.options.dtype);
        let Observed { output, .. } = model.observe(batch.data.input(device))?;
        let hits = match batch.data.target(device) {
            Target::Classes(classes) => {
                let [rows, _] = output.dims();
                let best = output.clone().argmax(1).reshape([rows]);
                best.equal(classes).float().cast(FloatDType::F32).sum()
            }
            Target::Noise(_) => Tensor::zeros([1], (device, DType::F32)),
        };
        Ok([task_loss(&output, batch.data.target(device)), hits])
    }
}

/// `share · average + (1 - share) · student`, parameter by parameter.
fn averaged(average: AnyModel, student: &AnyModel, share: f64) -> AnyModel {
    let mut weights = Weights(Vec::new());
    student.visit(&mut weights);
    let mut mapper = Averaged {
        weights: weights.0.into_iter(),
        share,
    };
    average.map(&mut mapper)
}

/// The weights of a model, in the order of a visit, without their shapes.
struct Weights(Vec<Tensor<1>>);

impl burn::module::ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().inner().flatten(0, D - 1));
    }
}

struct Averaged {
    weights: std::vec::IntoIter<Tensor<1>>,
    share: f64,
}

impl ModuleMapper for Averaged {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(weight) = self.weights.next() else {
            return param;
        };
        let share = self.share;
        param.map(|average| {
            let shape = average.dims();
            let mixed = average.inner() * share + weight.reshape(shape) * (1.0 - share);
            Tensor::from_inner(mixed)
        })
    }
}

/// Freezes the parameters that `trained` does not hold.
pub(crate) fn freeze<M: AutodiffModule>(
    model: M,
    trained: impl Fn(burn::module::ParamId) -> bool,
) -> M {
    model.map(&mut Freeze(trained))
}

struct Freeze<F>(F);

impl<F: Fn(burn::module::ParamId) -> bool> ModuleMapper for Freeze<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = (self.0)(param.id);
        param.set_require_grad(trained)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use burn::module::ModuleVisitor;
    use burn::train::Interrupter;
    use burn_blr::Method;
    use models::{Gpt2Config, Plan};
    use serde_json::json;
    use std::path::Path;

    use crate::learn::HostBatch;

    fn model(method: Option<Method>, device: &Device) -> AnyModel {
        let config = json!({
            "vocab_size": 19, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2
        });
        let path = Path::new("config.json");
        assert!(Gpt2Config::from_json(&config, path).is_ok());
        let plan = method.map(|method| Plan::keep(method, 0.5));
        device.seed(5);
        let family = models::Family::Gpt2;
        let made = AnyModel::init(
            family,
            (&config, path),
            plan.as_ref(),
            device,
            FloatDType::F32,
        );
        made.unwrap().0
    }

    fn trainee(method: Method, options: TrainOptions) -> Trainee {
        let teaching = Teaching {
            teachers: vec![(Device::flex(), model(None, &Device::flex()))],
            distillation: Distillation::default(),
        };
        let setup = Setup {
            options,
            teaching: Some(teaching),
            failure: Failure::new(Interrupter::new()),
        };
        Trainee::new(model(Some(method), &Device::flex().autodiff()), None, setup)
    }

    fn batch() -> Batch {
        let ids = (0..18).map(|n| n * 7 % 19).collect();
        Batch {
            index: 0,
            data: HostBatch::Text { ids, rows: 2 },
            device: Device::flex().autodiff(),
        }
    }

    /// Names of the parameters with the largest absolute value of their gradients.
    struct Largest<'a> {
        gradients: &'a GradientsParams,
        path: Vec<String>,
        found: Vec<(String, f32)>,
    }

    impl ModuleVisitor for Largest<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id);
            let largest = gradient.map_or(0.0, |gradient| {
                assert_eq!(gradient.dtype(), DType::F32);
                gradient.abs().max().into_scalar::<f32>()
            });
            self.found.push((self.path.join("."), largest));
        }
    }

    fn largest(trainee: &Trainee, gradients: &GradientsParams) -> Vec<(String, f32)> {
        let mut visitor = Largest {
            gradients,
            path: Vec::new(),
            found: Vec::new(),
        };
        trainee.student.visit(&mut visitor);
        visitor.found
    }

    fn gradients(trainee: &Trainee) -> GradientsParams {
        TrainStep::step(trainee, batch()).grads
    }

    #[test]
    fn gradients_reach_every_factor_and_everything_else_in_both_dtypes() {
        for method in [Method::LowRank, Method::Monarch, Method::Blast] {
            for dtype in [FloatDType::F32, FloatDType::BF16] {
                let options = TrainOptions {
                    dtype,
                    ..TrainOptions::default()
                };
                let trainee = trainee(method, options);
                let found = largest(&trainee, &gradients(&trainee));
                assert!(found.len() > 20);
                for (name, largest) in found {
                    assert!(
                        largest > 0.0 && largest.is_finite(),
                        "{method} {dtype:?} {name}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_clipped_gradient_has_the_norm_and_its_direction() {
        let trainee = trainee(Method::LowRank, TrainOptions::default());
        let gradients = gradients(&trainee);
        let before = largest(&trainee, &gradients);
        let clipped = clip_to_norm(&trainee.student, gradients, 0.01);
        let after = largest(&trainee, &clipped);
        let ratio = after[0].1 / before[0].1;
        assert!(ratio < 1.0);
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            assert!((after / before - ratio).abs() < 1e-4 * ratio, "{name}");
        }
        // Now it is short enough.
        let again = clip_to_norm(&trainee.student, clipped, 0.0101);
        assert_eq!(largest(&trainee, &again), after);
        let halved = clip_to_norm(&trainee.student, again, 0.005);
        let halved = largest(&trainee, &halved)[0].1 / after[0].1;
        assert!((halved - 0.5).abs() < 1e-3, "{halved}");
    }

    #[test]
    fn a_frozen_parameter_has_no_gradient() {
        let trainee = trainee(Method::Blast, TrainOptions::default());
        let layers = trainee.student.linear_layers();
        let wanted: Vec<_> = layers.iter().flat_map(|layer| layer.factor_ids()).collect();
        let trainee = freeze(trainee.clone(), |id| wanted.contains(&id));
        for (name, largest) in largest(&trainee, &gradients(&trainee)) {
            let factor = [".u", ".s", ".v"].iter().any(|end| name.ends_with(end));
            assert_eq!(largest > 0.0, factor, "{name}");
        }
    }
}
