//! Our attention beside Burn's, on one CUDA GPU: a prompt of 1024 tokens through the heads of Llama 7B and of GPT-2 small, f16 (the
//! only type of 16 bits that Burn's flash kernel multiplies tiles in), causal, and all keys for ViT-B.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "a bench that cannot go on fails, and says why it was left out"
)]

use std::time::{Duration, Instant};

use burn::backend::ops::{AttentionModuleOptions, FloatTensorOps, IntTensorOps};
use burn::tensor::{Distribution, FloatDType, IntDType, Shape};
use burn_blr::network::{NetworkBackend, Visible};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::attention::{AttentionStrategy, attention};
use burn_cubecl::tensor::CubeTensor;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use cubecl::prelude::*;
use cubecl_cuda::{CudaDevice, CudaRuntime};
use cubek::attention::forward::routines::blackbox_accelerated::BlackboxAcceleratedStrategy;

type Cuda = CubeBackend<CudaRuntime>;

/// Name, heads, tokens, width, causal.
const SHAPES: [(&str, usize, usize, usize, bool); 3] = [
    ("llama7b", 32, 1024, 128, true),
    ("gpt2s", 12, 384, 64, true),
    ("vit_b", 12, 197, 64, false),
];

/// The planes that Burn's tuner tries.
const PLANES: [u8; 3] = [2, 4, 8];

fn attentions(criterion: &mut Criterion) {
    if std::panic::catch_unwind(|| CudaRuntime::client(&CudaDevice::default())).is_err() {
        eprintln!("skipped: no CUDA device answers");
        return;
    }
    let device = CudaDevice::default();
    let client = CudaRuntime::client(&device);
    for (name, heads, tokens, width, causal) in SHAPES {
        let mut group = criterion.benchmark_group(format!("attention/{name}"));
        let random = || {
            let shape = Shape::new([1, heads, tokens, width]);
            Cuda::float_random(
                shape,
                Distribution::Normal(0.0, 1.0),
                &device,
                FloatDType::F16,
            )
        };
        let (query, key, value) = (random(), random(), random());
        let positions = Cuda::int_arange(0..tokens as i64, &device, IntDType::I32);
        let visible = || match causal {
            true => Visible::Causal {
                queries: positions.clone(),
                keys: positions.clone(),
            },
            false => Visible::All,
        };
        let scale = 1.0 / (width as f64).sqrt();
        let time = |calls: u64, call: &dyn Fn() -> CubeTensor<CudaRuntime>| -> Duration {
            cubecl::future::block_on(client.sync()).unwrap();
            let start = Instant::now();
            for _ in 0..calls {
                call();
            }
            cubecl::future::block_on(client.sync()).unwrap();
            start.elapsed()
        };
        group.bench_function("blr", |bencher| {
            bencher.iter_custom(|calls| {
                time(calls, &|| {
                    let (query, key, value) = (query.clone(), key.clone(), value.clone());
                    Cuda::multi_head_attention(query, key, value, visible(), scale)
                })
            });
        });
        let burn = |strategy: &dyn Fn() -> AttentionStrategy| {
            let options = AttentionModuleOptions {
                is_causal: causal,
                ..AttentionModuleOptions::default()
            };
            let (query, key, value) = (query.clone(), key.clone(), value.clone());
            attention(query, key, value, None, None, options, strategy()).unwrap()
        };
        group.bench_function("burn, composition", |bencher| {
            bencher.iter_custom(|calls| time(calls, &|| burn(&|| AttentionStrategy::Fallback)));
        });
        for num_planes in PLANES {
            let strategy = || {
                AttentionStrategy::FlashBlackboxAccelerated(BlackboxAcceleratedStrategy {
                    num_planes,
                    seq_q: 1,
                    seq_kv: 1,
                })
            };
            let id = BenchmarkId::new("burn, flash, planes", num_planes);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|calls| time(calls, &|| burn(&strategy)));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = attentions
}
criterion_main!(benches);
