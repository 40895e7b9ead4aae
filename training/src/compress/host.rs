//! Between tensors on a device and faer's matrices on the host.

use burn::tensor::{Device, Tensor, TensorData};
use burn_blr::ops::exact_product;
use faer::{Mat, MatRef};

use crate::TrainingError;

/// The entries of a tensor in row-major order, as `f32`.
pub(crate) fn entries<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TrainingError> {
    tensor
        .try_into_vec_as()
        .map_err(|error| TrainingError::Device {
            reason: error.to_string(),
        })
}

/// A tensor from row-major entries.
pub(crate) fn tensor<const D: usize>(
    entries: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(entries, shape), device)
}

/// A view of row-major entries as a matrix.
pub(crate) fn view(entries: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(entries, rows, columns)
}

/// The entries of a matrix in row-major order.
pub(crate) fn row_major(matrix: MatRef<'_, f32>) -> Vec<f32> {
    let mut entries = Vec::with_capacity(matrix.nrows() * matrix.ncols());
    for row in 0..matrix.nrows() {
        entries.extend((0..matrix.ncols()).map(|column| matrix[(row, column)]));
    }
    entries
}

/// The inverse of a lower triangular matrix.
pub(crate) fn inverse_of_lower(lower: MatRef<'_, f64>) -> Mat<f64> {
    let mut inverse = Mat::identity(lower.nrows(), lower.nrows());
    lower.solve_lower_triangular_in_place(inverse.as_mut());
    inverse
}

/// Frobenius norm, rows summed on the device in `f32` and then on the host in `f64`.
pub(crate) fn frobenius_norm<const D: usize>(tensor: Tensor<D>) -> Result<f64, TrainingError> {
    Ok(sum(tensor.square())?.sqrt())
}

/// `Σ x · moment · xᵀ` over the rows x of `[rows, in]`.
pub(crate) fn weighted_square(rows: Tensor<2>, moment: &Tensor<2>) -> Result<f64, TrainingError> {
    let rows: Tensor<3> = rows.unsqueeze();
    let weighted = exact_product(rows.clone(), moment.clone().unsqueeze());
    sum(rows * weighted)
}

/// The sum of all entries, its last axis summed on the device and the rest in `f64`.
pub(crate) fn sum<const D: usize>(tensor: Tensor<D>) -> Result<f64, TrainingError> {
    let sums = entries(tensor.sum_dim(D - 1))?;
    Ok(sums.into_iter().map(f64::from).sum())
}
