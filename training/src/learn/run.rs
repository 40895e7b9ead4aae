//! A whole training: from a checkpoint or from scratch to a checkpoint directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use burn::module::{AutodiffModule, Module, ModuleMapper, Param, ParamId};
use burn::tensor::distributed::{DistributedConfig, ReduceOperation};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::{
    ExecutionStrategy, InferenceStep, Interrupter, ItemLazy, Learner, MultiDeviceOptim,
    SupervisedTraining,
};
use burn_blr::{cuda, graph};
use models::{
    AnyModel, BlrLayer, BlrSection, Checkpoint, Family, ModelError, Plan, StoredParameters,
    linear_layers_of,
};
use serde_json::Value;

use super::batches::{Batch, BatchSource, TrainBatches, ValidBatches};
use super::curve::{Curve, Recording, StepLoss, Validation, locked};
use super::export::{self, Around};
use super::failure::Failure;
use super::metric::{Listener, Loss, Shared};
use super::optimizer::optimizer;
use super::pump::Pump;
use super::run_folder::{RunFolder, Settings};
use super::schedule::WarmupCosine;
use super::silent::Silent;
use super::trainee::{Setup, Teaching, Trainee, freeze};
use super::{Distillation, Exchange, TrainOptions, Trained};
use crate::TrainingError;
use crate::compress::other_files;

/// What a training begins with.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// The weights of a checkpoint.
    Checkpoint(&'a Checkpoint),
    /// Random weights.
    Random {
        /// The family.
        family: Family,
        /// What `config.json` will hold, without the `blr` section.
        config: &'a Value,
        /// Where that came from, for the errors.
        path: &'a Path,
        /// Which layers are factors; none without.
        plan: Option<&'a Plan>,
        /// Files that are put beside the weights: tokenizer and the like.
        files: &'a [PathBuf],
    },
}

/// What to train, and how.
pub struct TrainRequest<'a> {
    /// What it begins with.
    pub start: Start<'a>,
    /// The teacher, and what is learned from it.
    pub teacher: Option<(&'a Checkpoint, Distillation)>,
    /// What is learned from.
    pub source: Arc<dyn BatchSource>,
    /// How.
    pub options: TrainOptions,
    /// The directory to make; it must not exist.
    pub out: &'a Path,
    /// As many devices as the options say.
    pub devices: &'a [Device],
    /// Goes on with the unfinished run for the same output directory, if there is one.
    pub resume: bool,
}

/// Progress of [`train`].
#[derive(Debug, Clone, Copy)]
pub enum TrainEvent {
    /// An earlier run did this many steps.
    Resumed(usize),
    /// A step is done.
    Step(StepLoss),
    /// A validation is done.
    Validation(Validation),
}

/// What became of a training.
#[derive(Debug)]
pub struct TrainReport {
    /// The losses, those of the run that was resumed included.
    pub curve: Curve,
    /// Parameters of the model.
    pub parameters: usize,
    /// Those that were trained.
    pub trained_parameters: usize,
    /// Steps that an earlier run did.
    pub resumed_at: usize,
    /// Wall time of the steps of this run.
    pub seconds: f64,
}

/// Trains a model and writes it to `request.out`.
///
/// The folder `OUT.partial` keeps the state after each validation, so that a run which was killed
/// goes on from there, with the same numbers as if it had not been.
///
/// # Errors
///
/// [`TrainingError`]. Nothing is left at `OUT` then.
pub fn train(
    request: &TrainRequest<'_>,
    listener: impl Fn(TrainEvent) + Send + Sync + 'static,
) -> Result<TrainReport, TrainingError> {
    let listener: Listener = Arc::new(listener);
    let options = &request.options;
    check(request)?;
    let main = request.devices.first().cloned().ok_or_else(no_device)?;
    let (student, stored) = student(&request.start, &training_device(&main, options))?;
    if let AnyModel::Dit(model) = &student
        && model.config().learn_sigma
        && !matches!(&request.teacher, Some((_, learned)) if learned.output > 0.0)
    {
        return Err(TrainingError::LearnedVariance);
    }
    let average = options.average.map(|_| copy_with_own_ids(&student));
    let interrupter = Interrupter::new();
    let failure = Failure::new(interrupter.clone());
    let setup = Setup {
        options: options.clone(),
        teaching: teaching(request, &student)?,
        failure: failure.clone(),
    };
    let trained = trained_ids(&student, options.trained)?;
    let folder = RunFolder::open(request.out, &settings(request), request.resume)?;
    let (round, curve) = folder.last_round(options.rounds())?.unwrap_or_default();
    let resumed_at = (round * options.save_every).min(options.steps);
    // Burn keeps a round while the next one runs: its first steps may be in the curve.
    let curve = curve.until(resumed_at);

    let parameters = student.num_params();
    let trainee = Trainee::new(student, average, setup);
    let trainee = freeze(trainee, |id| trained.contains(&id));
    let trained_parameters = count(&trainee.student, &trained);

    let classifies = matches!(trainee.student, AnyModel::Vit(_));
    let recording = Recording::new(curve, options, classifies);
    let shared = Shared {
        recording: Arc::new(Mutex::new(recording)),
        failure: failure.clone(),
        listener: listener.clone(),
    };
    if round == 0 {
        validate(&trainee, request, &main, &shared)?;
    } else {
        listener(TrainEvent::Resumed(resumed_at));
    }
    let started = Instant::now();
    let model = match round < options.rounds() {
        true => run_rounds(request, trainee, &folder, &shared, interrupter, round)?,
        false => restored(trainee, &folder, &shared, round)?,
    };
    failure.take()?;
    let seconds = started.elapsed().as_secs_f64();
    export::checkpoint(
        &model.into_result(),
        &stored,
        &around(&request.start)?,
        folder.path(),
    )?;
    folder.finish(request.out)?;
    let curve = locked(&shared.recording).curve().clone();
    Ok(TrainReport {
        curve,
        parameters,
        trained_parameters,
        resumed_at,
        seconds,
    })
}

