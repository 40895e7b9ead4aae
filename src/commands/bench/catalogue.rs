//! The layers that are timed: those of arXiv:2512.20861 at its block counts, ranks and tokens.

use burn_blr::{Method, OutputOrder, Structure};
use serde::Serialize;

use crate::arguments::TokenCount;
use crate::error::CommandError;
use crate::output::Table;

/// One linear layer of a network.
pub struct Layer {
    /// Network and layer.
    pub name: &'static str,
    /// Tokens of the paper's measurement.
    pub tokens: usize,
    pub in_features: usize,
    pub out_features: usize,
    blast_blocks: usize,
    monarch_blocks: usize,
    rank: usize,
    monarch_rank: usize,
}

const fn layer(
    name: &'static str,
    tokens: usize,
    widths: (usize, usize),
    blocks: (usize, usize),
    ranks: (usize, usize),
) -> Layer {
    Layer {
        name,
        tokens,
        in_features: widths.0,
        out_features: widths.1,
        blast_blocks: blocks.0,
        monarch_blocks: blocks.1,
        rank: ranks.0,
        monarch_rank: ranks.1,
    }
}

/// Widths are (in, out); blocks are (BLAST, Monarch), as are ranks. Low-rank takes BLAST's rank.
///
/// The paper has no Monarch for DiT-XL/2; block count 9 needs a rank that 9 divides.
pub const LAYERS: [Layer; 17] = [
    layer("dit_xl.adaln", 16384, (1152, 6912), (9, 9), (256, 252)),
    layer("dit_xl.fc1", 16384, (1152, 4608), (9, 9), (256, 252)),
    layer("dit_xl.qkv_proj", 16384, (1152, 3456), (9, 9), (384, 378)),
    layer("gpt2s.c_attn", 384, (768, 2304), (6, 4), (192, 192)),
    layer("gpt2s.mlp_c_fc", 384, (768, 3072), (6, 4), (192, 192)),
    layer("gpt2s.mlp_c_proj", 384, (3072, 768), (6, 4), (192, 192)),
    layer(
        "llama1b.down_proj",
        1024,
        (8192, 2048),
        (16, 16),
        (768, 768),
    ),
    layer(
        "llama1b.gate_proj",
        1024,
        (2048, 8192),
        (16, 16),
        (512, 512),
    ),
    layer("llama1b.qo_proj", 1024, (2048, 2048), (16, 16), (256, 256)),
    layer("llama1b.up_proj", 1024, (2048, 8192), (16, 16), (768, 768)),
    layer(
        "llama7b.down_proj",
        1024,
        (11008, 4096),
        (16, 16),
        (1488, 1536),
    ),
    layer(
        "llama7b.gate_up_proj",
        1024,
        (4096, 11008),
        (16, 16),
        (1488, 1536),
    ),
    layer(
        "llama7b.qkvo_proj",
        1024,
        (4096, 4096),
        (16, 16),
        (1024, 1024),
    ),
    layer(
        "vit_b_patch8_224.attn_qkv",
        785,
        (768, 2304),
        (3, 4),
        (128, 128),
    ),
    layer(
        "vit_b_patch16_224.attn_qkv",
        197,
        (768, 2304),
        (3, 4),
        (128, 128),
    ),
    layer(
        "vit_b_patch16_224.mlp_fc1",
        197,
        (768, 3072),
        (3, 4),
        (128, 128),
    ),
    layer(
        "vit_b_patch16_224.mlp_fc2",
        197,
        (3072, 768),
        (3, 4),
        (128, 128),
    ),
];

/// The layers whose name contains one of `texts`, or all where there is none.
pub fn containing(texts: &[String]) -> Result<Vec<&'static Layer>, CommandError> {
    let names = || LAYERS.iter().map(|layer| layer.name);
    if let Some(text) = texts
        .iter()
        .find(|text| !names().any(|name| name.contains(text.as_str())))
    {
        return Err(CommandError::Flag {
            flag: "layer",
            found: text.clone(),
            expected: format!("part of one of {}", names().collect::<Vec<_>>().join(", ")),
        });
    }
    let chosen = |layer: &&Layer| {
        texts.is_empty() || texts.iter().any(|text| layer.name.contains(text.as_str()))
    };
    Ok(LAYERS.iter().filter(chosen).collect())
}

impl Layer {
    /// The counts that are asked for, each once where they follow one another.
    pub fn token_counts(&self, asked: &[TokenCount]) -> Vec<usize> {
        let mut counts: Vec<usize> = asked
            .iter()
            .map(|count| match count {
                TokenCount::Paper => self.tokens,
                TokenCount::Count(count) => *count,
            })
            .collect();
        counts.dedup();
        counts
    }

    /// The layer as `method`, or as dense.
    pub fn structure(&self, method: Option<Method>) -> Structure {
        match method {
            None => Structure::Dense,
            Some(Method::LowRank) => Structure::LowRank { rank: self.rank },
            Some(Method::Monarch) => Structure::Monarch {
                blocks: self.monarch_blocks,
                rank: self.monarch_rank,
                order: OutputOrder::Contiguous,
            },
            Some(Method::Blast) => Structure::Blast {
                blocks: self.blast_blocks,
                rank: self.rank,
            },
        }
    }
}

/// The layers as other programs read them.
#[derive(Serialize)]
pub struct Listing {
    layers: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    layer: &'static str,
    tokens: usize,
    #[serde(rename = "in")]
    in_features: usize,
    #[serde(rename = "out")]
    out_features: usize,
    low_rank_rank: usize,
    monarch_blocks: usize,
    monarch_rank: usize,
    blast_blocks: usize,
    blast_rank: usize,
}

/// What `--list --json` writes.
pub fn listing(layers: &[&Layer]) -> Listing {
    let listed = |layer: &&Layer| Listed {
        layer: layer.name,
        tokens: layer.tokens,
        in_features: layer.in_features,
        out_features: layer.out_features,
        low_rank_rank: layer.rank,
        monarch_blocks: layer.monarch_blocks,
        monarch_rank: layer.monarch_rank,
        blast_blocks: layer.blast_blocks,
        blast_rank: layer.rank,
    };
    Listing {
        layers: layers.iter().map(listed).collect(),
    }
}

/// What `--list` prints.
pub fn table(layers: &[&Layer]) -> Table {
    let mut table = Table::new([
        "layer",
        "tokens",
        "in",
        "out",
        "low-rank r",
        "monarch b, r",
        "blast b, r",
    ]);
    for layer in layers {
        table.row([
            layer.name.to_string(),
            layer.tokens.to_string(),
            layer.in_features.to_string(),
            layer.out_features.to_string(),
            layer.rank.to_string(),
            format!("{}, {}", layer.monarch_blocks, layer.monarch_rank),
            format!("{}, {}", layer.blast_blocks, layer.rank),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_can_have_every_structure() {
        for layer in LAYERS {
            for method in [
                None,
                Some(Method::LowRank),
                Some(Method::Monarch),
                Some(Method::Blast),
            ] {
                let structure = layer.structure(method);
                let fits = structure.validate(layer.in_features, layer.out_features);
                assert_eq!(fits, Ok(()), "{} as {structure}", layer.name);
            }
        }
    }
}
