//! Batches of images, with their labels or with noise.

use models::{
    DiffusionSchedule, DitConfig, ImagePipeline, LabelledImage, NoiseSource, TRAINING_STEPS,
};
use rand::RngExt;

use super::TrainOptions;
use super::batches::{BatchSource, HostBatch};
use super::order::{Order, generator};
use crate::TrainingError;

/// Set the generators of steps and of noise apart from each other and from those of orders.
const STEPS: u64 = 0x5EED_0001;
const NOISE: u64 = 0x5EED_0002;

/// Steps of the schedule between the images of a validation: prime, so that they spread.
const STRIDE: usize = 37;

/// Images and labels for training and for validation.
#[derive(Debug, Clone)]
pub struct ImageSets {
    /// Those that are learned from.
    pub train: Vec<LabelledImage>,
    /// Those that validations look at.
    pub valid: Vec<LabelledImage>,
}

impl ImageSets {
    /// Takes every n-th image for validation, so that it is about `share` of them, at least one.
    ///
    /// # Errors
    ///
    /// [`TrainingError::TooFewImages`] if nothing is left for one of the two.
    pub fn split(images: Vec<LabelledImage>, share: f64) -> Result<Self, TrainingError> {
        let found = images.len();
        let every = ((1.0 / share.max(1e-9)).round() as usize).clamp(2, found.max(2));
        let (mut train, mut valid) = (Vec::new(), Vec::new());
        for (n, image) in images.into_iter().enumerate() {
            match (n + 1).is_multiple_of(every) {
                true => valid.push(image),
                false => train.push(image),
            }
        }
        Self { train, valid }.checked(found)
    }

    /// The two sets as they are.
    ///
    /// # Errors
    ///
    /// [`TrainingError::TooFewImages`] if one of them is empty.
    pub fn new(
        train: Vec<LabelledImage>,
        valid: Vec<LabelledImage>,
    ) -> Result<Self, TrainingError> {
        let found = train.len().min(valid.len());
        Self { train, valid }.checked(found)
    }

    fn checked(self, found: usize) -> Result<Self, TrainingError> {
        if self.train.is_empty() || self.valid.is_empty() {
            return Err(TrainingError::TooFewImages { found });
        }
        Ok(self)
    }

    fn description(&self) -> String {
        let (train, valid) = (self.train.len(), self.valid.len());
        format!("{train} images for training and {valid} for validation")
    }
}

/// Images read from their files when they are drawn, prepared as for inference.
#[derive(Debug)]
struct Images {
    sets: ImageSets,
    pipeline: ImagePipeline,
    /// Channels that are kept, the first ones: one of gray images, which the files have three of.
    channels: usize,
    batch: usize,
    order: Order,
    valid_batches: usize,
}

/// The pixels of some images, their shape and labels.
type Read = (Vec<f32>, [usize; 4], Vec<i64>);

impl Images {
    fn new(
        sets: ImageSets,
        pipeline: ImagePipeline,
        channels: usize,
        options: &TrainOptions,
    ) -> Self {
        let valid_batches = sets.valid.len().div_ceil(options.batch);
        Self {
            order: Order::new(sets.train.len(), options.seed),
            valid_batches: valid_batches.min(options.valid_batches),
            batch: options.batch,
            sets,
            pipeline,
            channels,
        }
    }

    fn train(&self, index: usize) -> Result<Read, TrainingError> {
        let draws = index * self.batch..(index + 1) * self.batch;
        let drawn = draws.filter_map(|n| self.sets.train.get(self.order.sample(n).1));
        self.read(drawn)
    }

    fn valid(&self, index: usize) -> Result<Read, TrainingError> {
        let images = self.sets.valid.iter();
        self.read(images.skip(index * self.batch).take(self.batch))
    }

    fn read<'a>(
        &self,
        images: impl Iterator<Item = &'a LabelledImage>,
    ) -> Result<Read, TrainingError> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        let mut sizes = Vec::new();
        for image in images {
            let mut read = self.pipeline.open(&image.path)?;
            let [height, width] = read.size;
            read.values.truncate(self.channels * height * width);
            pixels.append(&mut read.values);
            labels.push(image.label as i64);
            sizes.push(read.size);
        }
        let size = sizes.first().copied().unwrap_or_default();
        if sizes.iter().any(|other| *other != size) {
            return Err(models::ModelError::MixedSizes { found: sizes }.into());
        }
        let shape = [labels.len(), self.channels, size[0], size[1]];
        Ok((pixels, shape, labels))
    }
}

