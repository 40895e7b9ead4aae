//! `blr sample`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Tensor;
use models::{AutoencoderKl, Checkpoint, DiffusionSampler, Dit, SampleOptions};
use serde::Serialize;

use crate::arguments::{Common, SampleArguments, SamplerChoice};
use crate::error::CommandError;
use crate::output;
use crate::picture::{Picture, Tiles};

/// Steps if none are asked for: what the official code takes for DDPM, and a fifth of it for DDIM.
const DDPM_STEPS: usize = 250;
const DDIM_STEPS: usize = 50;

#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    classes: &'a [i64],
    sampler: &'static str,
    steps: usize,
    guidance: f64,
    shows: &'static str,
    width: u32,
    height: u32,
    seconds: f64,
    device: &'a str,
    dtype: &'a str,
}

pub fn run(common: &Common, arguments: &SampleArguments) -> Result<(), CommandError> {
    check_out(&arguments.out)?;
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let chosen = common.choose_device()?;
    let model = Dit::load(&checkpoint, &chosen.device, chosen.dtype)?.for_inference();
    let channels = model.config().in_channels;
    let decoder = match &arguments.vae {
        None => None,
        Some(dir) => Some(decoder(dir, channels, &chosen.device)?),
    };
    let options = options(common, arguments);
    let started = Instant::now();
    let bar = output::progress(0);
    let samples = models::sample_images(&model, &options, |done, count| {
        bar.set_length(count as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();

    let (tiles, shows) = match (&decoder, channels) {
        (Some(decoder), _) => (decode(decoder, samples)?, "decoded images"),
        (None, 1 | 3) => (tiles(samples)?, "pixels"),
        (None, _) => (tiles(samples)?, "latents in false colour"),
    };
    let picture = match shows {
        "latents in false colour" => Picture::false_colour(&tiles),
        _ => Picture::pixels(&tiles),
    };
    output::write_file(&arguments.out, &picture.png()?)?;
    let (width, height) = picture.size();
    let seconds = started.elapsed().as_secs_f64();
    output::line(format_args!(
        "{} images in {seconds:.1} s on {}; {shows}, {width} x {height}, written to {}",
        options.classes.len(),
        chosen.name,
        arguments.out.display()
    ));
    if decoder.is_none() && !matches!(channels, 1 | 3) {
        output::line(
            "these are latents, not images: three of their channels as red, green and blue; \
             --vae DIR decodes them",
        );
    }
    let report = Report {
        out: &arguments.out,
        classes: &options.classes,
        sampler: match options.sampler {
            DiffusionSampler::Ddpm => "ddpm",
            DiffusionSampler::Ddim => "ddim",
        },
        steps: options.steps,
        guidance: options.guidance,
        shows,
        width,
        height,
        seconds,
        device: &chosen.name,
        dtype: common.dtype.as_str(),
    };
    output::write_json(common.json.as_deref(), &report)
}

/// Finds out before hours of sampling that the picture could not be written.
fn check_out(out: &Path) -> Result<(), CommandError> {
    let folder = out
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if folder.is_dir() && !out.is_dir() {
        return Ok(());
    }
    Err(CommandError::Flag {
        flag: "out",
        found: out.display().to_string(),
        expected: String::from("a file in a directory that exists"),
    })
}

fn options(common: &Common, arguments: &SampleArguments) -> SampleOptions {
    let classes = arguments.class.iter().map(|&class| i64::from(class));
    let (sampler, steps) = match arguments.sampler {
        SamplerChoice::Ddpm => (DiffusionSampler::Ddpm, DDPM_STEPS),
        SamplerChoice::Ddim => (DiffusionSampler::Ddim, DDIM_STEPS),
    };
    SampleOptions {
        classes: classes
            .flat_map(|class| std::iter::repeat_n(class, arguments.count))
            .collect(),
        sampler,
        steps: arguments.steps.unwrap_or(steps),
        guidance: arguments.guidance,
        seed: common.seed,
        capture: arguments.capture,
    }
}

/// Loads the decoder and checks that it takes what the model makes.
fn decoder(
    dir: &PathBuf,
    channels: usize,
    device: &burn::tensor::Device,
) -> Result<AutoencoderKl, CommandError> {
    let decoder = AutoencoderKl::load(dir, device)?;
    let (takes, makes) = (
        decoder.config().latent_channels,
        decoder.config().out_channels,
    );
    if takes != channels || !matches!(makes, 1 | 3) {
        return Err(CommandError::Flag {
            flag: "vae",
            found: format!("{} turns {takes} channels into {makes}", dir.display()),
            expected: format!("a decoder of {channels} channels into 1 or 3"),
        });
    }
    Ok(decoder)
}

/// Decodes one image at a time: the last layers need a hundred times the memory of a latent.
fn decode(decoder: &AutoencoderKl, latents: Tensor<4>) -> Result<Tiles, CommandError> {
    let [count, ..] = latents.dims();
    let mut all: Option<Tiles> = None;
    for n in 0..count {
        let latent = latents.clone().narrow(0, n, 1);
        let found = tiles(decoder.decode_scaled(latent)?)?;
        match &mut all {
            None => all = Some(found),
            Some(all) => all.append(found),
        }
    }
    all.ok_or_else(|| CommandError::Device {
        reason: String::from("no image was drawn"),
    })
}

/// The images on the host.
fn tiles(images: Tensor<4>) -> Result<Tiles, CommandError> {
    let [count, channels, height, width] = images.dims();
    let values = images
        .try_into_vec_as()
        .map_err(|error| CommandError::Device {
            reason: error.to_string(),
        })?;
    let tiles = Tiles {
        count,
        channels,
        height,
        width,
        values,
    };
    match tiles.values.iter().all(|value| value.is_finite()) {
        true => Ok(tiles),
        false => Err(CommandError::NonFiniteImage),
    }
}
