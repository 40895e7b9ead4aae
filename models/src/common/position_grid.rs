//! Position embeddings of a grid of patches, for grids of other sizes.

use burn::tensor::{DType, FloatDType, Tensor, TensorData};

use super::resample::{Filter, Window, bicubic_through_inputs};

/// How position embeddings are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GridInterpolation {
    /// Bicubic through the embeddings, as `transformers` does it.
    Plain,
    /// Bicubic, widened for smaller grids, as timm does it.
    Antialiased,
}

/// Interpolates the embeddings of an `old` grid, rows and columns, for a `new` one.
///
/// In `f32` whatever the dtype of `table`.
///
/// # Shapes
///
/// - `table`: `[1, old rows · old columns, hidden]`
/// - output: `[1, new rows · new columns, hidden]`
pub(crate) fn interpolate_grid(
    table: Tensor<3>,
    old: [usize; 2],
    new: [usize; 2],
    interpolation: GridInterpolation,
) -> Tensor<3> {
    if old == new {
        return table;
    }
    let ([old_rows, old_columns], [new_rows, new_columns]) = (old, new);
    let [_, _, hidden] = table.dims();
    let (dtype, device) = (FloatDType::from(table.dtype()), table.device());
    let matrix = |old: usize, new: usize| {
        let windows = match interpolation {
            GridInterpolation::Plain => bicubic_through_inputs(old, new),
            GridInterpolation::Antialiased => Filter::Bicubic.windows(old, new),
        };
        Tensor::<2>::from_data(dense(&windows, old), (&device, DType::F32))
    };
    let table = table.cast(FloatDType::F32);
    // [new rows, old rows] · [old rows, old columns · hidden]
    let rows = matrix(old_rows, new_rows)
        .matmul(table.reshape([old_rows, old_columns * hidden]))
        .reshape([new_rows, old_columns, hidden]);
    // [1, new columns, old columns] · [new rows, old columns, hidden]
    let columns = matrix(old_columns, new_columns).unsqueeze::<3>().expand([
        new_rows,
        new_columns,
        old_columns,
    ]);
    columns
        .matmul(rows)
        .reshape([1, new_rows * new_columns, hidden])
        .cast(dtype)
}

/// The windows as rows of a matrix with a column for each of `inputs`.
fn dense(windows: &[Window], inputs: usize) -> TensorData {
    let mut matrix = Vec::with_capacity(windows.len() * inputs);
    for window in windows {
        let mut row = vec![0.0f32; inputs];
        for (entry, &weight) in row.iter_mut().skip(window.start).zip(&window.weights) {
            *entry = weight as f32;
        }
        matrix.extend(row);
    }
    TensorData::new(matrix, [windows.len(), inputs])
}
