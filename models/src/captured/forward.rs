//! Forward passes of whole models at fixed shapes.

use std::rc::Rc;

use burn::tensor::{Device, FloatDType, Int, Tensor};
use burn_blr::cuda::copy_into;
use burn_blr::graph::{self, GraphError};

use super::{CapturedPass, PassInputs, inputs_not_written, no_capture};
use crate::dit::check_shape;
use crate::{Dit, LanguageModel, ModelError, Vit};

/// A forward pass at fixed shapes.
///
/// Where the device captures graphs, the pass is captured when this is made: a run then copies its
/// inputs into the captured buffers, replays the pass, which costs the host one launch instead of some
/// for every layer, and copies the output out of the buffer that the next run overwrites. Elsewhere a
/// run is an ordinary pass, with the same results.
///
/// A pass holds for its shapes: inputs of others are an error, and another one has to be made for
/// them. The model is borrowed, so its weights stay as they are.
///
/// No other thread may use the device while this is made: CubeCL captures in the driver's global mode,
/// in which calls of other threads fail. So nothing in this crate captures unless it is asked to.
///
/// ```
/// use burn::tensor::{Device, FloatDType, Tensor};
/// use models::{CapturedForward, Vit, VitConfig};
///
/// # fn main() -> Result<(), models::ModelError> {
/// # let small = VitConfig {
/// #     hidden_size: 48,
/// #     intermediate_size: 96,
/// #     num_hidden_layers: 2,
/// #     num_attention_heads: 3,
/// #     ..VitConfig::vit_b_16()
/// # };
/// let config = VitConfig::vit_b_16();
/// # let config = small;
/// let device = Device::flex();
/// let model = Vit::init(&config, None, &device, FloatDType::F32)?;
///
/// let forward = CapturedForward::vit(&model, [2, 3, 224, 224])?;
/// for _ in 0..3 {
///     let logits = forward.run(Tensor::ones([2, 3, 224, 224], &device))?;
///     assert_eq!(logits.dims(), [2, 1000]);
/// }
/// assert!(forward.run(Tensor::ones([1, 3, 224, 224], &device)).is_err()); // another batch
/// # Ok(())
/// # }
/// ```
pub struct CapturedForward<'a, I, const D: usize> {
    pass: Rc<dyn Fn(I) -> Result<Tensor<D>, ModelError> + 'a>,
    /// What the inputs are called, and their shapes.
    expected: Vec<(&'static str, Vec<usize>)>,
    way: Way<'a, I, D>,
}

/// How runs are made.
enum Way<'a, I, const D: usize> {
    Captured(Box<CapturedPass<'a, I, D>>),
    Eager {
        /// Why they are not captured, where that was tried.
        reason: Option<String>,
    },
}

/// What a [`Dit`] reads: `x`, `t` and `y` of [`Dit::forward`].
pub type DitInputs = (Tensor<4>, Tensor<1, Int>, Tensor<1, Int>);

/// Their names.
pub(crate) const DIT_INPUTS: &[&str] = &["x", "t", "y"];

impl<'a> CapturedForward<'a, Tensor<4>, 2> {
    /// [`Vit::forward`] for `pixels` of `shape`, `[batch, num_channels, height, width]`. Where images
    /// have another size than the model was made for, position embeddings are interpolated once, here.
    ///
    /// # Errors
    ///
    /// [`ModelError::PixelShape`] if the model does not take this shape.
    pub fn vit(model: &'a Vit, shape: [usize; 4]) -> Result<Self, ModelError> {
        let positions = model.grid_positions(model.grid(shape)?);
        let device = positions.device();
        let pixels = Tensor::zeros(shape, (&device, positions.dtype()));
        let pass = move |pixels| model.forward_at(pixels, positions.clone());
        // SAFETY: the pass holds the positions and borrows the model, whose weights it reads.
        unsafe { Self::new(&device, &["pixels"], pixels, pass, true) }
    }
}

impl<'a> CapturedForward<'a, DitInputs, 4> {
    /// [`Dit::forward`] for a batch of `batch` images.
    ///
    /// # Errors
    ///
    /// [`ModelError::InputShape`] for an empty batch.
    pub fn dit(model: &'a Dit, batch: usize) -> Result<Self, ModelError> {
        let inputs = model.blank_inputs(batch)?;
        let pass = |(x, t, y)| model.forward(x, t, y);
        // SAFETY: the pass borrows the model, whose weights it reads.
        unsafe { Self::new(&model.device(), DIT_INPUTS, inputs, pass, true) }
    }
}

