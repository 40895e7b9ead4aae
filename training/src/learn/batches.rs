//! Batches, made on the host, and the order in which a training sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use models::ModelInput;

use super::TrainOptions;
use crate::TrainingError;

/// Something that batches can be made of, for training and for validation.
pub trait BatchSource: Send + Sync {
    /// Batch `index` of the training. It depends on nothing but the index and the source, so that a
    /// training that is resumed sees what it would have seen.
    ///
    /// # Errors
    ///
    /// [`TrainingError`] if data cannot be read.
    fn train_batch(&self, index: usize) -> Result<HostBatch, TrainingError>;

    /// Batch `index` of every validation, below [`Self::valid_batches`].
    ///
    /// # Errors
    ///
    /// [`TrainingError`] if data cannot be read.
    fn valid_batch(&self, index: usize) -> Result<HostBatch, TrainingError>;

    /// Batches of a validation.
    fn valid_batches(&self) -> usize;

    /// What the source is made of, in words: a resumed training must have the same.
    fn description(&self) -> String;
}

/// What a model is given and what it should find, on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum HostBatch {
    /// Rows of `tokens + 1` ids: all but the last are given, all but the first are to be found.
    Text {
        /// The ids, row by row.
        ids: Vec<i64>,
        /// Number of rows.
        rows: usize,
    },
    /// Images and their labels.
    Images {
        /// The pixels.
        pixels: Vec<f32>,
        /// `[images, channels, height, width]`.
        shape: [usize; 4],
        /// A label for each image.
        labels: Vec<i64>,
    },
    /// Images with noise.
    Noisy {
        /// What is given.
        noisy: Vec<f32>,
        /// The noise that is in it.
        noise: Vec<f32>,
        /// `[images, channels, size, size]`, of both.
        shape: [usize; 4],
        /// Timesteps.
        timesteps: Vec<i64>,
        /// Classes.
        classes: Vec<i64>,
    },
}

/// What is to be found.
pub(crate) enum Target {
    /// A class for each row of the output, `[rows]`.
    Classes(Tensor<1, Int>),
    /// The noise, `[images, channels · size · size]`.
    Noise(Tensor<2>),
}

impl HostBatch {
    /// Images, or rows of text.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Text { rows, .. } => *rows,
            Self::Images { labels, .. } => labels.len(),
            Self::Noisy { classes, .. } => classes.len(),
        }
    }

    /// What the model is given.
    pub(crate) fn input(&self, device: &Device) -> ModelInput {
        match self {
            Self::Text { ids, rows } => {
                let [length] = [ids.len() / rows.max(&1)];
                let ids = integers(ids, [*rows, length], device);
                ModelInput::Tokens(ids.narrow(1, 0, length - 1))
            }
            Self::Images { pixels, shape, .. } => {
                ModelInput::Pixels(floats(pixels, *shape, device))
            }
            Self::Noisy {
                noisy,
                shape,
                timesteps,
                classes,
                ..
            } => ModelInput::Noisy {
                x: floats(noisy, *shape, device),
                t: integers(timesteps, [timesteps.len()], device),
                y: integers(classes, [classes.len()], device),
            },
        }
    }

    /// What it should find.
    pub(crate) fn target(&self, device: &Device) -> Target {
        match self {
            Self::Text { ids, rows } => {
                let length = ids.len() / rows.max(&1);
                let ids = integers(ids, [*rows, length], device);
                let next = ids.narrow(1, 1, length - 1);
                Target::Classes(next.reshape([rows * (length - 1)]))
            }
            Self::Images { labels, .. } => {
                Target::Classes(integers(labels, [labels.len()], device))
            }
            Self::Noisy { noise, shape, .. } => {
                let [images, channels, height, width] = *shape;
                Target::Noise(floats(noise, [images, channels * height * width], device))
            }
        }
    }
}

fn integers<const D: usize>(values: &[i64], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn floats<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (device, DType::F32))
}

/// A batch on its way to a device.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Its number, those of all devices counted together.
    pub index: usize,
    pub data: HostBatch,
    pub device: Device,
}

/// The batches of one device, round by round: what lies between two validations is an epoch for
/// Burn, which asks for an iterator for each.
pub(crate) struct TrainBatches {
    shared: Arc<TrainShared>,
    /// Which of the devices this is for.
    part: usize,
    parts: usize,
    device: Device,
    /// The round that is asked for next, counted from zero.
    round: AtomicUsize,
}

struct TrainShared {
    source: Arc<dyn BatchSource>,
    options: TrainOptions,
}

impl TrainBatches {
    /// The batches of all devices from `round` on.
    pub fn new(
        source: Arc<dyn BatchSource>,
        options: &TrainOptions,
        round: usize,
        device: &Device,
    ) -> Self {
        let options = options.clone();
        Self {
            shared: Arc::new(TrainShared { source, options }),
            part: 0,
            parts: 1,
            device: device.clone(),
            round: AtomicUsize::new(round),
        }
    }

