//! The three products against dense on the CPU backend, at GPT-2's `mlp.c_fc` and `mlp.c_proj`.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on fails"
)]

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use burn_blr::{BlrLinear, OutputOrder, Structure};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Name, in, out: the widths of GPT-2 small.
const LAYERS: [(&str, usize, usize); 2] = [
    ("gpt2s.mlp_c_fc", 768, 3072),
    ("gpt2s.mlp_c_proj", 3072, 768),
];

/// One token is decoding, 384 the prefill of arXiv:2512.20861.
const TOKENS: [usize; 2] = [1, 384];

/// Dense, and the paper's blocks and ranks.
const STRUCTURES: [Structure; 4] = [
    Structure::Dense,
    Structure::LowRank { rank: 192 },
    Structure::Monarch {
        blocks: 4,
        rank: 192,
        order: OutputOrder::Contiguous,
    },
    Structure::Blast {
        blocks: 6,
        rank: 192,
    },
];

fn products(criterion: &mut Criterion) {
    let device = Device::flex();
    for (name, in_features, out_features) in LAYERS {
        for tokens in TOKENS {
            let mut group = criterion.benchmark_group(format!("{name}/{tokens}"));
            group.throughput(Throughput::Elements(tokens as u64));
            let normal = Distribution::Normal(0.0, 1.0);
            let input = Tensor::<2>::random([tokens, in_features], normal, &device);
            for structure in STRUCTURES {
                let layer =
                    BlrLinear::init(structure, in_features, out_features, true, &device).unwrap();
                group.bench_with_input(
                    BenchmarkId::from_parameter(structure),
                    &input,
                    |bencher, input| {
                        bencher.iter(|| black_box(layer.forward(black_box(input.clone()))));
                    },
                );
            }
            group.finish();
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
