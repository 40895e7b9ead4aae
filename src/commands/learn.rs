//! What `blr finetune` and `blr train` share: data, progress, the report.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use models::{
    DitConfig, Family, Gpt2Config, ImagePipeline, LabelledImage, Labels, LlamaConfig, ModelError,
    TextTokenizer,
};
use serde::Serialize;
use serde_json::Value;
use training::{
    BatchSource, Curve, Distillation, ImageBatches, ImageSets, NoisyBatches, Start, TextBatches,
    TrainEvent, TrainOptions, TrainReport, TrainRequest, Trained, TrainingError,
};

use super::eval;
use crate::arguments::{Common, Dtype, TrainingArguments};
use crate::device::ChosenDevice;
use crate::error::CommandError;
use crate::output;

/// Longest window of text if none is asked for: the memory of a training grows with it.
const LONGEST_WINDOW: usize = 512;

/// A model in words: what `config.json` says, and where it is.
pub struct Described<'a> {
    pub family: Family,
    pub config: &'a Value,
    pub config_path: &'a Path,
    /// Where its tokenizer is, if it has one.
    pub tokenizer: Option<&'a Path>,
    /// What is done to images, for a vision transformer.
    pub pipeline: Option<ImagePipeline>,
}

/// The options of a training.
pub fn options(
    common: &Common,
    arguments: &TrainingArguments,
    trained: Trained,
    chosen: &ChosenDevice,
) -> Result<TrainOptions, CommandError> {
    if common.dtype == Dtype::F16 {
        return Err(flag(
            "dtype",
            "f16",
            "f32 or bf16: gradients leave the range of f16",
        ));
    }
    let share = arguments.valid_share;
    if arguments.valid.is_none() && !(share > 0.0 && share < 1.0) {
        return Err(flag("valid-share", share, "a share between 0 and 1"));
    }
    Ok(TrainOptions {
        steps: arguments.steps,
        batch: arguments.batch,
        accumulate: arguments.accumulate,
        devices: arguments.devices,
        exchange: arguments.exchange.into(),
        learning_rate: arguments.lr,
        final_share: arguments.lr_end,
        warmup: arguments.warmup.unwrap_or(arguments.steps / 10),
        weight_decay: arguments.weight_decay,
        clip: (arguments.clip != 0.0).then_some(arguments.clip),
        save_every: arguments.save_every.min(arguments.steps),
        valid_batches: arguments.valid_batches,
        seed: common.seed,
        dtype: chosen.dtype,
        recompute: arguments.recompute,
        trained,
        average: arguments.ema,
    })
}

