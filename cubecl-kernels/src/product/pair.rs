//! Two products, the second of what the first leaves in scratch.

use cubecl::prelude::*;

use super::launch::{PlannedProduct, ProductOperands};
use super::problem::ProductProblem;
use crate::context::{Context, runs};
use crate::epilogue::Epilogue;
use crate::error::KernelError;
use crate::operand::{along, axis_size, part};

/// The checked tensors of both products.
#[derive(Clone)]
pub(crate) struct ProductPair<R: Runtime> {
    /// `[tokens, in]`.
    pub input: TensorBinding<R>,
    /// The factors of the first product and of the second.
    pub factors: [TensorBinding<R>; 2],
    /// What is done to each output.
    pub epilogue: Epilogue<R>,
    /// Between the products, with room for some of the tokens.
    pub scratch: TensorBinding<R>,
    /// The axis of `scratch` that counts tokens.
    pub token_axis: usize,
    /// Written, `[tokens, out]`.
    pub output: TensorBinding<R>,
}

impl<R: Runtime> ProductPair<R> {
    /// Plans both for each run of the `tokens` that the scratch has room for. `problems` says what
    /// they compute for the tensors of a run and its number of tokens.
    ///
    /// # Errors
    ///
    /// As [`PlannedProduct::new`].
    pub fn plan(
        &self,
        context: &Context<'_, R>,
        tokens: usize,
        problems: impl Fn(&Self, usize) -> [ProductProblem; 2],
    ) -> Result<Vec<PlannedPair<R>>, KernelError> {
        let plan = |run: (usize, usize)| {
            let pair = self.run(context, run)?;
            let [first, second] = problems(&pair, run.1);
            let planned = [
                PlannedProduct::new(context, first)?,
                PlannedProduct::new(context, second)?,
            ];
            Ok(PlannedPair { pair, planned })
        };
        let room = axis_size(&self.scratch, self.token_axis);
        runs(tokens, room).map(plan).collect()
    }

    /// The tensors of a run of the tokens.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device reads no tensors from there.
    pub fn run(&self, context: &Context<'_, R>, run: (usize, usize)) -> Result<Self, KernelError> {
        Ok(Self {
            input: part(context, &self.input, 0, run)?,
            epilogue: self.epilogue.rows(context, run)?,
            scratch: along(&self.scratch, self.token_axis, run.1),
            output: part(context, &self.output, 0, run)?,
            ..self.clone()
        })
    }

    /// Those of each product.
    pub fn operands(self) -> [ProductOperands<R>; 2] {
        let [first, second] = self.factors;
        [
            ProductOperands {
                lhs: self.input,
                rhs: first,
                bias: None,
                merged: None,
                out: self.scratch.clone(),
            },
            ProductOperands {
                lhs: self.scratch,
                rhs: second,
                bias: self.epilogue.bias,
                merged: self.epilogue.merged.map(|(_, merged)| merged),
                out: self.output,
            },
        ]
    }
}

/// Both products for a run of tokens, known to run.
pub(crate) struct PlannedPair<R: Runtime> {
    pair: ProductPair<R>,
    planned: [PlannedProduct; 2],
}

impl<R: Runtime> PlannedPair<R> {
    /// Starts both and returns at once, unless their plans are to be measured first.
    pub fn launch(self, context: &Context<'_, R>) {
        let [first, second] = self.planned;
        let [of_first, of_second] = self.pair.operands();
        first.launch(context, of_first);
        second.launch(context, of_second);
    }
}
