//! Tests of the crate `models`: checkpoints, plans, GPT-2, Llama, ViT, DiT, images, generation and evaluation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot set itself up should fail where it stands"
)]

mod activation;
mod autoencoder_kl;
mod blast_llama;
mod blocks;
mod blr_checkpoint;
mod checkpoint;
mod demo_checkpoint;
#[path = "../harness/devices.rs"]
mod devices;
mod dit;
mod generation;
mod gpt2;
mod gpt2_config;
mod images;
mod llama;
mod llama_config;
mod plan;
mod reference_case;
mod shards;
mod text_loss;
mod tiny_gpt2;
mod tokenizer;
mod transformers_parity;
mod vit;
mod vit_config;
