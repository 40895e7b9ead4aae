//! Products of few tokens: every factor is read once, at the speed of device memory.
//!
//! Each plane copies lines of a factor (outputs), with the same part of the input, to a ring of stages that
//! is its own, so that no plane waits for another before its sums are complete; a cube stays for all its
//! lines, and the copies of the next are under way while the sums of some are stored. The lines are the
//! left operand of tensor-core products whose columns are tokens; planes share the depth. The order of
//! terms within a sum is free, so each lane takes 16 contiguous bytes of both operands.

pub(crate) mod kernel;
pub(crate) mod plan;
mod ring;
