//! The structures of a published `blast_llama` checkpoint
//! ([arXiv:2410.21262](https://arxiv.org/abs/2410.21262), code at
//! <https://github.com/changwoolee/BLAST>).
//!
//! A layer `P` of `out` and `in` features is stored as `P.B [b, out/b, r]`, `P.C [b, r, in/b]` and
//! `P.D [b (out), b (in), r]`: `u`, `v` and `s` of a BLAST layer here. Which layers are, and with
//! which numbers, these keys of `config.json` say:
//!
//! | key | value |
//! |---|---|
//! | `indices` | numbers of the blocks whose layers are replaced, 0 to 31 if not set |
//! | `target_modules` | parts of the names of the layers that are, all seven if not set |
//! | `blast_rank` | a number, a fraction of the smaller width, or one of these per part of a name |
//! | `blast_num_blocks` | a number, or one per part of a name; saving wraps it in a list |

use burn_blr::Structure;
use serde_json::Value;

use crate::checkpoint::{BLAST_LLAMA, ConfigKeys};
use crate::{Checkpoint, FactorNames, LinearLayer, ModelError, check_structure};

const INDICES: &str = "indices";
const MODULES: &str = "target_modules";
const RANK: &str = "blast_rank";
const BLOCKS: &str = "blast_num_blocks";

/// Gives `layers` the structures that the configuration of a `blast_llama` says; does nothing for
/// another checkpoint.
pub(super) fn set_structures(
    checkpoint: &Checkpoint,
    prefix: &str,
    layers: &mut [LinearLayer],
) -> Result<(), ModelError> {
    let config = checkpoint.config_json();
    if config.get("model_type").and_then(Value::as_str) != Some(BLAST_LLAMA) {
        return Ok(());
    }
    let keys = ConfigKeys::new(&checkpoint.config_path(), config);
    let numbers = match keys.get(INDICES) {
        None => (0..32).collect(),
        Some(value) => list(value, Value::as_u64)
            .ok_or_else(|| keys.invalid(INDICES, "a list of block numbers"))?,
    };
    let modules: Vec<String> = match keys.get(MODULES) {
        None => [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ]
        .map(String::from)
        .to_vec(),
        Some(value) => list(value, |name| name.as_str().map(String::from))
            .ok_or_else(|| keys.invalid(MODULES, "a list of parts of layer names"))?,
    };
    for layer in layers {
        // `N.self_attn.q_proj`, what the public code searches for the parts.
        let start = format!("{prefix}layers.");
        let name = layer.name.strip_prefix(&start).unwrap_or(&layer.name);
        let name = name.to_string();
        let number = name
            .split('.')
            .next()
            .and_then(|number| number.parse().ok());
        let chosen = number.is_some_and(|number: u64| numbers.contains(&number))
            && modules.iter().any(|module| name.contains(module.as_str()));
        if !chosen {
            continue;
        }
        let smaller = layer.in_features.min(layer.out_features);
        let structure = Structure::Blast {
            blocks: blocks(&keys, &name)?,
            rank: rank(&keys, &name, smaller)?,
        };
        check_structure(layer, &structure)?;
        layer.structure = structure;
        layer.factors = FactorNames::BlastLlama;
    }
    Ok(())
}

fn rank(keys: &ConfigKeys<'_>, name: &str, smaller: usize) -> Result<usize, ModelError> {
    let default = match name.contains("self_attn") {
        true => 1024,
        false => 1488,
    };
    let Some(value) = keys.get(RANK) else {
        return Ok(default);
    };
    let value = of_layer(value, name);
    let rank = match value {
        Some(Value::Number(number)) if number.is_f64() => number
            .as_f64()
            .filter(|fraction| (0.0..=1.0).contains(fraction))
            .map(|fraction| (fraction * smaller as f64) as usize),
        Some(value) => value.as_u64().and_then(|rank| usize::try_from(rank).ok()),
        None => None,
    };
    rank.ok_or_else(|| keys.invalid(RANK, format!("a rank or a fraction for {name}")))
}

fn blocks(keys: &ConfigKeys<'_>, name: &str) -> Result<usize, ModelError> {
    let Some(mut value) = keys.get(BLOCKS) else {
        return Ok(4);
    };
    // Every save and load wraps it in one list more.
    while let Value::Array(values) = value
        && let [inner] = values.as_slice()
    {
        value = inner;
    }
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
    let blocks = match of_layer(value, name) {
        // Blocks of rows and of columns; the structure here has as many of both.
        Some(Value::Array(values)) => match values.as_slice() {
            [rows, columns] if rows == columns => count(rows),
            _ => None,
        },
        Some(value) => count(value),
        None => None,
    };
    blocks.ok_or_else(|| keys.invalid(BLOCKS, format!("one block count for {name}")))
}

/// The value for the layer `name`: that of the part of its name, where there is one per part.
fn of_layer<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(parts) => parts
            .iter()
            .find(|(part, _)| name.contains(part.as_str()))
            .map(|(_, value)| value),
        value => Some(value),
    }
}

fn list<T>(value: &Value, element: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(element).collect()
}
