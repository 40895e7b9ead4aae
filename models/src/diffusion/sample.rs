//! From noise to images, step by step.

use std::rc::Rc;

use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData};

use super::{DiffusionSchedule, DiffusionStep, NoiseSource};
use crate::captured::DIT_INPUTS;
use crate::dit::{check_classes, check_shape};
use crate::{CapturedForward, Dit, DitInputs, ModelError};

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
    /// Whether the pass of a step is captured and replayed where the device can, see
    /// [`crate::CapturedForward`]. While it is captured no other thread may use the device.
    pub capture: bool,
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
    let mut denoiser: Option<Rc<Denoiser<'_>>> = None;
    for (batch, classes) in options.classes.chunks(IMAGES_AT_ONCE).enumerate() {
        let denoiser = match &denoiser {
            Some(made) if made.images == classes.len() => made,
            _ => denoiser.insert(Rc::new(Denoiser::new(model, classes.len(), options)?)),
        };
        let mut trajectory = Trajectory::with(denoiser.clone(), model, classes, options)?;
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
pub struct Trajectory<'a> {
    denoiser: Rc<Denoiser<'a>>,
    /// Shape of the images.
    shape: [usize; 4],
    steps: Vec<DiffusionStep>,
    /// Steps that are left.
    left: usize,
    sampler: DiffusionSampler,
    /// The classes, and behind them the null class as often where guidance needs it.
    labels: Tensor<1, Int>,
}

impl<'a> Trajectory<'a> {
    /// The way to images of `classes` in one batch; the classes and the seed of `options` are not
    /// looked at.
    ///
    /// # Errors
    ///
    /// Those of [`sample_images`]; [`ModelError::InputShape`] for no class.
    pub fn new(
        model: &'a Dit,
        classes: &[i64],
        options: &SampleOptions,
    ) -> Result<Self, ModelError> {
        let denoiser = Rc::new(Denoiser::new(model, classes.len(), options)?);
        Self::with(denoiser, model, classes, options)
    }

    /// As [`Trajectory::new`], by a denoiser that was made for as many images and these options.
    fn with(
        denoiser: Rc<Denoiser<'a>>,
        model: &'a Dit,
        classes: &[i64],
        options: &SampleOptions,
    ) -> Result<Self, ModelError> {
        let config = model.config();
        let mut labels = classes.to_vec();
        if let Some(null) = null_class(model, options.guidance)? {
            labels.extend(vec![null; classes.len()]);
        }
        let steps = DiffusionSchedule::new(options.steps)?.steps().to_vec();
        let size = config.input_size;
        Ok(Self {
            denoiser,
            shape: [classes.len(), config.in_channels, size, size],
            left: steps.len(),
            steps,
            sampler: options.sampler,
            labels: model.classes(&labels)?,
        })
    }

    /// Why steps are not captured, where that was asked for and the device captures graphs.
    pub fn not_captured(&self) -> Option<&str> {
        self.denoiser.forward.not_captured()
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
        check_shape("x", &x.dims(), &self.shape)?;
        if let Some(noise) = &noise {
            check_shape("noise", &noise.dims(), &self.shape)?;
        }
        let noise = noise.filter(|_| self.needs_noise());
        let Some(index) = self.left.checked_sub(1) else {
            return Ok(x);
        };
        let Some(&step) = self.steps.get(index) else {
            return Ok(x);
        };
        let labels = self.labels.clone();
        let (predicted, spread) = self.denoiser.predict(x.clone(), step.timestep, labels)?;
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
}

/// The null class, where `guidance` needs it.
fn null_class(model: &Dit, guidance: f64) -> Result<Option<i64>, ModelError> {
    if !guidance.is_finite() {
        return Err(ModelError::invalid_option("guidance", guidance, "a number"));
    }
    if guidance == 1.0 {
        return Ok(None);
    }
    let null = model.config().null_class();
    let null = null.ok_or(ModelError::NoNullClass { guidance })?;
    Ok(Some(null as i64))
}

/// The pass of a step over a batch of images.
struct Denoiser<'a> {
    model: &'a Dit,
    images: usize,
    forward: CapturedForward<'a, DitInputs, 4>,
}

impl<'a> Denoiser<'a> {
    fn new(model: &'a Dit, images: usize, options: &SampleOptions) -> Result<Self, ModelError> {
        let guidance = options.guidance;
        let rows = match null_class(model, guidance)? {
            Some(_) => 2 * images,
            None => images,
        };
        let (_, t, y) = model.blank_inputs(rows)?;
        let (x, ..) = model.blank_inputs(images)?;
        let pass = move |inputs| guided(model, guidance, inputs);
        // SAFETY: the pass borrows the model, whose weights it reads.
        let forward = unsafe {
            let inputs = (x, t, y);
            CapturedForward::new(&model.device(), DIT_INPUTS, inputs, pass, options.capture)
        }?;
        Ok(Self {
            model,
            images,
            forward,
        })
    }

    /// The noise in `x`, guided, and what the model says of the variance, both in `f32`.
    fn predict(
        &self,
        x: Tensor<4>,
        timestep: usize,
        labels: Tensor<1, Int>,
    ) -> Result<(Tensor<4>, Option<Tensor<4>>), ModelError> {
        let [rows] = labels.dims();
        let t = self.model.timesteps(&vec![timestep as i64; rows]);
        let output = self.forward.run((x, t, labels))?;
        let config = self.model.config();
        let channels = config.in_channels;
        let spread = config
            .learn_sigma
            .then(|| output.clone().narrow(1, channels, channels));
        Ok((output.narrow(1, 0, channels), spread))
    }
}

/// What the model says of the images `x`, guided, in `f32`.
///
/// # Shapes
///
/// - `x`: `[images, in channels, input_size, input_size]`
/// - `t`, `y`: `[images]`, or `[2 images]` with the null class for the second half
/// - output: `[images, out channels, input_size, input_size]`
fn guided(model: &Dit, guidance: f64, (x, t, y): DitInputs) -> Result<Tensor<4>, ModelError> {
    let ([images, channels, ..], [rows]) = (x.dims(), y.dims());
    if rows == images {
        return Ok(model.forward(x, t, y)?.cast(FloatDType::F32));
    }
    let x = Tensor::cat(vec![x.clone(), x], 0); // [2 images, channels, size, size]
    let output = model.forward(x, t, y)?.cast(FloatDType::F32);
    let guided = GUIDED_CHANNELS.min(channels);
    let with = output.clone().narrow(0, 0, images);
    let without = output.narrow(0, images, images).narrow(1, 0, guided);
    let direction = with.clone().narrow(1, 0, guided) - without.clone();
    let mut parts = vec![without + direction * guidance];
    let rest = model.config().out_channels() - guided;
    if rest > 0 {
        parts.push(with.narrow(1, guided, rest));
    }
    Ok(Tensor::cat(parts, 1))
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
