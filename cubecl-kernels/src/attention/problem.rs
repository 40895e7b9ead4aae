//! Checks of one attention.

use cubecl::prelude::*;

use crate::context::Context;
use crate::error::{KernelError, Missing, Requirement};
use crate::operand::{axis_size, widest_vector};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visible {
    /// All of them.
    All,
    /// Those up to its own.
    Causal,
}

/// Elements between neighbours of a tensor `[batch, heads, tokens, width]`, and what is known of its
/// start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowStrides {
    pub batch: usize,
    pub head: usize,
    pub token: usize,
    /// Bytes that the start of the buffer is known to be a multiple of, capped at 16.
    alignment: usize,
}

impl RowStrides {
    /// The strides of a tensor of four axes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unavailable`] if its last axis is not contiguous.
    pub fn new<R: Runtime>(binding: &TensorBinding<R>) -> Result<Self, KernelError> {
        let [batch, head, token, feature] = binding.strides[..] else {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        };
        if feature != 1 && binding.shape.last().is_some_and(|&width| width > 1) {
            return Err(KernelError::Unavailable(Missing::TensorLayout));
        }
        let offset = binding.handle.offset_start.unwrap_or(0);
        Ok(Self {
            batch,
            head,
            token,
            alignment: 1 << offset.trailing_zeros().min(4),
        })
    }

    /// Whether every row starts at a multiple of `vector` elements of `bytes` bytes.
    pub fn allows_vectors(&self, vector: usize, bytes: usize) -> bool {
        self.alignment.is_multiple_of(vector * bytes)
            && [self.batch, self.head, self.token]
                .iter()
                .all(|stride| stride.is_multiple_of(vector))
    }
}

/// Keys and values of the queries' own tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnRows {
    pub key: RowStrides,
    pub value: RowStrides,
    pub angles: Option<OwnAngles>,
}

/// What query and key turn by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnAngles {
    /// Angles from one row of the batch to the next.
    pub of_batch: usize,
    /// Whether they are where four can be read at once.
    pub aligned: bool,
}

/// One attention, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionProblem {
    pub batch: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub tokens: usize,
    pub keys: usize,
    pub width: usize,
    pub visible: Visible,
    pub scale: f64,
    pub query: RowStrides,
    pub key: RowStrides,
    pub value: RowStrides,
    pub out: RowStrides,
    pub own: Option<OwnRows>,
}

impl AttentionProblem {
    /// Checks the operands of one call.
    ///
    /// # Errors
    ///
    /// Those of [`attention`](super::attention).
    pub fn new<R: Runtime>(
        context: &mut Context<'_, R>,
        operands: &super::Attention<R>,
        visible: Visible,
        scale: f64,
    ) -> Result<Self, KernelError> {
        let query = &operands.query;
        let [batch, heads, tokens, width] = [0, 1, 2, 3].map(|axis| axis_size(query, axis));
        let (key_heads, keys) = (axis_size(&operands.key, 1), axis_size(&operands.key, 2));
        if key_heads == 0 || !heads.is_multiple_of(key_heads) {
            return Err(KernelError::InvalidConfig {
                what: "the number of query heads",
                actual: heads,
                required: Requirement::MultipleOf {
                    name: "key heads",
                    value: key_heads,
                },
            });
        }
        if keys < tokens.max(1) && (visible == Visible::Causal || keys == 0) {
            return Err(KernelError::InvalidConfig {
                what: "the number of keys",
                actual: keys,
                required: Requirement::AtLeast(tokens.max(1)),
            });
        }
        context.input("query", query, &[batch, heads, tokens, width])?;
        let rows = [batch, key_heads, keys, width];
        context.input("key", &operands.key, &rows)?;
        context.input("value", &operands.value, &rows)?;
        context.output("output", &operands.output, &[batch, heads, tokens, width])?;
        let own = match &operands.own {
            Some(own) => {
                let own_rows = [batch, key_heads, tokens, width];
                context.input("own key", &own.key, &own_rows)?;
                context.input("own value", &own.value, &own_rows)?;
                context.output("key", &operands.key, &rows)?;
                context.output("value", &operands.value, &rows)?;
                let angles = own.angles.as_ref().map(|angles| {
                    Ok::<_, KernelError>(OwnAngles {
                        of_batch: angles.check(batch, tokens, width)?,
                        aligned: angles.allow_vectors(4),
                    })
                });
                Some(OwnRows {
                    key: RowStrides::new(&own.key)?,
                    value: RowStrides::new(&own.value)?,
                    angles: angles.transpose()?,
                })
            }
            None => None,
        };
        Ok(Self {
            batch,
            heads,
            key_heads,
            tokens,
            keys,
            width,
            visible,
            scale,
            query: RowStrides::new(query)?,
            key: RowStrides::new(&operands.key)?,
            value: RowStrides::new(&operands.value)?,
            out: RowStrides::new(&operands.output)?,
            own,
        })
    }

    /// The most elements, up to `most`, that rows of all operands can be cut into.
    pub fn vector(&self, most: usize, bytes: usize) -> usize {
        let operands = [self.query, self.key, self.value, self.out];
        let own = self.own.iter().flat_map(|own| [own.key, own.value]);
        let fits = |vector: usize| {
            self.width.is_multiple_of(vector)
                && operands
                    .into_iter()
                    .chain(own.clone())
                    .all(|operand| operand.allows_vectors(vector, bytes))
        };
        widest_vector(most, fits)
    }
}
