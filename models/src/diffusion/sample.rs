//! From noise to images, step by step.

use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData};

use super::{DiffusionSchedule, DiffusionStep, NoiseSource};
use crate::dit::{check_classes, check_shape};
use crate::{Dit, ModelError};

/// Channels that guidance is applied to, the first ones: three, as the official code has it "for
/// exact reproducibility", also where a latent has four. The others and the variance stay those of
/// the class alone.
pub const GUIDED_CHANNELS: usize = 3;

/// Images that go through the model at once, which bounds the memory of activations.
const IMAGES_AT_ONCE: usize = 8;

/// How a step back is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffusionSampler {
    /// Draws from the distribution of the step back
    /// ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)), with the variance that the model has
    /// learned, or else the largest.
    Ddpm,
    /// Takes the step without noise ([Song et al. 2020](https://arxiv.org/abs/2010.02502), `η = 0`);
    /// needs fewer steps.
    Ddim,
}

/// What to draw, and how.
#[derive(Debug, Clone)]
pub struct SampleOptions {
    /// The class of every image.
    pub classes: Vec<i64>,
    /// How steps are taken.
    pub sampler: DiffusionSampler,
    /// Number of steps, 1 to 1000.
    pub steps: usize,
    /// How far to go from the prediction without class to the one with it, and beyond: 1 is the
    /// latter, at half of the cost. The published grids have 4.
    pub guidance: f64,
    /// Seed of all noise.
    pub seed: u64,
}

/// Draws an image for each class of `options`. `on_step` is told how many steps of how many are
/// done, those of all images counted.
///
/// # Shapes
///
/// - output: `[classes, in channels, input_size, input_size]`, `f32`; pixels are from -1 to 1 and
///   not clipped, latents as the autoencoder scales them
///
/// # Errors
///
/// [`ModelError::InvalidOption`] for no class, a step count or a guidance that cannot be used,
/// [`ModelError::ClassOutOfRange`], and [`ModelError::NoNullClass`].
pub fn sample_images(
    model: &Dit,
    options: &SampleOptions,
    mut on_step: impl FnMut(usize, usize),
) -> Result<Tensor<4>, ModelError> {
    let config = model.config();
    check_classes(&options.classes, config.num_classes)?;
    if options.classes.is_empty() {
        let expected = "at least one class";
        return Err(ModelError::invalid_option("class", "not given", expected));
    }
    let (channels, size) = (config.in_channels, config.input_size);
    let pixels = channels * size * size;
    let device = model.device();
    let batches = options.classes.len().div_ceil(IMAGES_AT_ONCE);
    let mut images = Vec::with_capacity(batches);
    for (batch, classes) in options.classes.chunks(IMAGES_AT_ONCE).enumerate() {
        let mut trajectory = Trajectory::new(model, classes, options)?;
        let first = batch * IMAGES_AT_ONCE;
        let mut sources: Vec<_> = (first..first + classes.len())
            .map(|image| NoiseSource::new(options.seed, image))
            .collect();
        let mut noise = || -> Tensor<4> {
            let values: Vec<f32> = sources
                .iter_mut()
                .flat_map(|source| source.draw(pixels))
                .collect();
            let data = TensorData::new(values, [classes.len(), channels, size, size]);
            Tensor::from_data(data, (&device, DType::F32))
        };
        let mut x = noise();
        for step in 0..trajectory.len() {
            let drawn = trajectory.needs_noise().then(&mut noise);
            x = trajectory.step(x, drawn)?;
            on_step(batch * options.steps + step + 1, batches * options.steps);
        }
        images.push(x);
    }
    Ok(Tensor::cat(images, 0))
}

/// The way from noise to images of given classes, for noise of the caller's.
#[derive(Debug)]
pub struct Trajectory<'a> {
    model: &'a Dit,
    steps: Vec<DiffusionStep>,
    /// Steps that are left.
    left: usize,
    sampler: DiffusionSampler,
    guidance: f64,
    /// The classes, and behind them the null class as often where guidance needs it.
    labels: Tensor<1, Int>,
    images: usize,
}

