//! What the tests share: devices, tensors on them, and the rule that results are judged by.

pub mod blocks;
pub mod clients;
pub mod compare;
pub mod dtype;
pub mod tensors;
