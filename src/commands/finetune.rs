//! `blr finetune`.

use models::{Checkpoint, Family, ImagePipeline};
use training::{Distillation, Start};

use super::learn::{self, Described, Job};
use crate::arguments::{Common, FinetuneArguments};
use crate::error::CommandError;

pub fn run(common: &Common, arguments: &FinetuneArguments) -> Result<(), CommandError> {
    let training = &arguments.training;
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let teacher = arguments
        .teacher
        .as_ref()
        .map(Checkpoint::open)
        .transpose()?;
    learn::check_out(&training.out)?;
    let chosen = common.choose_device()?;
    let options = learn::options(common, training, arguments.train.into(), &chosen)?;
    let path = checkpoint.config_path();
    let described = Described {
        family: checkpoint.family(),
        config: checkpoint.config_json(),
        config_path: &path,
        tokenizer: Some(checkpoint.dir()),
        pipeline: match checkpoint.family() {
            Family::Vit => Some(ImagePipeline::of_checkpoint(&checkpoint)?),
            _ => None,
        },
    };
    let source = learn::source(&described, training, &options)?;
    let distillation = Distillation {
        task: arguments.task_weight,
        output: arguments.output_weight,
        temperature: arguments.temperature,
        hidden: arguments.hidden_weight.clone(),
    };
    let job = Job {
        start: Start::Checkpoint(&checkpoint),
        teacher: teacher.as_ref().map(|teacher| (teacher, distillation)),
        source,
        options,
        chosen: &chosen,
    };
    learn::run(common, training, job)
}