impl<'a> Trajectory<'a> {
    /// The way to images of `classes` in one batch; the classes and the seed of `options` are not
    /// looked at.
    ///
    /// # Errors
    ///
    /// Those of [`sample_images`].
    pub fn new(
        model: &'a Dit,
        classes: &[i64],
        options: &SampleOptions,
    ) -> Result<Self, ModelError> {
        let guidance = options.guidance;
        if !guidance.is_finite() {
            return Err(ModelError::invalid_option("guidance", guidance, "a number"));
        }
        let mut labels = classes.to_vec();
        if guidance != 1.0 {
            let null = model.config().null_class();
            let null = null.ok_or(ModelError::NoNullClass { guidance })?;
            labels.extend(vec![null as i64; classes.len()]);
        }
        let steps = DiffusionSchedule::new(options.steps)?.steps().to_vec();
        Ok(Self {
            model,
            left: steps.len(),
            steps,
            sampler: options.sampler,
            guidance,
            labels: model.classes(&labels)?,
            images: classes.len(),
        })
    }

    /// Steps that are left.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether no step is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Whether the next step takes noise: those of DDPM do, but for the last.
    pub fn needs_noise(&self) -> bool {
        self.sampler == DiffusionSampler::Ddpm && self.left > 1
    }

    /// Takes the next step; returns `x` as it is if none is left. Noise that is not needed is not
    /// looked at, and noise that is not given is zero.
    ///
    /// # Shapes
    ///
    /// - `x`, `noise`, output: `[classes, in channels, input_size, input_size]`, `f32`
    ///
    /// # Errors
    ///
    /// [`ModelError::InputShape`] if a shape is not as above.
    pub fn step(
        &mut self,
        x: Tensor<4>,
        noise: Option<Tensor<4>>,
    ) -> Result<Tensor<4>, ModelError> {
        let config = self.model.config();
        let size = config.input_size;
        let shape = [self.images, config.in_channels, size, size];
        check_shape("x", &x.dims(), &shape)?;
        if let Some(noise) = &noise {
            check_shape("noise", &noise.dims(), &shape)?;
        }
        let noise = noise.filter(|_| self.needs_noise());
        let Some(index) = self.left.checked_sub(1) else {
            return Ok(x);
        };
        let Some(&step) = self.steps.get(index) else {
            return Ok(x);
        };
        let (predicted, spread) = self.predict(x.clone(), step.timestep)?;
        self.left = index;

        let [of_x, of_noise] = step.image();
        let image = x.clone() * of_x - predicted.clone() * of_noise;
        Ok(match self.sampler {
            DiffusionSampler::Ddim => {
                image * step.alpha_before.sqrt() + predicted * (1.0 - step.alpha_before).sqrt()
            }
            DiffusionSampler::Ddpm => {
                let [of_image, of_x] = step.mean();
                let mean = image * of_image + x * of_x;
                match noise {
                    None => mean,
                    Some(noise) => mean + deviation(&step, spread, noise),
                }
            }
        })
    }

    /// The noise in `x`, guided, and what the model says of the variance, both in `f32`.
    fn predict(
        &self,
        x: Tensor<4>,
        timestep: usize,
    ) -> Result<(Tensor<4>, Option<Tensor<4>>), ModelError> {
        let config = self.model.config();
        let (images, channels) = (self.images, config.in_channels);
        let [rows] = self.labels.dims();
        let t = self.model.timesteps(&vec![timestep as i64; rows]);
        let x = match rows == images {
            true => x,
            false => Tensor::cat(vec![x.clone(), x], 0), // [2 images, channels, size, size]
        };
        let output = self.model.forward(x, t, self.labels.clone())?;
        let output = output.cast(FloatDType::F32);
        let conditional = output.clone().narrow(0, 0, images);
        let mut predicted = conditional.clone().narrow(1, 0, channels);
        if rows != images {
            let guided = GUIDED_CHANNELS.min(channels);
            let part = |all: Tensor<4>| all.narrow(1, 0, guided);
            let without = part(output.narrow(0, images, images));
            let with = part(conditional.clone());
            let mut parts = vec![without.clone() + (with - without) * self.guidance];
            if guided < channels {
                parts.push(predicted.narrow(1, guided, channels - guided));
            }
            predicted = Tensor::cat(parts, 1);
        }
        let spread = config
            .learn_sigma
            .then(|| conditional.narrow(1, channels, channels));
        Ok((predicted, spread))
    }
}

/// `noise` with the variance of the step: between the smallest and the largest in the log, at the
/// place `spread`, from -1 to 1, that the model has learned; fixed where it has not.
fn deviation(step: &DiffusionStep, spread: Option<Tensor<4>>, noise: Tensor<4>) -> Tensor<4> {
    match spread {
        None => noise * (0.5 * step.fixed_log_variance).exp(),
        Some(spread) => {
            let (min, max) = (step.min_log_variance, step.max_log_variance);
            let log_variance = (spread + 1.0) * (0.5 * (max - min)) + min;
            (log_variance * 0.5).exp() * noise
        }
    }
}
