//! The sizes of each structure, checked once.

use core::fmt;
use core::str::FromStr;

use crate::error::{KernelError, Requirement};
use crate::stream::plan::FEW_TOKENS;

/// Sizes of a low-rank weight, `W = u v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LowRankDims {
    rank: usize,
    in_features: usize,
    out_features: usize,
}

/// Sizes of a Monarch weight, or of several that are multiplied with one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MonarchDims {
    layers: usize,
    blocks: usize,
    rank: usize,
    in_features: usize,
    out_features: usize,
    order: OutputOrder,
}

/// Sizes of a BLAST weight, or of several that are multiplied with one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlastDims {
    layers: usize,
    blocks: usize,
    rank: usize,
    in_features: usize,
    out_features: usize,
}

/// Which output feature row `q` of output block `j` of a Monarch weight becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutputOrder {
    /// `j · out/b + q`: each block fills a run of features.
    #[default]
    Contiguous,
    /// `q · b + j`: feature `o` comes from block `o mod b`, as in arXiv:2204.00595.
    Interleaved,
}

impl OutputOrder {
    /// The name used in configuration files, `contiguous` or `interleaved`.
    pub fn as_str(self) -> &'static str {
        match self {
            OutputOrder::Contiguous => "contiguous",
            OutputOrder::Interleaved => "interleaved",
        }
    }
}

impl fmt::Display for OutputOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no [`OutputOrder`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output order is `{name}`, expected `contiguous` or `interleaved`")]
pub struct UnknownOutputOrder {
    name: String,
}

impl FromStr for OutputOrder {
    type Err = UnknownOutputOrder;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "contiguous" => Ok(OutputOrder::Contiguous),
            "interleaved" => Ok(OutputOrder::Interleaved),
            _ => Err(UnknownOutputOrder {
                name: name.to_owned(),
            }),
        }
    }
}

/// Layers of one input that are multiplied at once: all where that saves more than memory, one where
/// tokens are many.
pub(crate) fn layers_at_once(layers: usize, tokens: usize) -> usize {
    if tokens <= FEW_TOKENS { layers } else { 1 }
}

fn non_zero(what: &'static str, actual: usize) -> Result<(), KernelError> {
    if actual == 0 {
        let required = Requirement::NonZero;
        return Err(KernelError::InvalidConfig {
            what,
            actual,
            required,
        });
    }
    Ok(())
}

fn multiple_of_blocks(what: &'static str, actual: usize, blocks: usize) -> Result<(), KernelError> {
    if !actual.is_multiple_of(blocks) {
        let required = Requirement::MultipleOf {
            name: "blocks",
            value: blocks,
        };
        return Err(KernelError::InvalidConfig {
            what,
            actual,
            required,
        });
    }
    Ok(())
}

fn check_blocked(
    blocks: usize,
    rank: usize,
    in_features: usize,
    out_features: usize,
) -> Result<(), KernelError> {
    non_zero("blocks", blocks)?;
    non_zero("rank", rank)?;
    non_zero("in_features", in_features)?;
    non_zero("out_features", out_features)?;
    multiple_of_blocks("in_features", in_features, blocks)?;
    multiple_of_blocks("out_features", out_features, blocks)
}

impl LowRankDims {
    /// Checks and keeps the sizes.
    ///
    /// # Errors
    ///
    /// [`KernelError::InvalidConfig`] if a size is zero.
    pub fn new(rank: usize, in_features: usize, out_features: usize) -> Result<Self, KernelError> {
        non_zero("rank", rank)?;
        non_zero("in_features", in_features)?;
        non_zero("out_features", out_features)?;
        Ok(Self {
            rank,
            in_features,
            out_features,
        })
    }

    /// Inner width `r` of the factors.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Width of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Width of the output.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Weights held, `r (in + out)`, the bias left out.
    pub fn parameters(&self) -> usize {
        self.rank * (self.in_features + self.out_features)
    }

    /// Shape of `u`, `[out, r]`.
    pub fn u_shape(&self) -> [usize; 2] {
        [self.out_features, self.rank]
    }

    /// Shape of `v`, `[r, in]`.
    pub fn v_shape(&self) -> [usize; 2] {
        [self.rank, self.in_features]
    }

    /// Shape of one scratch tensor, `[tokens, r]`.
    pub fn scratch_shape(&self, tokens: usize) -> [usize; 2] {
        [tokens, self.rank]
    }
}

