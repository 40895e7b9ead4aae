//! What every tensor-core kernel is made of: operand tiles in shared memory ([`panel`]), and the
//! products of planes on them ([`accumulate`]).
//!
//! A *panel* is the tile of one operand: some of its lines (rows of `A`, columns of `B`) by 128
//! bytes of depth. Panels are filled by asynchronous copies, several steps of depth ahead, and read
//! as the fragments of 16 x 8 products. Their 16-byte chunks are permuted, so that neither the
//! copies nor the fragments meet a bank of shared memory twice.

pub(crate) mod accumulate;
pub(crate) mod panel;
