//! Products of few tokens: every factor is read once, at the speed of device memory.
//!
//! A plane reads 16 lines of a factor (outputs) straight into registers, as the left operand of
//! tensor-core products whose columns are tokens; the depth is shared by the planes of a cube. The
//! order of terms within a sum is free, so each lane takes 16 contiguous bytes of both operands.

pub(crate) mod kernel;
pub(crate) mod plan;
