//! The batched product that every operation is made of: `C[p] = A[p] B[p] (+ bias[p])`.
//!
//! Operands are strided on every axis, so block permutations, transposes and broadcasts are
//! strides. What strides can not say is Monarch's interior permutation, which sends each part of
//! a block's columns to another block: the store of `C` has one split axis for it
//! ([`ColumnSplit`]), and the backward pass stores through the same split, so that no load ever
//! needs one.

mod choice;
mod cost;
mod gated;
pub(crate) mod kernel;
mod launch;
pub(crate) mod mma_plan;
mod pair;
mod plan;
mod problem;
pub(crate) mod wgmma_plan;

pub(crate) use cost::product_flops;
pub(crate) use gated::PlannedGated;
pub(crate) use launch::{
    PlannedProduct, ProductOperands, box_map, geometry, output_map, tensor_map,
};
pub(crate) use pair::ProductPair;
pub(crate) use plan::Along;
pub(crate) use problem::{BiasView, ColumnSplit, ProductProblem, TokenAxis, token_class};
