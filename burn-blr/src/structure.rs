//! What a linear layer is made of, as plain data: method, blocks, rank, and what follows from them.

use std::fmt::{self, Display};
use std::str::FromStr;

use cubecl_kernels::{BlastDims, LowRankDims, MonarchDims, OutputOrder};
use serde::{Deserialize, Serialize};

use crate::BlrError;

/// A way to replace a dense weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// One product of two thin factors.
    LowRank,
    /// Two block-diagonal factors with a permutation between.
    Monarch,
    /// Blocks that share their outer factors, coupled by diagonals.
    Blast,
}

impl Method {
    /// Every method, in the order reports list them.
    pub const ALL: [Method; 3] = [Method::LowRank, Method::Monarch, Method::Blast];

    /// The name used in files and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::LowRank => "low-rank",
            Method::Monarch => "monarch",
            Method::Blast => "blast",
        }
    }
}

impl Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Method {
    type Err = BlrError;

    fn from_str(text: &str) -> Result<Self, BlrError> {
        Method::ALL
            .into_iter()
            .find(|method| method.as_str() == text)
            .ok_or_else(|| BlrError::UnknownMethod { found: text.into() })
    }
}

/// The structure of one linear layer, without its widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Structure {
    /// One matrix.
    Dense,
    /// `u [out, r]`, `v [r, in]`.
    LowRank {
        /// Inner width.
        rank: usize,
    },
    /// `right [b, r, in/b]`, `left [b, out/b, r]`.
    Monarch {
        /// Blocks per side.
        blocks: usize,
        /// Inner width of a factor, a multiple of `blocks`.
        rank: usize,
        /// Where the output features of a block go.
        order: OutputOrder,
    },
    /// `u [b, out/b, r]`, `s [b, b, r]`, `v [b, r, in/b]`.
    Blast {
        /// Blocks per side.
        blocks: usize,
        /// Inner width.
        rank: usize,
    },
}

impl Structure {
    /// The method, or nothing for dense.
    pub fn method(&self) -> Option<Method> {
        match self {
            Structure::Dense => None,
            Structure::LowRank { .. } => Some(Method::LowRank),
            Structure::Monarch { .. } => Some(Method::Monarch),
            Structure::Blast { .. } => Some(Method::Blast),
        }
    }

    /// Blocks per side; 1 where the structure has none.
    pub fn blocks(&self) -> usize {
        match *self {
            Structure::Dense | Structure::LowRank { .. } => 1,
            Structure::Monarch { blocks, .. } | Structure::Blast { blocks, .. } => blocks,
        }
    }

    /// Inner width, or nothing for dense.
    pub fn rank(&self) -> Option<usize> {
        match *self {
            Structure::Dense => None,
            Structure::LowRank { rank }
            | Structure::Monarch { rank, .. }
            | Structure::Blast { rank, .. } => Some(rank),
        }
    }

    /// The same structure with another rank; dense has none and stays.
    pub fn with_rank(self, rank: usize) -> Self {
        match self {
            Structure::Dense => Structure::Dense,
            Structure::LowRank { .. } => Structure::LowRank { rank },
            Structure::Monarch { blocks, order, .. } => Structure::Monarch {
                blocks,
                rank,
                order,
            },
            Structure::Blast { blocks, .. } => Structure::Blast { blocks, rank },
        }
    }

    /// Checks that a layer of these widths can have this structure.
    ///
    /// # Errors
    ///
    /// [`BlrError::Kernel`] where blocks do not divide the features (or, for Monarch, the rank) or
    /// a number is zero; [`BlrError::RankTooLarge`] past the rank at which the blocks are full.
    pub fn validate(&self, in_features: usize, out_features: usize) -> Result<(), BlrError> {
        // `U_j V_i` spans nothing more once r reaches the smaller side. A Monarch block has its own
        // r / b columns, so its limit is b times the smaller side of a block: the same number.
        let limit = in_features.min(out_features);
        match *self {
            Structure::Dense => return Ok(()),
            Structure::LowRank { rank } => {
                LowRankDims::new(rank, in_features, out_features)?;
            }
            Structure::Monarch {
                blocks,
                rank,
                order,
            } => {
                MonarchDims::new(blocks, rank, in_features, out_features, order)?;
            }
            Structure::Blast { blocks, rank } => {
                BlastDims::new(blocks, rank, in_features, out_features)?;
            }
        }
        match self.rank() {
            Some(rank) if rank > limit => Err(BlrError::RankTooLarge {
                rank,
                limit,
                in_features,
                out_features,
            }),
            _ => Ok(()),
        }
    }