impl MonarchDims {
    /// Checks and keeps the sizes.
    ///
    /// # Errors
    ///
    /// [`KernelError::InvalidConfig`] if a size is zero, or if the rank or a feature count is no
    /// multiple of `blocks`.
    pub fn new(
        blocks: usize,
        rank: usize,
        in_features: usize,
        out_features: usize,
        order: OutputOrder,
    ) -> Result<Self, KernelError> {
        check_blocked(blocks, rank, in_features, out_features)?;
        multiple_of_blocks("rank", rank, blocks)?;
        Ok(Self {
            layers: 1,
            blocks,
            rank,
            in_features,
            out_features,
            order,
        })
    }

    /// As many weights of these sizes, multiplied with one input: right factors one behind the other
    /// along their rows, left factors along their blocks, outputs side by side.
    ///
    /// With one block that is as many low-rank weights: `v` one below the other, each `u` a block.
    ///
    /// # Errors
    ///
    /// [`KernelError::InvalidConfig`] if there are none, or several whose output features are
    /// interleaved.
    pub fn layers(self, layers: usize) -> Result<Self, KernelError> {
        non_zero("layers", layers)?;
        if layers > 1 && self.order == OutputOrder::Interleaved {
            return Err(KernelError::InvalidConfig {
                what: "layers with interleaved outputs",
                actual: layers,
                required: Requirement::AtMost(1),
            });
        }
        let out_features = self.out_features / self.layers * layers;
        Ok(Self {
            layers,
            out_features,
            ..self
        })
    }

    /// Output features of one block, `out/b` of its layer.
    pub fn block_out(&self) -> usize {
        self.out_features / self.left_blocks()
    }

    /// Blocks of `left`: those of all layers.
    pub fn left_blocks(&self) -> usize {
        self.layers * self.blocks
    }

    /// Rows of a block of `right`: those of all layers.
    pub fn right_rows(&self) -> usize {
        self.layers * self.rank
    }

    /// Shape of the scratch tensor of a forward pass, `[b, tokens, r]`: with the blocks of all layers where
    /// tokens are few (up to 32), with those of one where layers are done one after the other.
    pub fn scratch_shape(&self, tokens: usize) -> [usize; 3] {
        let layers = layers_at_once(self.layers, tokens);
        [layers * self.blocks, tokens, self.rank]
    }

    /// Shape of the scratch tensor of a backward pass, `[b, tokens, r]`, with the blocks of all layers.
    pub fn backward_scratch_shape(&self, tokens: usize) -> [usize; 3] {
        [self.left_blocks(), tokens, self.rank]
    }

    /// Number of weights that are multiplied with one input.
    pub fn count(&self) -> usize {
        self.layers
    }

    /// Order of the output features.
    pub fn order(&self) -> OutputOrder {
        self.order
    }

    /// Width of the part of a right block's rows that feeds one left block, `r/b`.
    pub fn part(&self) -> usize {
        self.rank / self.blocks
    }

    /// Weights held, `r (in + out)` for each layer, the bias left out.
    pub fn parameters(&self) -> usize {
        self.rank * (self.layers * self.in_features + self.out_features)
    }

    /// Shape of `right`, `[b, r, in/b]`, with the rows of all layers.
    pub fn right_shape(&self) -> [usize; 3] {
        [self.blocks, self.right_rows(), self.block_in()]
    }

    /// Shape of `left`, `[b, out/b, r]`, with the blocks of all layers.
    pub fn left_shape(&self) -> [usize; 3] {
        [self.left_blocks(), self.block_out(), self.rank]
    }
}

impl BlastDims {
    /// Checks and keeps the sizes.
    ///
    /// # Errors
    ///
    /// [`KernelError::InvalidConfig`] if a size is zero or a feature count is no multiple of
    /// `blocks`.
    pub fn new(
        blocks: usize,
        rank: usize,
        in_features: usize,
        out_features: usize,
    ) -> Result<Self, KernelError> {
        check_blocked(blocks, rank, in_features, out_features)?;
        Ok(Self {
            layers: 1,
            blocks,
            rank,
            in_features,
            out_features,
        })
    }

    /// As many weights of these sizes, multiplied with one input: `v` one behind the other along their
    /// rows, `s` along their ranks, `u` along their blocks, outputs side by side.
    ///
    /// # Errors
    ///
    /// [`KernelError::InvalidConfig`] if there are none.
    pub fn layers(self, layers: usize) -> Result<Self, KernelError> {
        non_zero("layers", layers)?;
        let out_features = self.out_features / self.layers * layers;
        Ok(Self {
            layers,
            out_features,
            ..self
        })
    }

