//! What is done to an image before a model sees it.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use image::RgbImage;

use super::decode::decode;
use super::resize::{Resampling, resize};
use crate::{Checkpoint, Family, ModelError, VitConfig, VitNaming};

/// What is done to an image before a model sees it: resized, cropped, scaled and normalized, as
/// `preprocessor_config.json` of `transformers` or `pretrained_cfg` of timm says.
///
/// Resizing rounds to 8 bits exactly as Pillow does, which timm uses; `transformers` may use
/// torchvision instead, from which one level of 255 was measured. JPEG files are decoded by another
/// library than Pillow's, with up to three levels between them once an image is resized.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePipeline {
    pub(super) resize: Option<(ImageSize, Resampling)>,
    pub(super) crop: Option<[usize; 2]>,
    /// Whether half a pixel that the crop is off the middle by is rounded to even, or down.
    pub(super) round_crop: bool,
    pub(super) scale: f32,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
}

/// To what size an image is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSize {
    /// Height and width, whatever those of the image are.
    Exact([usize; 2]),
    /// The shorter edge becomes this long, and the other keeps its ratio to it.
    ShortestEdge(usize),
    /// The smallest size of the image's own ratio that covers height and width.
    Cover([usize; 2]),
}

/// The pixels of an image: three planes, red first, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Height and width.
    pub size: [usize; 2],
    /// `3 · height · width` values.
    pub values: Vec<f32>,
}

/// Most pixels of a resized image: a long and thin one may become very long.
const MOST_PIXELS: usize = 1 << 26;

impl ImagePipeline {
    /// The pipeline of a checkpoint: its `preprocessor_config.json`, or what its `config.json` says
    /// where that is timm's.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongFamily`] if it is not of a model that sees images;
    /// [`ModelError::MissingFile`], [`ModelError::Io`] and [`ModelError::Json`] if the file cannot be
    /// read; those of [`ImagePipeline::from_preprocessor`] and [`ImagePipeline::from_timm`].
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        checkpoint.expect_family(Family::Vit)?;
        let (json, path) = (checkpoint.config_json(), checkpoint.config_path());
        let config = VitConfig::from_json(json, &path)?;
        if config.num_channels != 3 {
            return Err(ModelError::InvalidKey {
                path,
                key: String::from("num_channels"),
                found: config.num_channels.to_string(),
                expected: String::from("3, the channels of the images that are read"),
            });
        }
        match config.naming {
            VitNaming::Timm => Self::from_timm(json, &path),
            VitNaming::HuggingFace => {
                let path = checkpoint.dir().join("preprocessor_config.json");
                let json = crate::checkpoint::read_json(
                    &path,
                    "it says how images are resized and normalized for this model",
                )?;
                Self::from_preprocessor(&json, &path)
            }
        }
    }

    /// Resizes to `size`, height and width, and scales values to -1 to 1.
    pub fn signed(size: [usize; 2]) -> Self {
        Self {
            resize: Some((ImageSize::Exact(size), Resampling::Bicubic)),
            crop: None,
            round_crop: false,
            scale: 1.0 / 127.5,
            mean: [1.0; 3],
            std: [1.0; 3],
        }
    }

    /// Reads an image file and prepares it.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingFile`], [`ModelError::Io`] and [`ModelError::Image`] if it is not a PNG
    /// or JPEG file that can be read, or would be resized to far too many pixels.
    pub fn open(&self, path: &Path) -> Result<Pixels, ModelError> {
        self.prepare(&decode(path)?)
            .map_err(|[height, width]| ModelError::Image {
                path: path.to_path_buf(),
                reason: format!("it would be resized to {height} x {width} pixels"),
            })
    }

    /// Prepares an image; an error with the size to which it cannot be resized.
    fn prepare(&self, image: &RgbImage) -> Result<Pixels, [usize; 2]> {
        let old = [image.height() as usize, image.width() as usize];
        let resized;
        let mut image = image;
        if let Some((size, resampling)) = self.resize {
            let new = size.of(old);
            if old.contains(&0) || !(1..=MOST_PIXELS).contains(&(new[0].saturating_mul(new[1]))) {
                return Err(new);
            }
            resized = resize(image, new, resampling);
            image = &resized;
        }
        let size = [image.height() as usize, image.width() as usize];
        let crop = self.crop.unwrap_or(size);
        // Where the crop begins in the image; before it if the image is smaller.
        let [top, left] = [0, 1].map(|side| self.offset(size[side], crop[side]));
        let mut values = Vec::with_capacity(3 * crop[0] * crop[1]);
        for ((channel, mean), std) in (0..3).zip(self.mean).zip(self.std) {
            for y in 0..crop[0] {
                for x in 0..crop[1] {
                    let inside = |n: usize, offset: isize| u32::try_from(n as isize + offset).ok();
                    let pixel = inside(x, left)
                        .zip(inside(y, top))
                        .and_then(|(x, y)| image.get_pixel_checked(x, y));
                    let value = pixel.map_or(0, |pixel| pixel.0[channel]);
                    values.push((f32::from(value) * self.scale - mean) / std);
                }
            }
        }
        Ok(Pixels { size: crop, values })
    }

    /// Where a crop of length `crop` begins on an axis of length `size`, in the middle.
    fn offset(&self, size: usize, crop: usize) -> isize {
        match size.checked_sub(crop) {
            None => -(((crop - size) / 2) as isize),
            Some(over) if self.round_crop => (over as f64 / 2.0).round_ties_even() as isize,
            Some(over) => (over / 2) as isize,
        }
    }
}

impl ImageSize {
    /// The new height and width of an image of height and width `old`.
    fn of(self, old: [usize; 2]) -> [usize; 2] {
        let [height, width] = old;
        match self {
            ImageSize::Exact(new) => new,
            ImageSize::ShortestEdge(edge) => {
                let long = edge * height.max(width) / height.min(width).max(1);
                if width <= height {
                    [long, edge]
                } else {
                    [edge, long]
                }
            }
            ImageSize::Cover([new_height, new_width]) => {
                let ratio = |old: usize, new: usize| old as f64 / new as f64;
                let ratio = ratio(height, new_height).min(ratio(width, new_width));
                old.map(|side| (side as f64 / ratio).round_ties_even() as usize)
            }
        }
    }
}

impl Pixels {
    /// Images of the same size as one batch.
    ///
    /// # Shapes
    ///
    /// - output: `[batch, 3, height, width]`, in `f32`
    ///
    /// # Errors
    ///
    /// [`ModelError::MixedSizes`] if the sizes differ, or there are no images.
    pub fn batch(images: &[Self], device: &Device) -> Result<Tensor<4>, ModelError> {
        let size = images.first().map_or([0, 0], |image| image.size);
        if images.is_empty() || images.iter().any(|image| image.size != size) {
            return Err(ModelError::MixedSizes {
                found: images.iter().map(|image| image.size).collect(),
            });
        }
        let values: Vec<f32> = images
            .iter()
            .flat_map(|image| image.values.clone())
            .collect();
        let data = TensorData::new(values, [images.len(), 3, size[0], size[1]]);
        Ok(Tensor::from_data(data, (device, DType::F32)))
    }
}
