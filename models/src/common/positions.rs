//! Positions of tokens, kept on the device.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, s};

/// Most positions that are kept: 512 KiB or 1 MiB.
const MOST: usize = 1 << 17;

/// The positions 0, 1, 2, … on a device.
///
/// A backend makes a range on the host and copies it. With this a forward pass takes a slice
/// instead, so that nothing but the token ids goes to the device.
#[derive(Module, Debug)]
pub(crate) struct Positions {
    /// `[min(max_tokens, MOST)]`. Not a parameter.
    table: Tensor<1, Int>,
}

impl Positions {
    /// The positions of a model of at most `max_tokens`.
    pub(crate) fn new(max_tokens: usize, device: &Device) -> Self {
        Self {
            table: Tensor::arange(0..max_tokens.min(MOST) as i64, device),
        }
    }

    /// Positions `start` to `end`, the latter excluded, `[end - start]`.
    pub(crate) fn range(&self, start: usize, end: usize) -> Tensor<1, Int> {
        let [kept] = self.table.dims();
        if end > kept {
            return Tensor::arange(start as i64..end as i64, &self.table.device());
        }
        self.table.clone().slice(s![start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_past_the_table_are_made_anew() {
        let positions = Positions::new(MOST + 9, &Device::flex());
        for (start, end) in [(0, 3), (MOST - 2, MOST), (MOST - 2, MOST + 5)] {
            let found = positions.range(start, end).try_into_vec_as::<i64>();
            let expected: Vec<i64> = (start as i64..end as i64).collect();
            assert_eq!(found.ok(), Some(expected));
        }
    }
}
