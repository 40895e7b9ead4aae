//! Some tokens after the others with one launch each.

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::{Int, Tensor, TensorData};
use burn_blr::cuda::overwrite_int;
use burn_blr::graph::{self, GraphError};

use crate::captured::{inputs_not_written, no_capture};
use crate::dit::check_shape;
use crate::{CapturedPass, Context, KvCache, LanguageModel, ModelError};

/// Continues the texts of a cache by one token a step, or by another number of them.
///
/// Where the device captures graphs, the pass over the tokens of a step is captured when the decoder
/// is made: a step then copies ids and place into its buffers and replays it, which costs the host one
/// launch instead of some for every layer. A captured pass attends to keys and values where they are,
/// whatever the number of tokens before. Elsewhere a step is an ordinary forward pass.
///
/// No other thread may use the device while a decoder is made: the driver refuses their calls during
/// a capture. Programs with several threads on one device take [`Decoder::eager`].
///
/// The decoder borrows the model, so its weights stay as they are; the cache is its own until
/// [`Decoder::into_cache`].
pub struct Decoder<'a, M: LanguageModel> {
    model: &'a M,
    rows: usize,
    /// Tokens that a step adds to each row.
    length: usize,
    capacity: usize,
    tokens: usize,
    steps: Steps<'a>,
}

/// How steps are taken.
enum Steps<'a> {
    Captured(Box<CapturedSteps<'a>>),
    Eager {
        cache: Box<KvCache>,
        /// Why they are not captured, where that was tried.
        reason: Option<String>,
    },
}

/// What a captured step reads: the ids `[rows, length]`, and the tokens before them, `[1]`.
type StepInputs = (Tensor<2, Int>, Tensor<1, Int>);

/// The captured pass and the cache that it reads and writes.
struct CapturedSteps<'a> {
    pass: CapturedPass<'a, StepInputs, 2>,
    cache: Rc<RefCell<KvCache>>,
}

impl<'a, M: LanguageModel> Decoder<'a, M> {
    /// A decoder that goes on behind the tokens of `cache`, one at a time.
    ///
    /// # Errors
    ///
    /// Those of [`LanguageModel::hidden`].
    pub fn new(model: &'a M, cache: KvCache) -> Result<Self, ModelError> {
        Self::with_length(model, cache, 1)
    }

    /// A decoder whose steps take `length` tokens of each row: with an empty cache, prompts of one
    /// length, again and again with [`Decoder::rewind`] between them.
    ///
    /// # Errors
    ///
    /// Those of [`LanguageModel::hidden`].
    pub fn with_length(model: &'a M, cache: KvCache, length: usize) -> Result<Self, ModelError> {
        let mut decoder = Self::eager_with_length(model, cache, length);
        let fits = (1..=decoder.room()).contains(&length);
        if fits && graph::captures(&model.device()) {
            decoder.steps = captured(model, decoder.steps.into_cache(), length)?;
        }
        Ok(decoder)
    }

    /// A decoder whose steps are ordinary forward passes over one token, to compare with or for a few
    /// steps.
    pub fn eager(model: &'a M, cache: KvCache) -> Self {
        Self::eager_with_length(model, cache, 1)
    }

    /// As [`Decoder::with_length`], without a capture.
    pub fn eager_with_length(model: &'a M, cache: KvCache, length: usize) -> Self {
        Self {
            model,
            rows: cache.batch(),
            length,
            capacity: cache.capacity().min(model.max_tokens()),
            tokens: cache.tokens(),
            steps: Steps::Eager {
                cache: Box::new(cache),
                reason: None,
            },
        }
    }

