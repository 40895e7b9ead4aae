//! An image file to pixels.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use crate::ModelError;

/// Reads a PNG or JPEG file as red, green and blue, turned as its EXIF data say; transparency is
/// dropped.
pub(super) fn decode(path: &Path) -> Result<RgbImage, ModelError> {
    let io = |source: std::io::Error| {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::NotFound => ModelError::MissingFile {
                path,
                expected: "a PNG or JPEG file",
            },
            _ => ModelError::Io { path, source },
        }
    };
    let not_an_image = |error: image::ImageError| ModelError::Image {
        path: path.to_path_buf(),
        reason: error.to_string().replace('\n', " "),
    };
    let file = File::open(path).map_err(io)?;
    // What the file begins with, not what it is called, says what it is.
    let reader = ImageReader::new(BufReader::new(file));
    let reader = reader.with_guessed_format().map_err(io)?;
    let mut decoder = reader.into_decoder().map_err(not_an_image)?;
    let orientation = decoder.orientation().map_err(not_an_image)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(not_an_image)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}
