//! Small models of every family.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Distribution, FloatDType, Tensor};
use burn_blr::Method;
use models::{
    AnyLanguageModel, Dit, DitConfig, Gpt2, Gpt2Config, Llama, LlamaConfig, Plan, Vit, VitConfig,
};

pub const VOCAB: usize = 96;

pub fn llama(device: &Device, dtype: FloatDType) -> AnyLanguageModel {
    let config = LlamaConfig {
        vocab_size: VOCAB,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 64,
        ..LlamaConfig::llama_3_2_1b()
    };
    let plan = Plan::keep(Method::Blast, 0.6);
    Llama::init(&config, Some(&plan), device, dtype)
        .unwrap()
        .into()
}

pub fn gpt2(device: &Device, dtype: FloatDType) -> AnyLanguageModel {
    let config = Gpt2Config {
        vocab_size: VOCAB,
        n_positions: 64,
        n_embd: 48,
        n_layer: 2,
        n_head: 3,
        ..Gpt2Config::gpt2_small()
    };
    let plan = Plan::keep(Method::Monarch, 0.6);
    Gpt2::init(&config, Some(&plan), device, dtype)
        .unwrap()
        .into()
}

/// Of images of 32 x 32, in 4 x 4 patches.
pub fn vit(device: &Device, dtype: FloatDType) -> Vit {
    let config = VitConfig {
        image_size: [32, 32],
        patch_size: [8, 8],
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        ..VitConfig::vit_b_16()
    };
    let plan = Plan::keep(Method::Blast, 0.6);
    Vit::init(&config, Some(&plan), device, dtype).unwrap()
}

/// Of latents of 8 x 8.
pub fn dit(device: &Device, dtype: FloatDType) -> Dit {
    let config = DitConfig {
        input_size: 8,
        hidden_size: 48,
        depth: 2,
        num_heads: 4,
        num_classes: 10,
        ..DitConfig::dit_xl_2()
    };
    let plan = Plan::keep(Method::LowRank, 0.6);
    Dit::init(&config, Some(&plan), device, dtype).unwrap()
}

/// Normal numbers.
pub fn noise<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// The values on the host.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(FloatDType::F32).try_into_vec_as().unwrap()
}

/// Largest difference that rounding explains, of values around one.
pub fn tolerance(dtype: FloatDType) -> f32 {
    match dtype {
        FloatDType::F32 => 2e-3,
        _ => 5e-2,
    }
}

/// Fails unless all values are finite and differ by no more than rounding explains.
pub fn assert_close(found: &[f32], expected: &[f32], dtype: FloatDType, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= tolerance(dtype) * (1.0 + expected.abs()),
            "{what}: {found}, expected {expected}"
        );
    }
}

/// The tests of this program one at a time: see its top.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
