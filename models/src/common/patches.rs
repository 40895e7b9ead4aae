//! Images as rows of patches, and back.

use burn::tensor::Tensor;

/// Cuts images into patches of `[height, width]`, row by row; a patch is laid out as a convolution's
/// kernel is. What is left of an image on the right and at the bottom belongs to none.
///
/// # Shapes
///
/// - `x`: `[batch, channels, image height, image width]`
/// - output: `[batch, patches, channels · height · width]`
pub(crate) fn to_patches(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<3> {
    let [batch, channels, image_height, image_width] = x.dims();
    let (rows, columns) = (image_height / height, image_width / width);
    x.narrow(2, 0, rows * height)
        .narrow(3, 0, columns * width)
        .reshape([batch, channels, rows, height, columns, width])
        .permute([0, 2, 4, 1, 3, 5]) // [batch, rows, columns, channels, height, width]
        .reshape([batch, rows * columns, channels * height * width])
}

/// Joins a square of patches, row by row, to images; the channels of a pixel lie together.
///
/// # Shapes
///
/// - `x`: `[batch, side · side, patch · patch · channels]`
/// - output: `[batch, channels, side · patch, side · patch]`
pub(crate) fn from_patches(x: Tensor<3>, side: usize, patch: usize, channels: usize) -> Tensor<4> {
    let [batch, _, _] = x.dims();
    x.reshape([batch, side, side, patch, patch, channels])
        .permute([0, 5, 1, 3, 2, 4]) // [batch, channels, rows, patch, columns, patch]
        .reshape([batch, channels, side * patch, side * patch])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int};

    #[test]
    fn one_channel_comes_back_as_it_was() {
        let image = Tensor::<1, Int>::arange(0..72, &Device::flex()).float();
        let image = image.reshape([2, 1, 6, 6]);
        let patches = to_patches(image.clone(), [3, 3]);
        assert_eq!(patches.dims(), [2, 4, 9]);
        // The second patch is the right one of the upper row.
        let second = patches.clone().narrow(0, 0, 1).narrow(1, 1, 1);
        let second = second.try_into_vec_as::<f32>().ok();
        let expected = [3., 4., 5., 9., 10., 11., 15., 16., 17.];
        assert_eq!(second, Some(expected.to_vec()));
        let back = from_patches(patches, 2, 3, 1);
        assert_eq!(
            back.try_into_vec_as::<f32>().ok(),
            image.try_into_vec_as::<f32>().ok()
        );
    }
}
