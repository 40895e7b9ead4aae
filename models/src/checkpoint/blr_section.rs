//! The `blr` section of `config.json`: which layers are stored as factors.

use std::collections::BTreeMap;
use std::path::Path;

use burn_blr::{Method, OutputOrder, Structure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ModelError;

/// The version of the `blr` section that this crate reads and writes.
pub const BLR_VERSION: u32 = 1;

/// The `blr` section of `config.json`; empty where a checkpoint has none.
///
/// ```json
/// {"version": 1, "layers": {"transformer.h.0.attn.c_attn":
///     {"method": "blast", "blocks": 6, "rank": 192, "relative_error": 0.31}}}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlrSection {
    /// Version of the section, [`BLR_VERSION`].
    pub version: u32,
    /// Whether the directory holds the factors of the replaced layers and no other weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub part: bool,
    /// The replaced layers, by the name `P` whose dense weight would be `P.weight`.
    pub layers: BTreeMap<String, BlrLayer>,
}

impl Default for BlrSection {
    fn default() -> Self {
        Self {
            version: BLR_VERSION,
            part: false,
            layers: BTreeMap::new(),
        }
    }
}

/// How one layer is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlrLayer {
    /// The structure of its factors.
    pub method: Method,
    /// Blocks per side; one for low-rank.
    pub blocks: usize,
    /// Inner width of the factors.
    pub rank: usize,
    /// Order of a Monarch layer's output features; contiguous where absent.
    #[serde(
        default,
        with = "crate::checkpoint::output_order",
        skip_serializing_if = "Option::is_none"
    )]
    pub output_order: Option<OutputOrder>,
    /// `‖W - W'‖ / ‖W‖` in the Frobenius norm when the layer was compressed; absent for a layer
    /// that was trained in this structure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

impl BlrLayer {
    /// The entry for a layer of `structure`; `None` for a dense one, which has no entry.
    pub fn new(structure: &Structure, relative_error: Option<f64>) -> Option<Self> {
        let (method, blocks, rank, output_order) = match *structure {
            Structure::Dense => return None,
            Structure::LowRank { rank } => (Method::LowRank, 1, rank, None),
            Structure::Monarch {
                blocks,
                rank,
                order,
            } => (Method::Monarch, blocks, rank, Some(order)),
            Structure::Blast { blocks, rank } => (Method::Blast, blocks, rank, None),
        };
        Some(Self {
            method,
            blocks,
            rank,
            output_order,
            relative_error,
        })
    }

    /// The structure that the entry describes.
    pub fn structure(&self) -> Structure {
        match self.method {
            Method::LowRank => Structure::LowRank { rank: self.rank },
            Method::Monarch => Structure::Monarch {
                blocks: self.blocks,
                rank: self.rank,
                order: self.output_order.unwrap_or(OutputOrder::Contiguous),
            },
            Method::Blast => Structure::Blast {
                blocks: self.blocks,
                rank: self.rank,
            },
        }
    }
}

impl BlrSection {
    /// Reads the section of `config`, which was parsed from `path`.
    pub(crate) fn from_config(path: &Path, config: &Value) -> Result<Self, ModelError> {
        let Some(section) = config.get("blr").filter(|section| !section.is_null()) else {
            return Ok(Self::default());
        };
        // The version first: a later one may well have other keys.
        let version = section.get("version");
        if version.and_then(Value::as_u64) != Some(u64::from(BLR_VERSION)) {
            return Err(ModelError::InvalidKey {
                path: path.to_path_buf(),
                key: String::from("blr.version"),
                found: version.map_or_else(|| String::from("not set"), Value::to_string),
                expected: BLR_VERSION.to_string(),
            });
        }
        let layers = section
            .get("layers")
            .and_then(Value::as_object)
            .ok_or_else(|| ModelError::MissingKey {
                path: path.to_path_buf(),
                key: String::from("blr.layers"),
                expected: String::from("an object with an entry per replaced layer"),
            })?;
        let layers = layers
            .iter()
            .map(|(name, entry)| {
                let layer =
                    BlrLayer::deserialize(entry).map_err(|error| ModelError::InvalidKey {
                        path: path.to_path_buf(),
                        key: format!("blr.layers.{name}"),
                        found: entry.to_string(),
                        expected: format!("method, blocks and rank ({error})"),
                    })?;
                Ok((name.clone(), layer))
            })
            .collect::<Result<_, ModelError>>()?;
        let part = match section.get("part") {
            None => false,
            Some(part) => part.as_bool().ok_or_else(|| ModelError::InvalidKey {
                path: path.to_path_buf(),
                key: String::from("blr.part"),
                found: part.to_string(),
                expected: String::from("true or false"),
            })?,
        };
        Ok(Self {
            version: BLR_VERSION,
            part,
            layers,
        })
    }
}