    /// Number of weights that are multiplied with one input.
    pub fn count(&self) -> usize {
        self.layers
    }

    /// Ranks of all layers.
    pub fn ranks(&self) -> usize {
        self.layers * self.rank
    }

    /// Output features of one block, `out/b` of its layer.
    pub fn block_out(&self) -> usize {
        self.out_features / (self.layers * self.blocks)
    }

    /// Weights held, `r (in + out + b²)` for each layer, the bias left out.
    pub fn parameters(&self) -> usize {
        let inputs = self.in_features + self.blocks * self.blocks;
        self.rank * (self.layers * inputs + self.out_features)
    }

    /// Shape of one scratch tensor, `[b, tokens, r]`: with the ranks of all layers where tokens are few
    /// (up to 32), with those of one where layers are done one after the other.
    pub fn scratch_shape(&self, tokens: usize) -> [usize; 3] {
        let layers = layers_at_once(self.layers, tokens);
        [self.blocks, tokens, layers * self.rank]
    }

    /// Shape of `u`, `[b, out/b, r]`, with the blocks of all layers.
    pub fn u_shape(&self) -> [usize; 3] {
        [self.layers * self.blocks, self.block_out(), self.rank]
    }

    /// Shape of `s`, `[b (out), b (in), r]`, with the ranks of all layers.
    pub fn s_shape(&self) -> [usize; 3] {
        [self.blocks, self.blocks, self.ranks()]
    }

    /// Shape of `v`, `[b, r, in/b]`, with the rows of all layers.
    pub fn v_shape(&self) -> [usize; 3] {
        [self.blocks, self.ranks(), self.block_in()]
    }
}

/// What Monarch and BLAST sizes share.
macro_rules! blocked_sizes {
    ($dims:ty) => {
        impl $dims {
            /// Blocks per side, `b`, of one layer.
            pub fn blocks(&self) -> usize {
                self.blocks
            }

            /// Inner width `r` of the factors, of one layer.
            pub fn rank(&self) -> usize {
                self.rank
            }

            /// Width of the input.
            pub fn in_features(&self) -> usize {
                self.in_features
            }

            /// Width of the output, of all layers together.
            pub fn out_features(&self) -> usize {
                self.out_features
            }

            /// Input features of one block, `in/b`.
            pub fn block_in(&self) -> usize {
                self.in_features / self.blocks
            }
        }
    };
}

blocked_sizes!(MonarchDims);
blocked_sizes!(BlastDims);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_blocks_do_not_divide_are_named_in_the_error() {
        let error = BlastDims::new(3, 4, 10, 9).map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("in_features is 10, but must be a multiple of blocks (3)".to_owned())
        );
    }

    #[test]
    fn monarch_rank_has_to_be_a_multiple_of_blocks() {
        let error = MonarchDims::new(3, 4, 9, 9, OutputOrder::Contiguous);
        let required = Requirement::MultipleOf {
            name: "blocks",
            value: 3,
        };
        assert_eq!(
            error,
            Err(KernelError::InvalidConfig {
                what: "rank",
                actual: 4,
                required
            })
        );
    }

    #[test]
    fn zero_sizes_are_rejected() {
        let required = Requirement::NonZero;
        let zero = |what| KernelError::InvalidConfig {
            what,
            actual: 0,
            required,
        };
        assert_eq!(LowRankDims::new(0, 4, 4), Err(zero("rank")));
        assert_eq!(BlastDims::new(0, 4, 4, 4), Err(zero("blocks")));
        assert_eq!(
            MonarchDims::new(2, 2, 0, 4, OutputOrder::Interleaved),
            Err(zero("in_features"))
        );
        assert_eq!(LowRankDims::new(1, 4, 0), Err(zero("out_features")));
    }

    #[test]
    fn parameters_count_the_factors_alone() {
        let blast = BlastDims::new(2, 3, 4, 6).map(|dims| dims.parameters());
        assert_eq!(blast, Ok(3 * (4 + 6 + 4)));
        let low_rank = LowRankDims::new(3, 4, 6).map(|dims| dims.parameters());
        assert_eq!(low_rank, Ok(3 * (4 + 6)));
    }

    #[test]
    fn output_orders_survive_their_names() {
        for order in [OutputOrder::Contiguous, OutputOrder::Interleaved] {
            assert_eq!(order.as_str().parse(), Ok(order));
        }
        assert!("sideways".parse::<OutputOrder>().is_err());
    }
}
