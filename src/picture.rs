//! Images side by side in one PNG.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};

use crate::error::CommandError;

/// Pixels between tiles, as in the grids of the official code.
const GAP: u32 = 2;

/// What a latent pixel is wide; the autoencoder would make as many of it.
const LATENT_PIXEL: u32 = 8;

/// What stands over latents, which nobody should take for images.
const CAPTION: &str = "LATENTS IN FALSE COLOUR";

/// Values of images of one size, `[count, channels, height, width]`, row-major.
pub struct Tiles {
    pub count: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub values: Vec<f32>,
}

impl Tiles {
    /// Puts images of the same size behind these.
    pub fn append(&mut self, other: Tiles) {
        self.count += other.count;
        self.values.extend(other.values);
    }

    /// The value of a channel of a pixel; 0 outside.
    fn value(&self, tile: usize, channel: usize, y: usize, x: usize) -> f32 {
        let index = ((tile * self.channels + channel) * self.height + y) * self.width + x;
        self.values.get(index).copied().unwrap_or_default()
    }
}

/// A picture to be written.
pub struct Picture {
    image: RgbImage,
}

impl Picture {
    /// Images of one channel or three, whose values from -1 to 1 become black to full; what is beyond
    /// is clipped.
    pub fn pixels(tiles: &Tiles) -> Self {
        let channel = |n: usize| if tiles.channels == 1 { 0 } else { n };
        Self::grid(tiles, 1, 0, |tile, y, x| {
            [0, 1, 2].map(|n| byte((tiles.value(tile, channel(n), y, x) + 1.0) / 2.0))
        })
    }

    /// Latents under a caption that says so: the first three channels as red, green and blue, each
    /// between its least and its largest value in all tiles.
    pub fn false_colour(tiles: &Tiles) -> Self {
        let shown = [0, 1, 2].map(|n| n.min(tiles.channels.saturating_sub(1)));
        let ranges = shown.map(|channel| {
            let mut range = (f32::INFINITY, f32::NEG_INFINITY);
            for tile in 0..tiles.count {
                for y in 0..tiles.height {
                    for x in 0..tiles.width {
                        let value = tiles.value(tile, channel, y, x);
                        range = (range.0.min(value), range.1.max(value));
                    }
                }
            }
            range
        });
        let caption = Caption::of(CAPTION);
        let mut picture = Self::grid(tiles, LATENT_PIXEL, caption.height(), |tile, y, x| {
            [0, 1, 2].map(|n: usize| {
                let (Some(&channel), Some(&(least, largest))) = (shown.get(n), ranges.get(n))
                else {
                    return 0;
                };
                byte((tiles.value(tile, channel, y, x) - least) / (largest - least).max(1e-12))
            })
        });
        picture.write(&caption);
        picture
    }

    /// Tiles in a square as far as they go, each pixel `size` pixels wide, under `above` empty rows.
    fn grid(
        tiles: &Tiles,
        size: u32,
        above: u32,
        colour: impl Fn(usize, usize, usize) -> [u8; 3],
    ) -> Self {
        let columns = (1..).find(|n| n * n >= tiles.count).unwrap_or(1);
        let rows = tiles.count.div_ceil(columns);
        let (width, height) = (tiles.width as u32 * size, tiles.height as u32 * size);
        let across = |count: usize, side: u32| GAP + count as u32 * (side + GAP);
        let image = RgbImage::new(across(columns, width), above + across(rows, height));
        let mut picture = Self { image };
        for tile in 0..tiles.count {
            let left = GAP + (tile % columns) as u32 * (width + GAP);
            let top = above + GAP + (tile / columns) as u32 * (height + GAP);
            for y in 0..height {
                for x in 0..width {
                    let pixel = colour(tile, (y / size) as usize, (x / size) as usize);
                    picture.image.put_pixel(left + x, top + y, Rgb(pixel));
                }
            }
        }
        picture
    }

    /// Writes a caption into the rows above the tiles; the picture grows to hold it.
    fn write(&mut self, caption: &Caption) {
        let (width, height) = self.size();
        if caption.width() > width {
            let mut wider = RgbImage::new(caption.width(), height);
            image::imageops::replace(&mut wider, &self.image, 0, 0);
            self.image = wider;
        }
        for (x, y) in caption.dots() {
            self.image.put_pixel(x, y, Rgb([255, 255, 255]));
        }
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        self.image.dimensions()
    }

