//! Resizing with 8 bits a channel, bit for bit as Pillow does it.

use image::RgbImage;

use crate::common::resample::{Filter, Window};

/// How an image is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampling {
    /// The nearest pixel.
    Nearest,
    /// The mean of the pixels below each new one.
    Box,
    /// Linear in both directions.
    Bilinear,
    /// Hamming-windowed, sharper than bilinear.
    Hamming,
    /// Keys' cubic with a = -1/2.
    Bicubic,
    /// Lanczos of three lobes.
    Lanczos,
}

/// Bits after the point of a weight: what is left of 32 for a pixel, a sign and a sum over one.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// Resizes `image` to `height` and `width`, rows first, with both steps rounded to 8 bits.
pub(super) fn resize(
    image: &RgbImage,
    [height, width]: [usize; 2],
    resampling: Resampling,
) -> RgbImage {
    let filter = match resampling {
        Resampling::Nearest => return nearest(image, height, width),
        Resampling::Box => Filter::Box,
        Resampling::Bilinear => Filter::Bilinear,
        Resampling::Hamming => Filter::Hamming,
        Resampling::Bicubic => Filter::Bicubic,
        Resampling::Lanczos => Filter::Lanczos,
    };
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    let mut resized = image.clone();
    if width != old_width {
        let windows = fixed_point(&filter.windows(old_width, width));
        resized = RgbImage::from_fn(width as u32, old_height as u32, |x, y| {
            sum(&windows, x, |input| image.get_pixel(input, y).0)
        });
    }
    if height != old_height {
        let windows = fixed_point(&filter.windows(old_height, height));
        resized = RgbImage::from_fn(width as u32, height as u32, |x, y| {
            sum(&windows, y, |input| resized.get_pixel(x, input).0)
        });
    }
    resized
}

/// A window with weights in fixed point.
struct FixedWindow {
    start: u32,
    weights: Vec<i32>,
}

fn fixed_point(windows: &[Window]) -> Vec<FixedWindow> {
    let one = f64::from(1 << WEIGHT_BITS);
    let fixed = |weight: &f64| {
        let half = if *weight < 0.0 { -0.5 } else { 0.5 };
        (weight * one + half) as i32 // towards zero
    };
    windows
        .iter()
        .map(|window| FixedWindow {
            start: window.start as u32,
            weights: window.weights.iter().map(fixed).collect(),
        })
        .collect()
}

/// The weighted sum of the pixels of window `output`.
fn sum(windows: &[FixedWindow], output: u32, pixel: impl Fn(u32) -> [u8; 3]) -> image::Rgb<u8> {
    let mut sums = [1i32 << (WEIGHT_BITS - 1); 3];
    if let Some(window) = windows.get(output as usize) {
        for (input, &weight) in (window.start..).zip(&window.weights) {
            for (sum, value) in sums.iter_mut().zip(pixel(input)) {
                *sum += i32::from(value) * weight;
            }
        }
    }
    image::Rgb(sums.map(|sum| (sum >> WEIGHT_BITS).clamp(0, 255) as u8))
}

fn nearest(image: &RgbImage, height: usize, width: usize) -> RgbImage {
    let scale = |old: u32, new: usize| f64::from(old) / new as f64;
    let (down, across) = (scale(image.height(), height), scale(image.width(), width));
    let at = |n: u32, scale: f64, old: u32| (((f64::from(n) + 0.5) * scale) as u32).min(old - 1);
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let (x, y) = (at(x, across, image.width()), at(y, down, image.height()));
        *image.get_pixel(x, y)
    })
}