/// Checks the options against each other and the devices.
fn check(request: &TrainRequest<'_>) -> Result<(), TrainingError> {
    let options = &request.options;
    let counts = [
        ("steps", options.steps),
        ("batch", options.batch),
        ("accumulate", options.accumulate),
        ("devices", options.devices),
        ("save-every", options.save_every),
        ("valid-batches", options.valid_batches),
    ];
    for (option, found) in counts {
        if found == 0 {
            return Err(TrainingError::option(option, found, "at least 1"));
        }
    }
    let rate = options.learning_rate;
    if !(rate > 0.0 && rate.is_finite()) {
        return Err(TrainingError::option("lr", rate, "a number above 0"));
    }
    let shares = [
        ("lr-end", Some(options.final_share)),
        ("ema", options.average),
    ];
    for (option, share) in shares {
        if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
            return Err(TrainingError::option(option, share, "a share from 0 to 1"));
        }
    }
    let sizes = [
        ("weight-decay", Some(options.weight_decay)),
        ("clip", options.clip),
    ];
    for (option, size) in sizes {
        if let Some(size) = size.filter(|size| !(*size >= 0.0 && size.is_finite())) {
            return Err(TrainingError::option(
                option,
                size,
                "a number of at least 0",
            ));
        }
    }
    if options.devices > 1 && options.exchange == Exchange::AllReduce {
        let missing = if !request.devices.iter().all(graph::captures) {
            Some("main: only CUDA devices have collective operations")
        } else if !cuda::has_nccl() {
            Some(
                "main, or NCCL as libnccl.so in a folder of LD_LIBRARY_PATH; a link to libnccl.so.2 will do",
            )
        } else {
            None
        };
        if let Some(expected) = missing {
            return Err(TrainingError::option("exchange", "all-reduce", expected));
        }
    }
    if request.devices.len() != options.devices {
        return Err(no_device());
    }
    Ok(())
}

fn no_device() -> TrainingError {
    TrainingError::Device {
        reason: String::from("there are fewer devices than asked for"),
    }
}

/// `device` with gradients. Models are made there at once: Burn leaves tensors that come to such a
/// device later without its way of keeping activations, and refuses to mix the two.
fn training_device(device: &Device, options: &TrainOptions) -> Device {
    match options.recompute {
        true => device.clone().autodiff().gradient_checkpointing(),
        false => device.clone().autodiff(),
    }
}

/// What a run must share with the one it resumes.
fn settings(request: &TrainRequest<'_>) -> Settings {
    let bytes = |checkpoint: &Checkpoint| {
        let bytes: usize = checkpoint.files().iter().map(|file| file.len()).sum();
        format!("{} ({bytes} bytes of weights)", checkpoint.dir().display())
    };
    let (start, teacher) = (&request.start, &request.teacher);
    vec![
        (
            "start",
            match start {
                Start::Checkpoint(checkpoint) => bytes(checkpoint),
                Start::Random { config, plan, .. } => format!("{config} as {plan:?}"),
            },
        ),
        (
            "teacher",
            match teacher {
                Some((teacher, distillation)) => format!("{}: {distillation:?}", bytes(teacher)),
                None => String::from("none"),
            },
        ),
        ("data", request.source.description()),
        ("options", format!("{:?}", request.options)),
        ("device", format!("{:?}", request.devices)),
    ]
}