    /// The picture as a PNG file.
    pub fn png(&self) -> Result<Vec<u8>, CommandError> {
        let mut file = Cursor::new(Vec::new());
        self.image
            .write_to(&mut file, ImageFormat::Png)
            .map_err(|error| CommandError::Png {
                reason: error.to_string(),
            })?;
        Ok(file.into_inner())
    }
}

/// 0 to 1 as 0 to 255.
fn byte(share: f32) -> u8 {
    (share.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// A line of capitals, five dots wide and seven high.
struct Caption {
    letters: Vec<[u8; 7]>,
}

impl Caption {
    const PITCH: u32 = 6;
    const MARGIN: u32 = 3;

    fn of(text: &str) -> Self {
        Self {
            letters: text.chars().map(letter).collect(),
        }
    }

    fn width(&self) -> u32 {
        2 * Self::MARGIN + self.letters.len() as u32 * Self::PITCH
    }

    fn height(&self) -> u32 {
        2 * Self::MARGIN + 7
    }

    /// The places of the dots.
    fn dots(&self) -> impl Iterator<Item = (u32, u32)> {
        self.letters.iter().zip(0..).flat_map(|(rows, n)| {
            rows.iter().zip(0..).flat_map(move |(&row, y)| {
                (0..5)
                    .filter(move |x| row >> (4 - x) & 1 == 1)
                    .map(move |x| {
                        let left = Self::MARGIN + n * Self::PITCH;
                        (left + x, Self::MARGIN + y)
                    })
            })
        })
    }
}

/// The rows of a letter, five bits each. Those of [`CAPTION`] are there; any other is blank.
fn letter(letter: char) -> [u8; 7] {
    match letter {
        'A' => [
            0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001,
        ],
        'C' => [
            0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110,
        ],
        'E' => [
            0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111,
        ],
        'F' => [
            0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000,
        ],
        'I' => [
            0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110,
        ],
        'L' => [
            0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111,
        ],
        'N' => [
            0b10001, 0b11001, 0b10101, 0b10101, 0b10011, 0b10001, 0b10001,
        ],
        'O' => [
            0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110,
        ],
        'R' => [
            0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001,
        ],
        'S' => [
            0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110,
        ],
        'T' => [
            0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100,
        ],
        'U' => [
            0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110,
        ],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles(channels: usize) -> Tiles {
        let (count, height, width) = (3, 2, 2);
        let length = count * channels * height * width;
        Tiles {
            count,
            channels,
            height,
            width,
            values: (0..length)
                .map(|n| n as f32 / length as f32 * 2.0 - 1.0)
                .collect(),
        }
    }

    #[test]
    fn pixels_are_where_they_belong() {
        let picture = Picture::pixels(&tiles(1));
        // Two columns and two rows of two pixels, and the gaps.
        assert_eq!(picture.size(), (10, 10));
        // The values are -1, -5/6, ... 5/6.
        assert_eq!(picture.image.get_pixel(2, 2).0, [0; 3]);
        assert_eq!(picture.image.get_pixel(6, 2).0, [85; 3]);
        assert_eq!(picture.image.get_pixel(3, 7).0, [234; 3]);
        assert_eq!(picture.image.get_pixel(7, 7).0, [0; 3]);
        let colours = Picture::pixels(&tiles(3));
        // Red, green and blue of the first pixel are elements 0, 4 and 8 of 36.
        assert_eq!(colours.image.get_pixel(2, 2).0, [0, 28, 57]);
    }

    #[test]
    fn latents_are_captioned_and_every_letter_of_the_caption_is_drawn() {
        for letter in CAPTION.chars().filter(|letter| *letter != ' ') {
            assert_ne!(super::letter(letter), [0; 7], "{letter}");
        }
        let picture = Picture::false_colour(&tiles(4));
        let (width, height) = picture.size();
        assert_eq!((width, height), (144, 13 + 38));
        let white = picture.image.rows().take(13).flatten();
        assert!(white.filter(|pixel| pixel.0 == [255; 3]).count() > 100);
        // The least and the largest value of the first channel.
        assert_eq!(picture.image.get_pixel(2, 15).0[0], 0);
        assert_eq!(picture.image.get_pixel(17, 48).0[0], 255);
    }
}
