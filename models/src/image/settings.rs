//! The files that say what a pipeline does.

use std::path::Path;

use serde_json::Value;

use super::pipeline::{ImagePipeline, ImageSize};
use super::resize::Resampling;
use crate::ModelError;
use crate::checkpoint::ConfigKeys;

/// The numbers of Pillow, which `resample` holds, and the names timm uses for `interpolation`.
const RESAMPLINGS: [(u64, &str, Resampling); 6] = [
    (0, "nearest", Resampling::Nearest),
    (1, "lanczos", Resampling::Lanczos),
    (2, "bilinear", Resampling::Bilinear),
    (3, "bicubic", Resampling::Bicubic),
    (4, "box", Resampling::Box),
    (5, "hamming", Resampling::Hamming),
];

/// Means and deviations of ImageNet, which timm takes where none are set.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The share of the resized edge that timm keeps where none is set.
const CROP_SHARE: f64 = 0.875;

impl ImagePipeline {
    /// Reads a `preprocessor_config.json` of `transformers`; a key that is not set takes the default
    /// of `ViTImageProcessor`. `path` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidKey`] and [`ModelError::MissingKey`] for values that are missing, have
    /// the wrong type or are not supported.
    pub fn from_preprocessor(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        for key in ["do_pad", "do_reduce_labels", "do_flip_channel_order"] {
            if keys.flag(key, false)? {
                return Err(keys.invalid(key, "false: it is not supported"));
            }
        }
        let resize = if keys.flag("do_resize", true)? {
            let size = size(&keys, "size")?.unwrap_or(ImageSize::Exact([224, 224]));
            Some((size, resample(&keys)?))
        } else {
            None
        };
        let crop = if keys.flag("do_center_crop", false)? {
            match size(&keys, "crop_size")? {
                Some(ImageSize::Exact(size)) => Some(size),
                Some(_) => return Err(keys.invalid("crop_size", "height and width")),
                None => return Err(keys.missing("crop_size", "height and width")),
            }
        } else {
            None
        };
        let scale = if keys.flag("do_rescale", true)? {
            keys.positive("rescale_factor", 1.0 / 255.0)? as f32
        } else {
            1.0
        };
        let (mean, std) = if keys.flag("do_normalize", true)? {
            let mean = keys.numbers("image_mean")?.unwrap_or([0.5; 3]);
            (mean, deviations(&keys, "image_std", [0.5; 3])?)
        } else {
            ([0.0; 3], [1.0; 3])
        };
        Ok(Self {
            resize,
            crop,
            round_crop: false,
            scale,
            mean,
            std,
        })
    }

    /// Reads the `pretrained_cfg` of a `config.json` of timm; a key that is not set takes timm's
    /// default. `path` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidKey`] and [`ModelError::MissingKey`] for values that are missing, have
    /// the wrong type or are not supported.
    pub fn from_timm(json: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = ConfigKeys::new(path, json);
        let keys = keys.section("pretrained_cfg")?.ok_or_else(|| {
            keys.missing("pretrained_cfg", "how images are resized and normalized")
        })?;
        let input: [f32; 3] = keys.numbers("input_size")?.unwrap_or([3.0, 224.0, 224.0]);
        let [_, height, width] = input.map(|side| side as usize);
        let share = keys.positive("crop_pct", CROP_SHARE)?;
        let scaled = [height, width].map(|side| (side as f64 / share).floor() as usize);
        let mut edges = [height, width].into_iter().chain(scaled);
        if !edges.all(|edge| (1..=LONGEST_EDGE).contains(&edge)) {
            return Err(keys.invalid("input_size", "channels, height and width of images"));
        }
        let size = match keys.text("crop_mode", "center")? {
            "center" if scaled[0] == scaled[1] => ImageSize::ShortestEdge(scaled[0]),
            "center" => ImageSize::Cover(scaled),
            "squash" => ImageSize::Exact(scaled),
            _ => return Err(keys.invalid("crop_mode", "center or squash")),
        };
        let name = keys.text("interpolation", "bicubic")?;
        let resampling = RESAMPLINGS.iter().find(|(_, known, _)| *known == name);
        let Some(&(_, _, resampling)) = resampling else {
            let names = RESAMPLINGS.map(|(_, name, _)| name).join(", ");
            return Err(keys.invalid("interpolation", format!("one of {names}")));
        };
        Ok(Self {
            resize: Some((size, resampling)),
            crop: Some([height, width]),
            round_crop: true,
            scale: 1.0 / 255.0,
            mean: keys.numbers("mean")?.unwrap_or(IMAGENET_MEAN),
            std: deviations(&keys, "std", IMAGENET_STD)?,
        })
    }
}

/// Standard deviations, which divide.
fn deviations(keys: &ConfigKeys<'_>, key: &str, default: [f32; 3]) -> Result<[f32; 3], ModelError> {
    let deviations = keys.numbers(key)?.unwrap_or(default);
    if deviations.contains(&0.0) {
        return Err(keys.invalid(key, "three numbers other than zero"));
    }
    Ok(deviations)
}

fn resample(keys: &ConfigKeys<'_>) -> Result<Resampling, ModelError> {
    let Some(value) = keys.get("resample") else {
        return Ok(Resampling::Bilinear);
    };
    let known = RESAMPLINGS
        .iter()
        .find(|(number, ..)| value.as_u64() == Some(*number));
    known.map(|&(.., resampling)| resampling).ok_or_else(|| {
        let names = RESAMPLINGS.map(|(number, name, _)| format!("{number} ({name})"));
        keys.invalid("resample", format!("one of {}", names.join(", ")))
    })
}

/// Most pixels of an edge; a damaged number would otherwise exhaust the memory.
const LONGEST_EDGE: usize = 1 << 13;

/// A size: a number for both edges, `height` and `width`, or `shortest_edge`.
fn size(keys: &ConfigKeys<'_>, key: &str) -> Result<Option<ImageSize>, ModelError> {
    let expected = "a number, height and width, or shortest_edge";
    let size = match keys.get(key) {
        None => return Ok(None),
        Some(Value::Object(_)) => {
            let Some(sides) = keys.section(key)? else {
                return Ok(None);
            };
            let height = sides.optional_count("height")?;
            let width = sides.optional_count("width")?;
            let shortest = sides.optional_count("shortest_edge")?;
            match (height.zip(width), shortest, sides.holds("longest_edge")) {
                (Some((height, width)), None, false) => ImageSize::Exact([height, width]),
                (None, Some(edge), false) => ImageSize::ShortestEdge(edge),
                _ => return Err(keys.invalid(key, expected)),
            }
        }
        Some(_) => match keys.optional_count(key)? {
            Some(edge) => ImageSize::Exact([edge, edge]),
            None => return Ok(None),
        },
    };
    let longest = match size {
        ImageSize::Exact(sides) | ImageSize::Cover(sides) => sides.into_iter().max(),
        ImageSize::ShortestEdge(edge) => Some(edge),
    };
    if longest.is_some_and(|edge| edge > LONGEST_EDGE) {
        return Err(keys.invalid(key, format!("edges of at most {LONGEST_EDGE} pixels")));
    }
    Ok(Some(size))
}