/// The model to begin with, in `f32`, and where its parameters are stored.
fn student(
    start: &Start<'_>,
    device: &Device,
) -> Result<(AnyModel, StoredParameters), TrainingError> {
    Ok(match *start {
        Start::Checkpoint(checkpoint) => AnyModel::load(checkpoint, device, FloatDType::F32)?,
        Start::Random {
            family,
            config,
            path,
            plan,
            ..
        } => {
            let (model, stored) =
                AnyModel::init(family, (config, path), plan, device, FloatDType::F32)?;
            (model.map(&mut IdentityStart::default()), stored)
        }
    })
}

/// The teacher on every device.
fn teaching(
    request: &TrainRequest<'_>,
    student: &AnyModel,
) -> Result<Option<Teaching>, TrainingError> {
    let Some((checkpoint, distillation)) = &request.teacher else {
        return Ok(None);
    };
    let mut teachers = Vec::new();
    for device in request.devices {
        let (teacher, _) = AnyModel::load(checkpoint, device, request.options.dtype)?;
        if teacher.family() != student.family() || teacher.widths() != student.widths() {
            return Err(TrainingError::OtherTeacher {
                path: checkpoint.dir().to_path_buf(),
                found: format!(
                    "{} with {}",
                    teacher.family().model_type(),
                    teacher.widths()
                ),
                expected: format!(
                    "{} with {}",
                    student.family().model_type(),
                    student.widths()
                ),
            });
        }
        teachers.push((device.clone(), teacher));
    }
    let (weights, blocks) = (distillation.hidden.len(), student.widths().blocks);
    if weights != 1 && weights != blocks {
        let expected = format!("one weight, or one for each of the {blocks} blocks");
        return Err(TrainingError::option("hidden-weight", weights, expected));
    }
    Ok(Some(Teaching {
        teachers,
        distillation: distillation.clone(),
    }))
}

/// The ids of the parameters to train.
fn trained_ids(student: &AnyModel, trained: Trained) -> Result<Vec<ParamId>, TrainingError> {
    let ids = match trained {
        Trained::All => burn::module::list_param_ids(student),
        Trained::Layers => {
            let layers = student.linear_layers().into_iter();
            let structured = layers.filter(|layer| layer.structure().rank().is_some());
            let ids = structured.flat_map(|layer| {
                let bias = layer.bias_id();
                layer.factor_ids().into_iter().chain(bias)
            });
            ids.collect()
        }
    };
    match ids.is_empty() {
        true => Err(TrainingError::NothingToTrain),
        false => Ok(ids),
    }
}

/// Entries of the parameters `ids`.
fn count(model: &AnyModel, ids: &[ParamId]) -> usize {
    struct Count<'a>(&'a [ParamId], usize);
    impl burn::module::ModuleVisitor for Count<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.0.contains(&param.id) {
                self.1 += param.val().dims().iter().product::<usize>();
            }
        }
    }
    let mut count = Count(ids, 0);
    model.visit(&mut count);
    count.1
}

/// The same weights as parameters of their own.
fn copy_with_own_ids(model: &AnyModel) -> AnyModel {
    struct OwnIds;
    impl ModuleMapper for OwnIds {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let weights = Tensor::from_inner(param.val().inner());
            Param::initialized(ParamId::new(), weights)
        }
    }
    model.clone().map(&mut OwnIds)
}

/// Sets to zero what makes every block of a DiT the identity and its output zero, as the published
/// training begins (adaLN-Zero): the modulations and the last layer. Of a layer in factors that is
/// the factor next to the output, so that the others get gradients once it has moved.
#[derive(Default)]
struct IdentityStart {
    path: Vec<String>,
}

impl IdentityStart {
    fn is_zero(&self) -> bool {
        let within = |name: &str| self.path.iter().any(|part| part == name);
        let last = self.path.last().map(String::as_str);
        let zeroed = within("modulation") || (within("final_layer") && within("proj"));
        zeroed && matches!(last, Some("u" | "left" | "weight" | "bias"))
    }
}

impl ModuleMapper for IdentityStart {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.is_zero() {
            return param;
        }
        let id = param.id;
        let zeros = Tensor::zeros(param.val().dims(), (&param.val().device(), DType::F32));
        burn_blr::init::parameter_with_id(id, zeros)
    }
}

/// Runs the validation before the first step.
fn validate(
    trainee: &Trainee,
    request: &TrainRequest<'_>,
    device: &Device,
    shared: &Shared,
) -> Result<(), TrainingError> {
    let model = trainee.valid();
    for index in 0..request.source.valid_batches() {
        let batch = Batch {
            index,
            data: request.source.valid_batch(index)?,
            device: device.clone(),
        };
        let losses = InferenceStep::step(&model, batch).sync();
        shared.failure.take()?;
        let values = losses.values().map_err(|reason| TrainingError::Device {
            reason: reason.to_string(),
        })?;
        if let [loss, hits] = *values {
            let mut recording = locked(&shared.recording);
            recording.add_valid(f64::from(loss), f64::from(hits), losses.rows);
        }
    }
    let done = locked(&shared.recording).end_validation(0);
    if let Some(validation) = done {
        (shared.listener)(TrainEvent::Validation(validation));
    }
    Ok(())
}