    fn like(&self, part: usize, parts: usize, device: &Device) -> Self {
        Self {
            shared: self.shared.clone(),
            part,
            parts,
            device: device.clone(),
            round: AtomicUsize::new(self.round.load(Ordering::Relaxed)),
        }
    }
}

impl DataLoader<Batch> for TrainBatches {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let options = &self.shared.options;
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        let first = round * options.save_every;
        let steps = options.save_every.min(options.steps.saturating_sub(first));
        // A step takes batches one after the other, and each device an equal run of them.
        let per_step = options.batches_per_step();
        let each = per_step / self.parts;
        let indices = (first..first + steps).flat_map(move |step| {
            let start = step * per_step + self.part * each;
            start..start + each
        });
        Box::new(BatchIterator {
            indices: Box::new(indices),
            make: move |index| self.shared.source.train_batch(index),
            device: &self.device,
            done: 0,
            total: steps * each,
        })
    }

    fn num_items(&self) -> usize {
        let options = &self.shared.options;
        options.save_every * options.batches_per_step() / self.parts
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.like(self.part, self.parts, device))
    }

    /// Burn cuts the items of an epoch into equal runs, one for each device; the device whose run
    /// begins at `start` gets its part of every step instead, so that a step is the same set of
    /// batches whatever the number of devices.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let length = end.saturating_sub(start).max(1);
        let parts = (self.num_items() / length).max(1);
        Arc::new(self.like(start / length, parts, &self.device))
    }
}

/// The batches of a validation.
pub(crate) struct ValidBatches {
    pub source: Arc<dyn BatchSource>,
    pub device: Device,
}

impl DataLoader<Batch> for ValidBatches {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let total = self.source.valid_batches();
        Box::new(BatchIterator {
            indices: Box::new(0..total),
            make: move |index| self.source.valid_batch(index),
            device: &self.device,
            done: 0,
            total,
        })
    }

    fn num_items(&self) -> usize {
        self.source.valid_batches()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            source: self.source.clone(),
            device: device.clone(),
        })
    }

    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<Batch>> {
        // Validations are not shared out.
        self.to_device(&self.device)
    }
}

struct BatchIterator<'a, F> {
    indices: Box<dyn Iterator<Item = usize> + 'a>,
    make: F,
    device: &'a Device,
    done: usize,
    total: usize,
}

impl<F: Fn(usize) -> Result<HostBatch, TrainingError>> Iterator for BatchIterator<'_, F> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.indices.next()?;
        self.done += 1;
        let made = (self.make)(index).map(|data| Batch {
            index,
            data,
            device: self.device.clone(),
        });
        Some(made.map_err(DatasetError::new))
    }
}

impl<F: Fn(usize) -> Result<HostBatch, TrainingError>> DataLoaderIterator<Batch>
    for BatchIterator<'_, F>
{
    fn progress(&self) -> Progress {
        Progress::new(self.done, self.total, Some(String::from("batches")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::data::dataloader::split::split_dataloader;

    struct Numbers;

    impl BatchSource for Numbers {
        fn train_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
            Ok(HostBatch::Text {
                ids: vec![index as i64; 2],
                rows: 1,
            })
        }

        fn valid_batch(&self, index: usize) -> Result<HostBatch, TrainingError> {
            self.train_batch(index)
        }

        fn valid_batches(&self) -> usize {
            1
        }

        fn description(&self) -> String {
            String::from("numbers")
        }
    }

    fn indices(loader: &dyn DataLoader<Batch>) -> Vec<usize> {
        let batches = loader.iter().filter_map(Result::ok);
        batches.map(|batch| batch.index).collect()
    }

    #[test]
    fn devices_share_each_step_and_rounds_go_on_where_the_last_one_ended() {
        let options = TrainOptions {
            steps: 5,
            save_every: 3,
            accumulate: 2,
            devices: 2,
            ..TrainOptions::default()
        };
        let device = Device::flex();
        let whole = Arc::new(TrainBatches::new(Arc::new(Numbers), &options, 0, &device));
        let parts = split_dataloader(whole.clone(), &[device.clone(), device.clone()]);
        assert_eq!(indices(parts[0].as_ref()), [0, 1, 4, 5, 8, 9]);
        assert_eq!(indices(parts[1].as_ref()), [2, 3, 6, 7, 10, 11]);
        assert_eq!(indices(parts[1].as_ref()), [14, 15, 18, 19]);
        assert_eq!(indices(whole.as_ref()), (0..12).collect::<Vec<_>>());
        // A training that goes on after the first round.
        let resumed = TrainBatches::new(Arc::new(Numbers), &options, 1, &device);
        assert_eq!(indices(&resumed), (12..20).collect::<Vec<_>>());
        assert!(indices(&resumed).is_empty());
    }
}
