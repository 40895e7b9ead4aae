//! Token after token with one launch each.

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::{Int, Tensor, TensorData};
use burn_blr::cuda::overwrite_int;
use burn_blr::graph::{self, CapturedGraph, GraphError};

use crate::{Context, KvCache, LanguageModel, ModelError};

/// Forward passes before a capture. With fusion the first of them makes the plan that later ones
/// follow, and may allocate what those do not.
const PASSES_BEFORE_CAPTURE: usize = 2;

/// Continues the texts of a cache by one token a step.
///
/// Where the device captures graphs, the pass over one token is captured when the decoder is made: a
/// step then copies ids and place into its buffers and replays it, which costs the host one launch
/// instead of some for every layer. A captured pass attends to keys and values where they are,
/// whatever the number of tokens. Elsewhere a step is an ordinary forward pass.
///
/// No other thread may use the device while a decoder is made: the driver refuses their calls during
/// a capture. Programs with several threads on one device take [`Decoder::eager`].
///
/// The decoder borrows the model, so its weights stay as they are; the cache is its own until
/// [`Decoder::into_cache`].
pub struct Decoder<'a, M: LanguageModel> {
    model: &'a M,
    rows: usize,
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

/// The captured pass and its inputs.
struct CapturedSteps<'a> {
    graph: CapturedGraph<'a, Result<Tensor<2>, ModelError>>,
    ids: Tensor<2, Int>,
    position: Tensor<1, Int>,
    cache: Rc<RefCell<KvCache>>,
}

impl<'a, M: LanguageModel> Decoder<'a, M> {
    /// A decoder that goes on behind the tokens of `cache`.
    ///
    /// # Errors
    ///
    /// Those of [`LanguageModel::hidden`]; [`ModelError::Read`] if the device fails.
    pub fn new(model: &'a M, cache: KvCache) -> Result<Self, ModelError> {
        let (rows, capacity) = (cache.batch(), cache.capacity().min(model.max_tokens()));
        let tokens = cache.tokens();
        if tokens >= capacity || !graph::captures(&model.device()) {
            return Ok(Self::eager(model, cache));
        }
        let steps = captured(model, cache)?;
        Ok(Self {
            model,
            rows,
            capacity,
            tokens,
            steps,
        })
    }

    /// A decoder whose steps are ordinary forward passes, to compare with or for a few steps.
    pub fn eager(model: &'a M, cache: KvCache) -> Self {
        Self {
            model,
            rows: cache.batch(),
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

    /// Adds a token to each row and returns the logits of the next, `[rows, vocab]` row by row.
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] for another number of ids, [`ModelError::TokenOutOfRange`] for one
    /// that the model does not have, [`ModelError::TooManyTokens`] when the cache or the context of
    /// the model is full; [`ModelError::Read`] and
    /// [`ModelError::Graph`] if the device fails.
    pub fn step(&mut self, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        if self.tokens >= self.capacity {
            return Err(ModelError::TooManyTokens {
                found: self.tokens + 1,
                max: self.capacity,
            });
        }
        if ids.len() != self.rows {
            return Err(ModelError::Batch {
                found: ids.len(),
                batch: self.rows,
            });
        }
        let logits = match &mut self.steps {
            Steps::Eager { cache, .. } => {
                let ids = self.model.input_ids(ids, self.rows)?;
                self.model.last_logits(ids, Context::Cached(cache))?
            }
            Steps::Captured(steps) => {
                steps.step(self.model.checked_ids(ids, self.rows)?, self.tokens)?
            }
        };
        self.tokens += 1;
        Ok(logits.try_into_vec_as::<f32>()?)
    }

    /// The cache with all tokens.
    pub fn into_cache(self) -> KvCache {
        match self.steps {
            Steps::Eager { cache, .. } => *cache,
            Steps::Captured(steps) => {
                let CapturedSteps { graph, cache, .. } = *steps;
                drop(graph);
                let mut cache = owned(cache);
                cache.set_tokens(self.tokens);
                cache
            }
        }
    }
}

/// Captures a pass over one token behind those of `cache`, or says why steps are not captured.
fn captured<'a, M: LanguageModel>(model: &'a M, cache: KvCache) -> Result<Steps<'a>, ModelError> {
    let (rows, tokens) = (cache.batch(), cache.tokens());
    // What a pass before the first step writes behind the tokens, that step writes anew.
    let ids = model.input_ids(&vec![0u32; rows], rows)?;
    let position = TensorData::new(vec![tokens as i64], [1]);
    let position = Tensor::<1, Int>::from_data(position, &model.device());
    // One owner, so that rows are appended in place.
    let cache = Rc::new(RefCell::new(cache));
    let pass = {
        let (ids, position, cache) = (ids.clone(), position.clone(), cache.clone());
        move || {
            let context = Context::Located {
                cache: &mut cache.borrow_mut(),
                position: position.clone(),
            };
            model.last_logits(ids.clone(), context)
        }
    };
    for _ in 0..PASSES_BEFORE_CAPTURE {
        // Read, so that nothing of it is left out.
        pass()?.try_into_vec_as::<f32>()?;
    }
    // SAFETY: the pass holds the model, its inputs and the cache, whose tensors are replaced by
    // others in the same buffers: `append_rows` works in place for its only owner. Nobody else has
    // the cache until the graph is gone.
    let graph = unsafe { CapturedGraph::capture(&model.device(), pass) };
    match graph {
        Ok(graph) => Ok(Steps::Captured(Box::new(CapturedSteps {
            graph,
            ids,
            position,
            cache,
        }))),
        Err(error) => Ok(Steps::Eager {
            cache: Box::new(owned(cache)),
            reason: Some(error.reason),
        }),
    }
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
        if !overwrite_int(self.ids.clone(), ids) || !overwrite_int(self.position.clone(), position)
        {
            return Err(ModelError::Graph(GraphError {
                reason: "its inputs cannot be written".to_string(),
            }));
        }
        self.graph.replay()?;
        match self.graph.results() {
            Ok(logits) => Ok(logits.clone()),
            Err(error) => Err(ModelError::Graph(GraphError {
                reason: error.to_string(),
            })),
        }
    }
}