    /// Tokens that each row holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens that each row can still take.
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.tokens)
    }

    /// Whether steps replay a captured pass.
    pub fn is_captured(&self) -> bool {
        matches!(self.steps, Steps::Captured(_))
    }

    /// Why steps are not captured, where the device captures graphs but not this one.
    pub fn not_captured(&self) -> Option<&str> {
        match &self.steps {
            Steps::Captured(_) => None,
            Steps::Eager { reason, .. } => reason.as_deref(),
        }
    }

    /// The captured pass by itself, which takes the last step again and again: for measurements.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if steps are not captured.
    pub fn into_captured(self) -> Result<CapturedPass<'a, StepInputs, 2>, GraphError> {
        match self.steps {
            Steps::Captured(steps) => Ok(steps.pass),
            Steps::Eager { reason, .. } => Err(no_capture(reason)),
        }
    }

    /// Adds the tokens of a step to each row and returns the logits of the next, `[rows, vocab]` row
    /// by row.
    ///
    /// # Shapes
    ///
    /// - `ids`: `[rows, length]`, row by row
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] and [`ModelError::InputShape`] for another number of ids,
    /// [`ModelError::TokenOutOfRange`] for one that the model does not have,
    /// [`ModelError::TooManyTokens`] when the cache or the context of the model is full;
    /// [`ModelError::Read`] and [`ModelError::Graph`] if the device fails.
    pub fn step(&mut self, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        if self.length > self.room() {
            return Err(ModelError::TooManyTokens {
                found: self.tokens.saturating_add(self.length),
                max: self.capacity,
            });
        }
        let ids = self.model.checked_ids(ids, self.rows)?;
        check_shape("input_ids", &ids.shape, &[self.rows, self.length])?;
        let logits = match &mut self.steps {
            Steps::Eager { cache, .. } => {
                let ids = Tensor::from_data(ids, &self.model.device());
                self.model.last_logits(ids, Context::Cached(cache))?
            }
            Steps::Captured(steps) => steps.step(ids, self.tokens)?,
        };
        self.tokens += self.length;
        Ok(logits.try_into_vec_as::<f32>()?)
    }

    /// Forgets all tokens behind the first `tokens` of each row.
    ///
    /// # Errors
    ///
    /// [`ModelError::TooManyTokens`] if there are not as many.
    pub fn rewind(&mut self, tokens: usize) -> Result<(), ModelError> {
        if tokens > self.tokens {
            return Err(ModelError::TooManyTokens {
                found: tokens,
                max: self.tokens,
            });
        }
        self.tokens = tokens;
        if let Steps::Eager { cache, .. } = &mut self.steps {
            cache.set_tokens(tokens);
        }
        Ok(())
    }

    /// The cache with all tokens.
    pub fn into_cache(self) -> KvCache {
        let mut cache = self.steps.into_cache();
        cache.set_tokens(self.tokens);
        cache
    }
}

impl Steps<'_> {
    /// The cache; what captured steps have appended is not counted in it.
    fn into_cache(self) -> KvCache {
        match self {
            Steps::Eager { cache, .. } => *cache,
            Steps::Captured(steps) => {
                let CapturedSteps { pass, cache } = *steps;
                drop(pass);
                owned(cache)
            }
        }
    }
}

/// Captures a pass over `length` tokens behind those of `cache`, or says why steps are not captured.
fn captured<'a, M: LanguageModel>(
    model: &'a M,
    cache: KvCache,
    length: usize,
) -> Result<Steps<'a>, ModelError> {
    let (rows, tokens) = (cache.batch(), cache.tokens());
    // What a pass before the first step writes behind the tokens, that step writes anew.
    let ids = model.input_ids(&vec![0u32; rows * length], rows)?;
    let position = TensorData::new(vec![tokens as i64], [1]);
    let position = Tensor::<1, Int>::from_data(position, &model.device());
    // One owner, so that rows are appended in place.
    let cache = Rc::new(RefCell::new(cache));
    let work = {
        let (ids, position, cache) = (ids.clone(), position.clone(), cache.clone());
        move || {
            let context = Context::Located {
                cache: &mut cache.borrow_mut(),
                position: position.clone(),
            };
            model.last_logits(ids.clone(), context)
        }
    };
    // SAFETY: the pass holds the model, its inputs and the cache, whose tensors are replaced by
    // others in the same buffers: keys and values are appended in place for their only owner. Nobody else has
    // the cache until the graph is gone.
    let pass = unsafe { CapturedPass::capture(&model.device(), (ids, position), work) }?;
    Ok(match pass {
        Ok(pass) => Steps::Captured(Box::new(CapturedSteps { pass, cache })),
        Err(error) => Steps::Eager {
            cache: Box::new(owned(cache)),
            reason: Some(error.reason),
        },
    })
}

/// The cache of a pass that is gone.
fn owned(cache: Rc<RefCell<KvCache>>) -> KvCache {
    match Rc::try_unwrap(cache) {
        Ok(cache) => cache.into_inner(),
        // Somebody still has it; a copy holds the same tokens.
        Err(shared) => shared.borrow().clone(),
    }
}

impl CapturedSteps<'_> {
    /// Runs the pass for `ids` behind `tokens` tokens.
    fn step(&self, ids: TensorData, tokens: usize) -> Result<Tensor<2>, ModelError> {
        let position = TensorData::new(vec![tokens as i64], [1]);
        let (ids_read, position_read) = self.pass.inputs();
        if !overwrite_int(ids_read.clone(), ids) || !overwrite_int(position_read.clone(), position)
        {
            return Err(inputs_not_written());
        }
        self.pass.replay()?;
        Ok(self.pass.output().clone())
    }
}
