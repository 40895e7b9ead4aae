//! An image as a sequence of its patches.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_blr::BlrLinear;

use super::patches::to_patches;

/// Embeds the patches of an image: a convolution whose stride is its kernel, as one matrix product.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// From the `channels · height · width` values of a patch to the hidden width.
    pub proj: BlrLinear,
    #[module(skip)]
    patch_size: [usize; 2],
}

impl PatchEmbedding {
    /// Takes the weight `[hidden, channels, height, width]` and the bias `[hidden]` of the
    /// convolution.
    pub fn new(weight: Tensor<4>, bias: Option<Tensor<1>>) -> Self {
        let [hidden, channels, height, width] = weight.dims();
        // [hidden, channels, height, width] -> [channels · height · width, hidden]
        let weight = weight.reshape([hidden, channels * height * width]);
        Self {
            proj: BlrLinear::dense(weight.transpose(), bias),
            patch_size: [height, width],
        }
    }

    /// Rows and columns of patches in an image of `size`, height and width; what is left of the
    /// image on the right and at the bottom belongs to none.
    pub fn grid(&self, size: [usize; 2]) -> [usize; 2] {
        let [height, width] = self.patch_size;
        let [image_height, image_width] = size;
        [image_height / height, image_width / width]
    }

    /// Embeds every patch, row by row.
    ///
    /// # Shapes
    ///
    /// - `pixels`: `[batch, channels, image height, image width]`
    /// - output: `[batch, patches, hidden]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        self.proj.forward(to_patches(pixels, self.patch_size))
    }
}
