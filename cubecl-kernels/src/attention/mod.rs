//! Attention, and the cache of keys and values that it reads.
//!
//! What a network does between its linear layers must not eat what those gain: scores are never
//! written to device memory here. Many queries go through tensor cores tile by tile with a running
//! softmax ([Dao 2023](https://arxiv.org/abs/2307.08691), section 3.1); a single query, as in
//! decoding, streams keys and values once.
//!
//! The place of the first query may be read from a buffer, so that a captured graph serves every
//! token.

mod append;
pub(crate) mod geometry;
mod kernel;
mod launch;
mod plan;
mod problem;
mod rotate;

pub use append::{AppendKeyValue, TurnedQuery, append_key_value};
pub use launch::{Attention, OwnTokens, attention, scratch_elements};
pub use problem::Visible;
pub use rotate::{Angles, RotateRows, rotate_rows};
