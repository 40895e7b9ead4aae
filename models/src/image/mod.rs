//! From image files to the pixels a model takes.

mod decode;
mod list;
mod pipeline;
mod resize;
mod settings;

pub use list::{LabelledImage, images, labelled_images};
pub use pipeline::{ImagePipeline, ImageSize, Pixels};
pub use resize::Resampling;
