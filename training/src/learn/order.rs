//! The order in which samples are drawn: all of them once, shuffled, then again in another order.

use std::sync::{Mutex, PoisonError};

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Sets the generators of offsets apart from those of orders.
const OFFSETS: u64 = 0x0FF5_E750;

/// Sample numbers below `count`, each pass over them in an order of its own.
#[derive(Debug)]
pub(crate) struct Order {
    count: usize,
    seed: u64,
    /// The order of the pass that was asked for last.
    last: Mutex<Option<(usize, Vec<usize>)>>,
}

/// A generator that depends on `seed` and `number` only.
pub(crate) fn generator(seed: u64, number: usize) -> Xoshiro256PlusPlus {
    let offset = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add(offset))
}

impl Order {
    /// The order of `count` samples, at least one.
    pub fn new(count: usize, seed: u64) -> Self {
        Self {
            count: count.max(1),
            seed,
            last: Mutex::new(None),
        }
    }

    /// The pass over the samples that draw `n` belongs to, and the sample it gives.
    pub fn sample(&self, n: usize) -> (usize, usize) {
        let pass = n / self.count;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, order) = match last.take() {
            Some(kept) if kept.0 == pass => last.insert(kept),
            _ => {
                let mut order: Vec<usize> = (0..self.count).collect();
                order.shuffle(&mut generator(self.seed, pass));
                last.insert((pass, order))
            }
        };
        let sample = order.get(n % self.count).copied();
        (pass, sample.unwrap_or_default())
    }

    /// A number below `bound` for a pass.
    pub fn below(&self, pass: usize, bound: usize) -> usize {
        generator(self.seed ^ OFFSETS, pass).random_range(0..bound.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pass_draws_every_sample_once_and_in_another_order() {
        let order = Order::new(50, 3);
        let pass = |first: usize| -> Vec<usize> {
            (first..first + 50).map(|n| order.sample(n).1).collect()
        };
        let (first, second) = (pass(0), pass(50));
        for drawn in [&first, &second] {
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_eq!(first, pass(0));
        assert_ne!(
            first,
            (0..50)
                .map(|n| Order::new(50, 4).sample(n).1)
                .collect::<Vec<_>>()
        );
    }
}
