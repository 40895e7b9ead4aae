//! Both products of a Monarch layer in one kernel: `Z` never leaves the registers.
//!
//! Part `j` of the columns of `Y_i` is part `i` of the columns of `Z_j` and goes nowhere else. So
//! whoever sums tokens of `out_j` can make what it needs of `Y_i`, 64 rows by `r/b` columns, right
//! before it multiplies it with the columns of `left_j` of that part, as attention does with its
//! scores. Each element of `Z` is made once for every tile of the columns of `out_j`: once, where one
//! tile covers `out/b`.

mod kernel;
mod launch;
mod plan;

pub(super) use launch::{FusedOperands, PlannedFused};