/// Runs the rounds behind `round` with Burn's training.
fn run_rounds(
    request: &TrainRequest<'_>,
    trainee: Trainee,
    folder: &RunFolder,
    shared: &Shared,
    interrupter: Interrupter,
    round: usize,
) -> Result<Trainee, TrainingError> {
    let options = &request.options;
    let main = request.devices.first().ok_or_else(no_device)?;
    let (strategy, asked_per_step) = match (request.devices, options.exchange) {
        ([one], _) => (
            ExecutionStrategy::single(one.clone()),
            options.batches_per_step(),
        ),
        (several, Exchange::AllReduce) => {
            let config = DistributedConfig {
                all_reduce_op: ReduceOperation::Mean,
            };
            // Burn asks once for each batch of each device.
            let strategy = ExecutionStrategy::ddp(several.to_vec(), config);
            (strategy, options.batches_per_step())
        }
        (several, Exchange::MainDevice) => {
            let optim = MultiDeviceOptim::OptimMainDevice;
            let strategy = ExecutionStrategy::multi(several.to_vec(), optim);
            (strategy, options.accumulate)
        }
    };
    let train = TrainBatches::new(request.source.clone(), options, round, main);
    let valid = ValidBatches {
        source: request.source.clone(),
        device: main.clone(),
    };
    let schedule = WarmupCosine::new(options, asked_per_step);
    let learner = Learner::new(trainee, optimizer(options, main), schedule);
    let [model, moments, scheduler] = folder.keepers(&shared.recording);
    let mut training = SupervisedTraining::new(folder.work(), Arc::new(train), Arc::new(valid))
        .num_epochs(options.rounds())
        .with_application_logger(None)
        .renderer(Box::new(Silent(shared.clone())))
        .with_metric_logger(InMemoryMetricLogger::new())
        .with_interrupter(interrupter)
        .metric_train_numeric(Loss::new(shared, false))
        .metric_valid_numeric(Loss::new(shared, true))
        .with_checkpointing_strategy(KeepLastNCheckpoints::new(2))
        .with_custom_checkpointers(model, moments, scheduler)
        .with_training_strategy(strategy.into());
    if options.accumulate > 1 {
        training = training.grads_accumulation(options.accumulate);
    }
    if options.recompute {
        training = training.gradient_checkpointing();
    }
    if round > 0 {
        training = training.checkpoint(round);
    }
    // Stops when this returns.
    let _pump = match options.exchange {
        Exchange::AllReduce if request.devices.len() > 1 => Some(Pump::start(request.devices)),
        _ => None,
    };
    Ok(training.launch(learner).model)
}

/// The model after the last round, for a run that was killed behind it.
fn restored(
    trainee: Trainee,
    folder: &RunFolder,
    shared: &Shared,
    round: usize,
) -> Result<Trainee, TrainingError> {
    let [model, ..] = folder.keepers(&shared.recording);
    let record = model.model(round)?;
    Ok(trainee.load_record(record).valid())
}

/// What the checkpoint gets besides the weights.
fn around<'a>(start: &Start<'a>) -> Result<Around<'a>, TrainingError> {
    match *start {
        Start::Checkpoint(source) => {
            let mut section = source.blr().clone();
            // The errors were those of factors that are no more.
            for layer in section.layers.values_mut() {
                layer.relative_error = None;
            }
            Ok(Around {
                config: with_section(source.config_json(), section)?,
                files: other_files(source.dir())?,
                source: Some(source),
            })
        }
        Start::Random {
            family,
            config,
            path,
            plan,
            files,
        } => {
            let mut section = BlrSection::default();
            if let Some(plan) = plan {
                let layers = linear_layers_of(family, config, path)?;
                for (layer, structure) in plan.resolve(&layers)? {
                    if let Some(entry) = BlrLayer::new(&structure, None) {
                        section.layers.insert(layer.name, entry);
                    }
                }
            }
            Ok(Around {
                config: with_section(config, section)?,
                files: files.to_vec(),
                source: None,
            })
        }
    }
}

/// A configuration with the section `blr`, if that holds anything.
fn with_section(config: &Value, section: BlrSection) -> Result<Value, TrainingError> {
    let mut config = config.clone();
    if !section.layers.is_empty() {
        let section = serde_json::to_value(section);
        config["blr"] = section.map_err(|source| ModelError::Json {
            path: PathBuf::from("config.json"),
            source,
        })?;
    }
    Ok(config)
}