    /// Number of weights, without bias.
    pub fn parameters(&self, in_features: usize, out_features: usize) -> usize {
        match *self {
            Structure::Dense => in_features * out_features,
            Structure::LowRank { rank } | Structure::Monarch { rank, .. } => {
                rank * (in_features + out_features)
            }
            Structure::Blast { blocks, rank } => {
                rank * (in_features + out_features + blocks * blocks)
            }
        }
    }

    /// FLOPs of one product for `tokens` rows, a multiply-add counted as two.
    pub fn flops(&self, tokens: usize, in_features: usize, out_features: usize) -> usize {
        // Monarch and BLAST multiply every row by every weight of the two outer factors once, as
        // low-rank does; BLAST adds the mix, one multiply-add per token, coupling and rank.
        2 * tokens * self.parameters(in_features, out_features)
    }

    /// Largest structure of this method that holds at most `keep` of a dense layer's weights.
    ///
    /// `keep` is a fraction of `in_features · out_features`. Returns nothing where not even the
    /// smallest rank fits.
    pub fn for_keep(
        method: Method,
        blocks: usize,
        keep: f64,
        in_features: usize,
        out_features: usize,
    ) -> Option<Structure> {
        let budget = (keep * (in_features * out_features) as f64).floor() as usize;
        let sides = in_features + out_features;
        let limit = in_features.min(out_features);
        let structure = match method {
            Method::LowRank => Structure::LowRank {
                rank: (budget / sides).min(limit),
            },
            Method::Monarch => {
                let rank = (budget / sides).min(limit) / blocks.max(1) * blocks;
                Structure::Monarch {
                    blocks,
                    rank,
                    order: OutputOrder::Contiguous,
                }
            }
            Method::Blast => Structure::Blast {
                blocks,
                rank: (budget / (sides + blocks * blocks)).min(limit),
            },
        };
        structure.rank().filter(|&rank| rank > 0).map(|_| structure)
    }
}

impl Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Structure::Dense => write!(f, "dense"),
            Structure::LowRank { rank } => write!(f, "low-rank r {rank}"),
            Structure::Monarch {
                blocks,
                rank,
                order: OutputOrder::Contiguous,
            } => {
                write!(f, "monarch b {blocks} r {rank}")
            }
            Structure::Monarch {
                blocks,
                rank,
                order: OutputOrder::Interleaved,
            } => {
                write!(f, "monarch b {blocks} r {rank} interleaved")
            }
            Structure::Blast { blocks, rank } => write!(f, "blast b {blocks} r {rank}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_gives_the_largest_rank_within_the_budget() {
        for (method, blocks) in [
            (Method::LowRank, 1),
            (Method::Monarch, 4),
            (Method::Blast, 16),
        ] {
            let (inputs, outputs) = (768, 2304);
            let structure = Structure::for_keep(method, blocks, 0.5, inputs, outputs);
            let structure = structure.unwrap_or(Structure::Dense);
            let budget = inputs * outputs / 2;
            assert_eq!(structure.method(), Some(method));
            assert!(structure.parameters(inputs, outputs) <= budget);
            let rank = structure.rank().unwrap_or(0);
            let step = if method == Method::Monarch { blocks } else { 1 };
            let wider = match method {
                Method::LowRank => Structure::LowRank { rank: rank + step },
                Method::Monarch => Structure::Monarch {
                    blocks,
                    rank: rank + step,
                    order: OutputOrder::Contiguous,
                },
                Method::Blast => Structure::Blast {
                    blocks,
                    rank: rank + step,
                },
            };
            assert!(wider.parameters(inputs, outputs) > budget);
        }
    }

    #[test]
    fn a_method_is_read_back_from_its_name() {
        for method in Method::ALL {
            assert_eq!(method.as_str().parse(), Ok(method));
        }
        assert_eq!(
            "butterfly".parse::<Method>(),
            Err(BlrError::UnknownMethod {
                found: "butterfly".into()
            })
        );
    }

    #[test]
    fn a_structure_that_does_not_divide_is_refused() {
        let blast = Structure::Blast { blocks: 5, rank: 8 };
        assert!(matches!(blast.validate(64, 48), Err(BlrError::Kernel(_))));
        let monarch = Structure::Monarch {
            blocks: 4,
            rank: 10,
            order: OutputOrder::Contiguous,
        };
        assert!(matches!(monarch.validate(64, 48), Err(BlrError::Kernel(_))));
        let low_rank = Structure::LowRank { rank: 49 };
        assert!(matches!(
            low_rank.validate(64, 48),
            Err(BlrError::RankTooLarge { limit: 48, .. })
        ));
        assert_eq!(Structure::LowRank { rank: 48 }.validate(64, 48), Ok(()));
    }
}
