//! Between tensors on a device and faer's matrices on the host.

use burn::tensor::{Device, Tensor, TensorData};
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

/// The best approximation of a matrix by a product of rank `rank` in the Frobenius norm
/// (Eckart–Young), its singular values shared evenly: `(left [rows, r], right [r, columns])`.
///
/// # Errors
///
/// [`TrainingError::NoConvergence`] if the singular value decomposition fails.
pub(crate) fn truncated_svd(
    matrix: MatRef<'_, f32>,
    rank: usize,
) -> Result<(Mat<f32>, Mat<f32>), TrainingError> {
    let svd = matrix
        .thin_svd()
        .map_err(|_| TrainingError::NoConvergence {
            what: "singular value decomposition",
            rows: matrix.nrows(),
            columns: matrix.ncols(),
        })?;
    let values = svd.S().column_vector();
    let root = |k: usize| {
        if k < values.nrows() {
            values[k].max(0.0).sqrt()
        } else {
            0.0
        }
    };
    let (u, v) = (svd.U(), svd.V());
    let left = Mat::from_fn(matrix.nrows(), rank, |row, k| u[(row, k)] * root(k));
    let right = Mat::from_fn(rank, matrix.ncols(), |k, column| v[(column, k)] * root(k));
    Ok((left, right))
}