impl<'a> CapturedForward<'a, Tensor<2, Int>, 3> {
    /// [`LanguageModel::forward`] for `rows` rows of `tokens` tokens, without a cache: the logits of
    /// all of them. Prompts into a cache are the business of [`crate::Decoder::with_length`].
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] for no rows, [`ModelError::TooFewTokens`] for no tokens and
    /// [`ModelError::TooManyTokens`] for more than the model has positions.
    pub fn text<M: LanguageModel>(
        model: &'a M,
        rows: usize,
        tokens: usize,
    ) -> Result<Self, ModelError> {
        if tokens == 0 {
            return Err(ModelError::TooFewTokens { found: 0, min: 1 });
        }
        if tokens > model.max_tokens() {
            return Err(ModelError::TooManyTokens {
                found: tokens,
                max: model.max_tokens(),
            });
        }
        let ids = model.input_ids(&vec![0u32; rows * tokens], rows)?;
        let pass = |ids| model.forward(ids);
        // SAFETY: the pass borrows the model, whose weights it reads.
        unsafe { Self::new(&model.device(), &["input_ids"], ids, pass, true) }
    }
}

impl<'a, I: PassInputs + 'a, const D: usize> CapturedForward<'a, I, D> {
    /// Captures `pass` for inputs of the shapes of `inputs`, whose buffers it takes, where that is
    /// wanted and the device can.
    ///
    /// The pass must neither wait for the device nor copy from the host.
    ///
    /// # Safety
    ///
    /// The pass must hold, by value or for `'a`, every tensor that it reads beside its inputs, and read
    /// the same ones every time.
    pub(crate) unsafe fn new(
        device: &Device,
        names: &'static [&'static str],
        inputs: I,
        pass: impl Fn(I) -> Result<Tensor<D>, ModelError> + 'a,
        capture: bool,
    ) -> Result<Self, ModelError> {
        let expected = names.iter().copied().zip(inputs.shapes()).collect();
        let pass: Rc<dyn Fn(I) -> Result<Tensor<D>, ModelError> + 'a> = Rc::new(pass);
        let way = if capture && graph::captures(device) {
            let work = {
                let (pass, inputs) = (pass.clone(), inputs.clone());
                move || pass(inputs.clone())
            };
            // SAFETY: the work holds the inputs and, by the caller's promise, all else that it reads.
            match unsafe { CapturedPass::capture(device, inputs, work) }? {
                Ok(pass) => Way::Captured(Box::new(pass)),
                Err(GraphError { reason }) => Way::Eager {
                    reason: Some(reason),
                },
            }
        } else {
            Way::Eager { reason: None }
        };
        Ok(Self {
            pass,
            expected,
            way,
        })
    }

    /// Whether runs replay a captured pass.
    pub fn is_captured(&self) -> bool {
        matches!(self.way, Way::Captured(_))
    }

    /// Why runs are not captured, where the device captures graphs but not this one.
    pub fn not_captured(&self) -> Option<&str> {
        match &self.way {
            Way::Captured(_) => None,
            Way::Eager { reason } => reason.as_deref(),
        }
    }

    /// The captured pass by itself, on the inputs of the last run: for measurements.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if runs are not captured.
    pub fn into_captured(self) -> Result<CapturedPass<'a, I, D>, GraphError> {
        match self.way {
            Way::Captured(pass) => Ok(*pass),
            Way::Eager { reason } => Err(no_capture(reason)),
        }
    }

    /// The output for `inputs`, which stays as it is whatever runs later.
    ///
    /// # Errors
    ///
    /// [`ModelError::InputShape`] for inputs of other shapes than this was made for;
    /// [`ModelError::Graph`] if the device fails; those of the model's forward pass.
    pub fn run(&self, inputs: I) -> Result<Tensor<D>, ModelError> {
        for ((name, expected), found) in self.expected.iter().zip(inputs.shapes()) {
            check_shape(name, &found, expected)?;
        }
        let Way::Captured(pass) = &self.way else {
            return (self.pass)(inputs);
        };
        if !pass.inputs().overwrite(inputs) {
            return Err(inputs_not_written());
        }
        pass.replay()?;
        let output = pass.output();
        let dtype = FloatDType::from(output.dtype());
        let copied = Tensor::empty(output.dims(), (&output.device(), dtype.into()));
        match copy_into(&copied, output.clone()) {
            true => Ok(copied),
            false => Err(inputs_not_written()),
        }
    }
}
