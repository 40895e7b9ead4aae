//! Models of the four families from code, without a checkpoint: dense, and with BLAST layers.
//!
//! `cargo run --release --example build_model`

#![allow(clippy::print_stdout, reason = "an example prints what it found")]

use std::error::Error;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use burn_blr::Method;
use models::{
    Dit, DitConfig, Gpt2, Gpt2Config, LanguageModel, Llama, LlamaConfig, Plan, Vit, VitConfig,
};

/// A model that was built twice.
pub struct Built {
    /// The family.
    pub family: &'static str,
    /// Parameters with dense layers and with BLAST layers.
    pub parameters: [usize; 2],
    /// Shape of the BLAST model's output.
    pub output: Vec<usize>,
}

/// Builds one small model of each family on `device`.
///
/// # Errors
///
/// Those of building and running a model.
pub fn build(device: &Device) -> Result<Vec<Built>, Box<dyn Error>> {
    Ok(vec![
        gpt2(device)?,
        llama(device)?,
        vit(device)?,
        dit(device)?,
    ])
}

fn gpt2(device: &Device) -> Result<Built, Box<dyn Error>> {
    // `gpt2_small()` as it is would be the network of 124 million parameters.
    let config = Gpt2Config {
        vocab_size: 512,
        n_embd: 192,
        n_layer: 2,
        ..Gpt2Config::gpt2_small()
    };
    let dense = Gpt2::init(&config, None, device, FloatDType::F32)?;

    // All linear layers of the blocks become BLAST with half of their parameters. A plan can also
    // come from a preset, `Plan::preset("gpt2s", Method::Blast)?`, or a file, `Plan::open(path)?`.
    let plan = Plan::keep(Method::Blast, 0.5);
    let model = Gpt2::init(&config, Some(&plan), device, FloatDType::F32)?;
    let logits = model.forward(model.input_ids(&[1u32, 2, 3], 1)?)?;

    Ok(Built {
        family: "gpt2",
        parameters: [dense.num_params(), model.num_params()],
        output: logits.dims().to_vec(),
    })
}

fn llama(device: &Device) -> Result<Built, Box<dyn Error>> {
    let config = LlamaConfig {
        vocab_size: 512,
        hidden_size: 256,
        intermediate_size: 1024,
        num_hidden_layers: 2,
        num_attention_heads: 8,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 256,
        ..LlamaConfig::llama_3_2_1b()
    };
    let plan = Plan::keep(Method::Blast, 0.5);
    let dense = Llama::init(&config, None, device, FloatDType::F32)?;
    let model = Llama::init(&config, Some(&plan), device, FloatDType::F32)?;
    let logits = model.forward(model.input_ids(&[1u32, 2, 3], 1)?)?;
    Ok(Built {
        family: "llama",
        parameters: [dense.num_params(), model.num_params()],
        output: logits.dims().to_vec(),
    })
}

fn vit(device: &Device) -> Result<Built, Box<dyn Error>> {
    let config = VitConfig {
        hidden_size: 192,
        num_hidden_layers: 2,
        intermediate_size: 768,
        num_labels: 10,
        ..VitConfig::vit_b_16()
    };
    let plan = Plan::keep(Method::Blast, 0.5);
    let dense = Vit::init(&config, None, device, FloatDType::F32)?;
    let model = Vit::init(&config, Some(&plan), device, FloatDType::F32)?;
    let logits = model.forward(Tensor::ones([1, 3, 224, 224], device))?;
    Ok(Built {
        family: "vit",
        parameters: [dense.num_params(), model.num_params()],
        output: logits.dims().to_vec(),
    })
}

fn dit(device: &Device) -> Result<Built, Box<dyn Error>> {
    let config = DitConfig {
        input_size: 8,
        hidden_size: 192,
        depth: 2,
        num_heads: 4,
        ..DitConfig::dit_xl_2()
    };
    let plan = Plan::keep(Method::Blast, 0.5);
    let dense = Dit::init(&config, None, device, FloatDType::F32)?;
    let model = Dit::init(&config, Some(&plan), device, FloatDType::F32)?;
    let latents = Tensor::ones([1, config.in_channels, 8, 8], device);
    let noise = model.forward(latents, model.timesteps(&[999]), model.classes(&[207])?)?;
    Ok(Built {
        family: "dit",
        parameters: [dense.num_params(), model.num_params()],
        output: noise.dims().to_vec(),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = burn_blr::cuda::first_device().unwrap_or_else(Device::flex);
    println!("family  dense parameters  with BLAST  output");
    for built in build(&device)? {
        let [dense, blast] = built.parameters;
        println!(
            "{:6}  {dense:16}  {blast:10}  {:?}",
            built.family, built.output
        );
    }
    Ok(())
}
