//! Drawing images from a model that predicts noise: the schedule, the samplers and guidance, as in
//! the [official code of DiT](https://github.com/facebookresearch/DiT/tree/main/diffusion).

mod noise;
mod sample;
mod schedule;

pub use noise::NoiseSource;
pub use sample::{DiffusionSampler, GUIDED_CHANNELS, SampleOptions, Trajectory, sample_images};
pub use schedule::{DiffusionSchedule, DiffusionStep, TRAINING_STEPS};