/// Images and labels, for a classifier.
#[derive(Debug)]
pub struct ImageBatches(Images);

impl ImageBatches {
    /// Images that `pipeline` prepares.
    pub fn new(sets: ImageSets, pipeline: ImagePipeline, options: &TrainOptions) -> Self {
        Self(Images::new(sets, pipeline, 3, options))
    }
}

impl BatchSource for ImageBatches {
    fn train_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
        let (pixels, shape, labels) = self.0.train(index)?;
        Ok(HostBatch::Images {
            pixels,
            shape,
            labels,
        })
    }

    fn valid_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
        let (pixels, shape, labels) = self.0.valid(index)?;
        Ok(HostBatch::Images {
            pixels,
            shape,
            labels,
        })
    }

    fn valid_batches(&self) -> usize {
        self.0.valid_batches
    }

    fn description(&self) -> String {
        self.0.sets.description()
    }
}

/// Images with noise of a random step of the diffusion, for a DiT of one or three channels.
#[derive(Debug)]
pub struct NoisyBatches {
    images: Images,
    schedule: DiffusionSchedule,
    /// The class that stands for none, and how often it takes the place of the label.
    null: Option<(i64, f64)>,
    seed: u64,
}

impl NoisyBatches {
    /// Images as `config` asks for, from -1 to 1.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Channels`] for a model of latents, which no image file holds.
    pub fn new(
        sets: ImageSets,
        config: &DitConfig,
        options: &TrainOptions,
    ) -> Result<Self, TrainingError> {
        if !matches!(config.in_channels, 1 | 3) {
            return Err(TrainingError::Channels {
                found: config.in_channels,
            });
        }
        let pipeline = ImagePipeline::signed([config.input_size; 2]);
        let null = config.null_class();
        Ok(Self {
            images: Images::new(sets, pipeline, config.in_channels, options),
            schedule: DiffusionSchedule::new(TRAINING_STEPS)?,
            null: null.map(|class| (class as i64, config.class_dropout_prob)),
            seed: options.seed,
        })
    }

    /// `read` with noise; `first` is the number of its first image among all that are drawn.
    fn noisy(&self, read: Read, first: usize, validates: bool) -> HostBatch {
        let (pixels, shape, mut classes) = read;
        let [images, channels, height, width] = shape;
        let size = channels * height * width;
        let steps = self.schedule.steps();
        let (mut noisy, mut noise, mut timesteps) = (Vec::new(), Vec::new(), Vec::new());
        for (n, image) in pixels.chunks(size.max(1)).enumerate() {
            let number = first + n;
            let mut random = generator(self.seed ^ STEPS, number);
            // A validation spreads the steps evenly, and never drops a class.
            let step = match validates {
                true => number * STRIDE % steps.len(),
                false => random.random_range(0..steps.len()),
            };
            if let (Some((null, share)), Some(class)) = (self.null, classes.get_mut(n))
                && !validates
                && random.random::<f64>() < share
            {
                *class = null;
            }
            let Some(step) = steps.get(step) else {
                continue;
            };
            let drawn = NoiseSource::new(self.seed ^ NOISE, number).draw(size);
            let (kept, added) = (step.alpha.sqrt() as f32, (1.0 - step.alpha).sqrt() as f32);
            noisy.extend(image.iter().zip(&drawn).map(|(x, e)| kept * x + added * e));
            noise.extend(drawn);
            timesteps.push(step.timestep as i64);
        }
        debug_assert_eq!(timesteps.len(), images);
        HostBatch::Noisy {
            noisy,
            noise,
            shape,
            timesteps,
            classes,
        }
    }
}

impl BatchSource for NoisyBatches {
    fn train_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
        let read = self.images.train(index)?;
        Ok(self.noisy(read, index * self.images.batch, false))
    }

    fn valid_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
        let read = self.images.valid(index)?;
        Ok(self.noisy(read, index * self.images.batch, true))
    }

    fn valid_batches(&self) -> usize {
        self.images.valid_batches
    }

    fn description(&self) -> String {
        self.images.sets.description()
    }
}
