//! What is done to outputs before they are stored.

use cubecl::prelude::*;

use crate::activation::Activation;
use crate::context::Context;
use crate::error::{KernelError, Requirement};
use crate::operand::{View, part};

/// How outputs meet another tensor of their shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Merge {
    /// `y · z`.
    Times,
    /// `y + z`.
    Plus,
}

/// What is done to the outputs of a product, in this order and in `f32`, before they are rounded and
/// stored.
#[derive(Clone, Debug)]
pub struct Epilogue<R: Runtime> {
    /// Added, `[out]`.
    pub bias: Option<TensorBinding<R>>,
    /// Applied to each output.
    pub activation: Activation,
    /// Multiplied with each output or added to it, `[tokens, out]`. May be the memory of the output.
    pub merged: Option<(Merge, TensorBinding<R>)>,
    /// Of two layers that are multiplied with one input, `f(first) · second`: half as many outputs, of
    /// which the activation is applied to those of the first layer alone. Nothing else can be merged.
    pub gated: bool,
}

/// Nothing.
impl<R: Runtime> Default for Epilogue<R> {
    fn default() -> Self {
        Self {
            bias: None,
            activation: Activation::None,
            merged: None,
            gated: false,
        }
    }
}

impl<R: Runtime> Epilogue<R> {
    /// Checks the tensors for `layers` with `out_features` together, and says how many features the
    /// output has.
    ///
    /// # Errors
    ///
    /// As [`Context::input`]; [`KernelError::InvalidConfig`] for a gate of other than two layers, or
    /// with something to be merged.
    pub(crate) fn check(
        &self,
        context: &mut Context<'_, R>,
        tokens: usize,
        (layers, out_features): (usize, usize),
    ) -> Result<usize, KernelError> {
        if let Some(bias) = &self.bias {
            context.input("bias", bias, &[out_features])?;
        }
        if let Some((_, merged)) = &self.merged {
            context.input("merged", merged, &[tokens, out_features])?;
        }
        if !self.gated {
            return Ok(out_features);
        }
        let wrong = |what, actual, required| KernelError::InvalidConfig {
            what,
            actual,
            required,
        };
        if layers != 2 {
            let what = "the number of layers of a gated product";
            return Err(wrong(what, layers, Requirement::Exactly(2)));
        }
        if self.merged.is_some() {
            let what = "the number of tensors merged with a gated product";
            return Err(wrong(what, 1, Requirement::Exactly(0)));
        }
        if !out_features.is_multiple_of(2) {
            let (name, value) = ("layers", 2);
            let required = Requirement::MultipleOf { name, value };
            return Err(wrong("out_features", out_features, required));
        }
        Ok(out_features / 2)
    }

    /// What is done to a run of the tokens.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if the device reads no tensors from there.
    pub(crate) fn rows(
        &self,
        context: &Context<'_, R>,
        run: (usize, usize),
    ) -> Result<Self, KernelError> {
        Ok(Self {
            merged: self.merged_part(context, 0, run)?,
            ..self.clone()
        })
    }

    /// What is done to a run of the features.
    ///
    /// # Errors
    ///
    /// As [`Epilogue::rows`].
    fn features(&self, context: &Context<'_, R>, run: (usize, usize)) -> Result<Self, KernelError> {
        Ok(Self {
            merged: self.merged_part(context, 1, run)?,
            activation: self.activation,
            ..self.bias_of(context, run)?
        })
    }

    /// What is done to one of several layers whose outputs lie side by side in `output`, and where its
    /// own go: of a gate, which comes first, and what it is multiplied with, both to the same place.
    /// `features` are those of the layer among those of all.
    ///
    /// # Errors
    ///
    /// As [`Epilogue::rows`].
    pub(crate) fn of_layer(
        &self,
        context: &Context<'_, R>,
        features: (usize, usize),
        output: &TensorBinding<R>,
    ) -> Result<(Self, TensorBinding<R>), KernelError> {
        if !self.gated {
            let output = part(context, output, 1, features)?;
            return Ok((self.features(context, features)?, output));
        }
        let biased = self.bias_of(context, features)?;
        let epilogue = match features {
            (0, _) => Self {
                activation: self.activation,
                ..biased
            },
            _ => Self {
                merged: Some((Merge::Times, output.clone())),
                ..biased
            },
        };
        Ok((epilogue, output.clone()))
    }

    /// Nothing but the bias of a run of the features.
    ///
    /// # Errors
    ///
    /// As [`Epilogue::rows`].
    fn bias_of(&self, context: &Context<'_, R>, run: (usize, usize)) -> Result<Self, KernelError> {
        let bias = self.bias.as_ref();
        Ok(Self {
            bias: bias.map(|bias| part(context, bias, 0, run)).transpose()?,
            ..Self::default()
        })
    }

    fn merged_part(
        &self,
        context: &Context<'_, R>,
        axis: usize,
        run: (usize, usize),
    ) -> Result<Option<(Merge, TensorBinding<R>)>, KernelError> {
        let merged = self.merged.as_ref();
        merged
            .map(|(merge, merged)| Ok((*merge, part(context, merged, axis, run)?)))
            .transpose()
    }

    /// The view of what is merged; `unread` where nothing is.
    pub(crate) fn merged_view(
        &self,
        view: impl FnOnce(&TensorBinding<R>) -> View,
        unread: View,
    ) -> View {
        match &self.merged {
            Some((_, merged)) => view(merged),
            None => unread,
        }
    }

    /// What a kernel is compiled for.
    pub(crate) fn finish(&self) -> Finish {
        Finish {
            activation: self.activation,
            merge: self.merged.as_ref().map(|(merge, _)| *merge),
        }
    }
}

/// What of an [`Epilogue`] is compiled into a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Finish {
    pub activation: Activation,
    pub merge: Option<Merge>,
}
