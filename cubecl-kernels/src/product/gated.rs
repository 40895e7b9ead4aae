//! Two products of one shape, one of which gates the other.

use cubecl::prelude::*;

use super::launch::{PlannedProduct, ProductOperands};
use super::problem::ProductProblem;
use crate::context::Context;
use crate::error::KernelError;

/// `C = f(A B + bias) · (A' B' + bias')` that is known to run: launching it can not fail.
pub(crate) struct PlannedGated {
    gate: PlannedProduct,
    other: PlannedProduct,
}

impl PlannedGated {
    /// Plans the gate and what it is multiplied with, whose operands have been checked in `context`: one
    /// kernel where tokens are few, else one after the other. Both store to the same `C`, the other
    /// merged with it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device can not run what the strategy asks for.
    pub fn new<R: Runtime>(
        context: &Context<'_, R>,
        [gate, other]: [ProductProblem; 2],
    ) -> Result<Self, KernelError> {
        Ok(Self {
            gate: PlannedProduct::new(context, gate)?,
            other: PlannedProduct::new(context, other)?,
        })
    }

    /// Starts the products and returns at once, unless their plans are to be measured first.
    pub fn launch<R: Runtime>(
        self,
        context: &Context<'_, R>,
        [gate, other]: [ProductOperands<R>; 2],
    ) {
        match self.gate.gating(context, &self.other) {
            Some(gating) => {
                self.gate.launch_gated(context, gating, [gate, other]);
            }
            None => {
                self.gate.launch(context, gate);
                self.other.launch(context, other);
            }
        }
    }
}
