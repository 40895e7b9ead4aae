//! Two products of one shape, one of which gates the other.

use cubecl::prelude::*;

use super::launch::{PlannedProduct, ProductOperands};
use super::problem::ProductProblem;
use crate::activation::Activation;
use crate::context::Context;
use crate::epilogue::{Finish, Merge};
use crate::error::KernelError;

/// `C = f(A B + bias) · (A' B' + bias')` that is known to run: launching it can not fail.
pub(crate) struct PlannedGated {
    gate: PlannedProduct,
    other: PlannedProduct,
}

impl PlannedGated {
    /// Plans the products `gate` and `other`, whose operands have been checked in `context` and which
    /// both store to the same `C`: one kernel where tokens are few, else the gate and then the other,
    /// merged with what the gate has stored. What the problems say of an epilogue is not used.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        activation: Activation,
        [gate, other]: [ProductProblem; 2],
    ) -> Result<Self, KernelError> {
        let plan = |problem: ProductProblem, finish| {
            let merged = problem.out;
            let problem = ProductProblem {
                finish,
                merged,
                ..problem
            };
            PlannedProduct::new(context, problem)
        };
        let of_gate = Finish {
            activation,
            merge: None,
        };
        let of_other = Finish {
            activation: Activation::None,
            merge: Some(Merge::Times),
        };
        Ok(Self {
            gate: plan(gate, of_gate)?,
            other: plan(other, of_other)?,
        })
    }

    /// Starts the products and returns at once, unless their plans are to be measured first.
    pub fn launch<R: Runtime>(
        self,
        context: &Context<'_, R>,
        [gate, other]: [ProductOperands<R>; 2],
    ) {
        if self.gate.streams_with(context, &self.other) {
            self.gate.launch_gated(context, [gate, other]);
            return;
        }
        let merged = Some(gate.out.clone());
        self.gate.launch(context, gate);
        self.other
            .launch(context, ProductOperands { merged, ..other });
    }
}
