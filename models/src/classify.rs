//! What is on an image, and how often that is right.

use burn::tensor::{Device, Tensor};

use crate::{ImagePipeline, LabelledImage, ModelError, Pixels, Vit};

/// A label that a model gives to an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classification {
    /// The label, counted from zero.
    pub label: usize,
    /// Its probability by the softmax over all labels.
    pub probability: f64,
}

/// How many images got the right label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accuracy {
    /// Images that did.
    pub correct: usize,
    /// All images.
    pub images: usize,
}

impl Accuracy {
    /// The share of images that got the right label; not a number without images.
    pub fn share(&self) -> f64 {
        self.correct as f64 / self.images as f64
    }
}

impl Vit {
    /// The likeliest labels of each image, likeliest first, at most `top` of them.
    ///
    /// # Shapes
    ///
    /// - `pixels`: `[batch, num_channels, height, width]`
    ///
    /// # Errors
    ///
    /// Those of [`Vit::forward`]; [`ModelError::InvalidOption`] if `top` is zero;
    /// [`ModelError::NonFiniteScore`] if a score is not finite; [`ModelError::Read`] if the device
    /// fails.
    pub fn classify(
        &self,
        pixels: Tensor<4>,
        top: usize,
    ) -> Result<Vec<Vec<Classification>>, ModelError> {
        if top == 0 {
            return Err(ModelError::invalid_option("top", top, "at least 1"));
        }
        let scores: Vec<f32> = self.forward(pixels)?.try_into_vec_as()?;
        let rows = scores.chunks(self.config().num_labels);
        rows.map(|scores| likeliest(scores, top)).collect()
    }
}

/// The labels of the `top` largest scores with their probabilities; the first of equal ones first.
fn likeliest(scores: &[f32], top: usize) -> Result<Vec<Classification>, ModelError> {
    if let Some(label) = scores.iter().position(|score| !score.is_finite()) {
        return Err(ModelError::NonFiniteScore {
            label,
            value: scores.get(label).copied().unwrap_or(f32::NAN),
        });
    }
    let largest = scores.iter().copied().fold(f32::MIN, f32::max);
    let weight = |score: f32| f64::from(score - largest).exp();
    let sum: f64 = scores.iter().copied().map(weight).sum();
    let mut labels: Vec<_> = scores
        .iter()
        .enumerate()
        .map(|(label, &score)| Classification {
            label,
            probability: weight(score) / sum,
        })
        .collect();
    labels.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    labels.truncate(top);
    Ok(labels)
}

/// Counts how many `images` get the right label, `batch` of them at a time.
///
/// `on_images` hears how many are done.
///
/// # Errors
///
/// Those of [`ImagePipeline::open`] and [`Vit::classify`].
pub fn accuracy(
    model: &Vit,
    pipeline: &ImagePipeline,
    images: &[LabelledImage],
    batch: usize,
    device: &Device,
    mut on_images: impl FnMut(usize),
) -> Result<Accuracy, ModelError> {
    let mut found = Accuracy::default();
    for images in images.chunks(batch.max(1)) {
        let pixels = images
            .iter()
            .map(|image| pipeline.open(&image.path))
            .collect::<Result<Vec<_>, _>>()?;
        let mut labels = Vec::with_capacity(images.len());
        // A pipeline without a crop leaves images of several sizes.
        for alike in pixels.chunk_by(|a, b| a.size == b.size) {
            labels.extend(model.classify(Pixels::batch(alike, device)?, 1)?);
        }
        for (image, labels) in images.iter().zip(labels) {
            let right = labels.first().is_some_and(|best| best.label == image.label);
            found.correct += usize::from(right);
            found.images += 1;
        }
        on_images(found.images);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_labels_come_first_with_their_probabilities() -> Result<(), ModelError> {
        let found = likeliest(&[0.0, 3f32.ln(), f32::ln(4.0), 0.0], 3)?;
        let labels: Vec<_> = found.iter().map(|found| found.label).collect();
        assert_eq!(labels, [2, 1, 0]);
        for (found, expected) in found.iter().zip([4.0, 3.0, 1.0]) {
            assert!((found.probability - expected / 9.0).abs() < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn a_score_that_is_not_a_number_is_an_error() {
        assert!(matches!(
            likeliest(&[0.0, f32::NAN], 1),
            Err(ModelError::NonFiniteScore { label: 1, .. })
        ));
    }
}