fn flag(flag: &'static str, found: impl ToString, expected: &str) -> CommandError {
    CommandError::Flag {
        flag,
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

/// The data of the arguments, as the model takes it.
pub fn source(
    model: &Described<'_>,
    arguments: &TrainingArguments,
    options: &TrainOptions,
) -> Result<Arc<dyn BatchSource>, CommandError> {
    for (name, count) in [
        ("batch", options.batch),
        ("valid-batches", options.valid_batches),
    ] {
        if count == 0 {
            return Err(flag(name, count, "at least 1"));
        }
    }
    if let (Some(window), Family::Vit | Family::Dit) = (arguments.window, model.family) {
        return Err(flag("window", window, "no window for a model of images"));
    }
    let (config, path) = (model.config, model.config_path);
    Ok(match model.family {
        Family::Gpt2 => {
            let config = Gpt2Config::from_json(config, path)?;
            Arc::new(text(
                model,
                arguments,
                options,
                [config.vocab_size, config.n_positions],
            )?)
        }
        Family::Llama => {
            let config = LlamaConfig::from_json(config, path)?;
            let sizes = [config.vocab_size, config.max_position_embeddings];
            Arc::new(text(model, arguments, options, sizes)?)
        }
        Family::Vit => {
            let labels = Labels::from_json(config, path)?;
            let pipeline = model.pipeline.clone().ok_or_else(|| {
                let path = path.with_file_name("preprocessor_config.json");
                let expected = "it says how images are resized and normalized for this model";
                ModelError::MissingFile { path, expected }
            })?;
            Arc::new(ImageBatches::new(
                images(arguments, &labels)?,
                pipeline,
                options,
            ))
        }
        Family::Dit => {
            let config = DitConfig::from_json(config, path)?;
            let labels = Labels::numbered(config.num_classes);
            let sets = images(arguments, &labels)?;
            Arc::new(NoisyBatches::new(sets, &config, options)?)
        }
        other => {
            return Err(flag(
                "family",
                other.model_type(),
                "gpt2, llama, vit or dit",
            ));
        }
    })
}

/// The windows of a text, for a model of so many token ids and so long a context.
fn text(
    model: &Described<'_>,
    arguments: &TrainingArguments,
    options: &TrainOptions,
    [vocab_size, context]: [usize; 2],
) -> Result<TextBatches, CommandError> {
    let Some(tokenizer) = model.tokenizer else {
        return Err(flag(
            "tokenizer",
            "not given",
            "the directory of a tokenizer",
        ));
    };
    let tokenizer = TextTokenizer::open(tokenizer)?;
    let read = |path: &Path| -> Result<Vec<u32>, CommandError> {
        let tokens = tokenizer.encode(&eval::read_text(path)?)?;
        let known = |id: &u32| usize::try_from(*id).is_ok_and(|id| id < vocab_size);
        match tokens.iter().position(|id| !known(id)) {
            None => Ok(tokens),
            Some(position) => Err(ModelError::TokenOutOfRange {
                found: i64::from(tokens[position]),
                position,
                vocab_size,
            }
            .into()),
        }
    };
    let window = arguments.window.unwrap_or(LONGEST_WINDOW.min(context));
    if window > context {
        let expected = format!("at most {context}, the context of the model");
        return Err(flag("window", window, &expected));
    }
    let train = read(&arguments.data)?;
    Ok(match &arguments.valid {
        Some(path) => TextBatches::new(&train, &read(path)?, window, options)?,
        None => {
            let kept = (train.len() as f64 * (1.0 - arguments.valid_share)) as usize;
            let (train, valid) = train.split_at(kept);
            TextBatches::new(train, valid, window, options)?
        }
    })
}

/// The images of the arguments.
fn images(arguments: &TrainingArguments, labels: &Labels) -> Result<ImageSets, CommandError> {
    let read = |path: &Path| -> Result<Vec<LabelledImage>, ModelError> {
        models::labelled_images(path, labels)
    };
    let train = read(&arguments.data)?;
    Ok(match &arguments.valid {
        Some(path) => ImageSets::new(train, read(path)?)?,
        None => ImageSets::split(train, arguments.valid_share)?,
    })
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    device: &'a str,
    devices: usize,
    dtype: &'a str,
    parameters: usize,
    trained_parameters: usize,
    resumed_at: usize,
    seconds: f64,
    #[serde(flatten)]
    curve: &'a Curve,
}

/// What is trained, and where.
pub struct Job<'a> {
    pub start: Start<'a>,
    pub teacher: Option<(&'a models::Checkpoint, Distillation)>,
    pub source: Arc<dyn BatchSource>,
    pub options: TrainOptions,
    pub chosen: &'a ChosenDevice,
}

/// Trains with a bar over the steps and reports.
pub fn run(
    common: &Common,
    arguments: &TrainingArguments,
    job: Job<'_>,
) -> Result<(), CommandError> {
    let (chosen, steps) = (job.chosen, job.options.steps);
    let devices: Vec<Device> = chosen.and_next(job.options.devices)?;
    let request = TrainRequest {
        start: job.start,
        teacher: job.teacher,
        source: job.source,
        options: job.options,
        out: &arguments.out,
        devices: &devices,
        resume: arguments.resume,
    };
    let bar = output::progress(steps);
    let drawn = bar.clone();
    let validated = std::sync::Mutex::new(String::new());
    let report = training::train(&request, move |event| match event {
        TrainEvent::Resumed(step) => drawn.set_position(step as u64),
        TrainEvent::Step(step) => {
            drawn.set_position(step.step as u64);
            let validated = validated
                .lock()
                .map(|text| text.clone())
                .unwrap_or_default();
            drawn.set_message(format!("loss {:.4}{validated}", step.loss));
        }
        TrainEvent::Validation(validation) => {
            if let Ok(mut text) = validated.lock() {
                *text = format!(", validation {:.4}", validation.loss);
            }
        }
    })?;
    bar.finish_and_clear();
    output::line(summary(&report, steps));
    output::line(format_args!("written to {}", arguments.out.display()));
    let report = Report {
        out: &arguments.out,
        device: &chosen.name,
        devices: devices.len(),
        dtype: common.dtype.as_str(),
        parameters: report.parameters,
        trained_parameters: report.trained_parameters,
        resumed_at: report.resumed_at,
        seconds: report.seconds,
        curve: &report.curve,
    };
    output::write_json(common.json.as_deref(), &report)
}

fn summary(report: &TrainReport, steps: usize) -> String {
    let mut text = format!(
        "{} of {} parameters trained, {} steps in {:.1} s",
        report.trained_parameters,
        report.parameters,
        steps - report.resumed_at,
        report.seconds
    );
    if let [first, .., last] = report.curve.validations.as_slice() {
        text.push_str(&format!(
            "; loss on the validation {:.4}, before {:.4}",
            last.loss, first.loss
        ));
        if let (Some(before), Some(after)) = (first.accuracy, last.accuracy) {
            text.push_str(&format!("; accuracy {after:.4}, before {before:.4}"));
        }
    }
    text
}

/// Refuses an output directory that is there, before data are read.
pub fn check_out(out: &Path) -> Result<(), CommandError> {
    if out.exists() {
        let path = out.to_path_buf();
        return Err(TrainingError::OutputExists { path }.into());
    }
    Ok(())
}
