//! One rule of a plan: a pattern over layer names, and the structure of those it matches.

use burn_blr::{Method, OutputOrder, Structure};
use serde::{Deserialize, Serialize};

use crate::{LinearLayer, ModelError, check_structure};

/// What the layers that match a pattern become.
///
/// Exactly one of `rank` and `keep` is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Regular expression that is searched for in the name of a layer
    /// (`transformer.h.0.attn.c_attn`); anchor it with `^` and `$` to match all of the name.
    pub layers: String,
    /// The structure.
    pub method: Method,
    /// Inner width of the factors; a multiple of `blocks` for Monarch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Fraction of the weights of each layer to keep, between 0 and 1: the rank is the largest
    /// that needs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<f64>,
    /// Blocks per side, [`default_blocks`] if not set. Not for low-rank, which has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<usize>,
    /// Order of the output features, contiguous if not set. For Monarch only.
    #[serde(
        default,
        with = "crate::checkpoint::output_order",
        skip_serializing_if = "Option::is_none"
    )]
    pub output_order: Option<OutputOrder>,
}

impl Rule {
    /// Checks what can be checked without a layer.
    ///
    /// # Errors
    ///
    /// [`ModelError::InvalidRule`] if not exactly one of rank and keep is set, keep is not between
    /// 0 and 1, rank or blocks is zero, or a key is set that the method has no use for.
    pub fn validate(&self) -> Result<(), ModelError> {
        let invalid = |key, found: String, expected| ModelError::InvalidRule {
            layers: self.layers.clone(),
            key,
            found,
            expected,
        };
        match (self.rank, self.keep) {
            (None, None) => {
                let expected = "a rank, or keep with a fraction of the parameters";
                return Err(invalid("rank", String::from("not set"), expected));
            }
            (Some(rank), Some(_)) => {
                let expected = "rank or keep, not both";
                return Err(invalid("rank", rank.to_string(), expected));
            }
            (Some(0), None) => {
                return Err(invalid("rank", String::from("0"), "a positive rank"));
            }
            (None, Some(keep)) if !(keep > 0.0 && keep < 1.0) => {
                let expected = "a fraction between 0 and 1, both excluded";
                return Err(invalid("keep", keep.to_string(), expected));
            }
            _ => {}
        }
        match self.blocks {
            Some(0) => {
                return Err(invalid(
                    "blocks",
                    String::from("0"),
                    "a positive block count",
                ));
            }
            Some(blocks) if self.method == Method::LowRank && blocks != 1 => {
                let expected = "no block count for low-rank";
                return Err(invalid("blocks", blocks.to_string(), expected));
            }
            _ => {}
        }
        if let Some(order) = self.output_order
            && self.method != Method::Monarch
        {
            let expected = "an output order for monarch alone";
            return Err(invalid("output_order", order.to_string(), expected));
        }
        Ok(())
    }

    /// The structure that `layer` takes by this rule.
    ///
    /// # Errors
    ///
    /// Those of [`Rule::validate`]; [`ModelError::Structure`] if blocks or rank do not suit the
    /// layer; [`ModelError::KeepTooSmall`] if keep leaves no rank.
    pub fn structure(&self, layer: &LinearLayer) -> Result<Structure, ModelError> {
        self.validate()?;
        let (inputs, outputs) = (layer.in_features, layer.out_features);
        let blocks = self
            .blocks
            .unwrap_or_else(|| default_blocks(self.method, inputs, outputs));
        let order = self.output_order.unwrap_or(OutputOrder::Contiguous);
        let of_rank = |rank| match self.method {
            Method::LowRank => Structure::LowRank { rank },
            Method::Monarch => Structure::Monarch {
                blocks,
                rank,
                order,
            },
            Method::Blast => Structure::Blast { blocks, rank },
        };
        // Blocks first, so that a block count that does not divide is named, and not what follows
        // from it. The smallest rank a structure can have is one, or one per block for Monarch.
        let smallest = match self.method {
            Method::Monarch => of_rank(blocks),
            Method::LowRank | Method::Blast => of_rank(1),
        };
        check_structure(layer, &smallest)?;
        let rank = match self.keep {
            None => self.rank.unwrap_or_default(),
            Some(keep) => {
                let kept = Structure::for_keep(self.method, blocks, keep, inputs, outputs);
                kept.and_then(|kept| kept.rank())
                    .ok_or_else(|| ModelError::KeepTooSmall {
                        layer: layer.name.clone(),
                        in_features: inputs,
                        out_features: outputs,
                        method: self.method,
                        blocks,
                        keep,
                        needed: smallest.parameters(inputs, outputs) as f64
                            / layer.dense_parameters() as f64,
                    })?
            }
        };
        let structure = of_rank(rank);
        check_structure(layer, &structure)?;
        Ok(structure)
    }
}

/// The block count of a layer for which a rule names none; it divides both widths.
///
/// BLAST gains from many blocks: on the demo checkpoint with half of the parameters kept, 4, 8 and
/// 16 blocks leave mean relative errors of 0.488, 0.462 and 0.439 and perplexities of 69.7, 55.2 and
/// 37.6. So it gets up to 16, the paper's number for Llama (arXiv:2512.20861), as long as the `r b²`
/// couplings are at most half as many as the other weights. Monarch loses with every further block
/// (0.578, 0.597 and 0.607 for 2, 4 and 8) and gets the paper's 4, or what is nearest below 8.
pub fn default_blocks(method: Method, in_features: usize, out_features: usize) -> usize {
    let divides = |blocks: &usize| {
        in_features.is_multiple_of(*blocks) && out_features.is_multiple_of(*blocks)
    };
    let found = match method {
        Method::LowRank => None,
        Method::Monarch if divides(&4) => Some(4),
        Method::Monarch => (1..=8).rev().find(divides),
        Method::Blast => (1..=16)
            .rev()
            .find(|blocks| divides(blocks) && 2 * blocks * blocks <= in_features + out_features),
    };
    found.unwrap_or(1)
}
