//! `blr train`.

use std::path::Path;

use models::{Family, ImagePipeline, Plan, Rule};
use serde_json::Value;
use training::{Start, Trained};

use super::learn::{self, Described, Job};
use crate::arguments::{Common, TrainArguments};
use crate::error::CommandError;

/// What a tokenizer may consist of.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
];

/// What says how images are prepared.
const PREPROCESSOR: &str = "preprocessor_config.json";

pub fn run(common: &Common, arguments: &TrainArguments) -> Result<(), CommandError> {
    let training = &arguments.training;
    let family = Family::from(arguments.family);
    let config = config(&arguments.config, family)?;
    let plan = plan(arguments)?;
    learn::check_out(&training.out)?;
    let beside = arguments.config.with_file_name(PREPROCESSOR);
    let mut files = Vec::new();
    if let Some(dir) = &arguments.tokenizer {
        files.extend(TOKENIZER_FILES.map(|name| dir.join(name)));
    }
    if family == Family::Vit {
        files.push(beside.clone());
    }
    files.retain(|file| file.exists());
    let chosen = common.choose_device()?;
    let options = learn::options(common, training, Trained::All, &chosen)?;
    let described = Described {
        family,
        config: &config,
        config_path: &arguments.config,
        tokenizer: arguments.tokenizer.as_deref(),
        pipeline: pipeline(family, &config, &arguments.config, &beside)?,
    };
    let source = learn::source(&described, training, &options)?;
    let job = Job {
        start: Start::Random {
            family,
            config: &config,
            path: &arguments.config,
            plan: plan.as_ref(),
            files: &files,
        },
        teacher: None,
        source,
        options,
        chosen: &chosen,
    };
    learn::run(common, training, job)
}

/// The configuration, with its family in it.
fn config(path: &Path, family: Family) -> Result<Value, CommandError> {
    let mut config = read(path)?;
    let timm = config.get("architecture").is_some();
    let found = config.get("model_type").cloned();
    let wanted = Value::from(family.model_type());
    match (&mut config, found) {
        (_, Some(found)) if found != wanted => Err(CommandError::Flag {
            flag: "family",
            found: family.model_type().to_string(),
            expected: format!("{found}, as {} says", path.display()),
        }),
        (Value::Object(keys), None) if !timm => {
            keys.insert(String::from("model_type"), wanted);
            Ok(config)
        }
        (Value::Object(_), _) => Ok(config),
        (other, _) => Err(CommandError::Flag {
            flag: "config",
            found: other.to_string(),
            expected: String::from("an object, as in the config.json of a checkpoint"),
        }),
    }
}

fn read(path: &Path) -> Result<Value, CommandError> {
    let bytes = std::fs::read(path).map_err(|source| CommandError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let parsed = serde_json::from_slice(&bytes);
    Ok(parsed.map_err(|source| models::ModelError::Json {
        path: path.to_path_buf(),
        source,
    })?)
}

/// What is done to images, where the configuration or the file beside it says that.
fn pipeline(
    family: Family,
    config: &Value,
    path: &Path,
    beside: &Path,
) -> Result<Option<ImagePipeline>, CommandError> {
    if family != Family::Vit {
        return Ok(None);
    }
    if config.get("architecture").is_some() {
        return Ok(Some(ImagePipeline::from_timm(config, path)?));
    }
    match beside.exists() {
        true => Ok(Some(ImagePipeline::from_preprocessor(
            &read(beside)?,
            beside,
        )?)),
        false => Ok(None),
    }
}

/// Which layers become what; `None` leaves all of them dense.
fn plan(arguments: &TrainArguments) -> Result<Option<Plan>, CommandError> {
    if let Some(path) = &arguments.plan {
        return Ok(Some(Plan::open(path)?));
    }
    let Some(method) = arguments.method else {
        return Ok(None);
    };
    if let Some(name) = &arguments.preset {
        return Ok(Some(Plan::preset(name, method)?));
    }
    if arguments.rank.is_none() && arguments.keep.is_none() {
        return Err(CommandError::NoSize);
    }
    Ok(Some(Plan::single(Rule {
        layers: arguments.layers.clone().unwrap_or_default(),
        method,
        rank: arguments.rank,
        keep: arguments.keep,
        blocks: arguments.blocks,
        output_order: None,
    })))
}
