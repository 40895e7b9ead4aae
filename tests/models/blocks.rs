//! Models block by block.

use burn::tensor::{Device, FloatDType, Tensor};
use burn_blr::BlrLinear;
use models::{
    AnyLanguageModel, BlockModel, BlockState, Checkpoint, Context, LanguageModel, ModelError, Vit,
    WeightLayout, linear_layers,
};

use crate::reference_case::root;
use crate::tiny_gpt2::{host, max_difference};

const IDS: [u32; 6] = [1, 5, 3, 2, 4, 7];

/// Through all blocks, and what comes behind them.
fn through(model: &dyn BlockModel, state: &BlockState) -> Vec<f32> {
    let mut state = state.clone();
    for block in 0..model.blocks().len() {
        state = model.apply_block(block, &state);
    }
    host(model.finish(&state))
}

fn language(family: &str, case: &str) -> (Checkpoint, AnyLanguageModel) {
    let checkpoint = Checkpoint::open(root(family).join(case)).unwrap();
    let model = AnyLanguageModel::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap();
    (checkpoint, model)
}

fn vit() -> (Checkpoint, Vit) {
    let checkpoint = Checkpoint::open(root("vit").join("hf_patch8")).unwrap();
    let model = Vit::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap();
    (checkpoint, model)
}

fn pixels(model: &Vit) -> Tensor<4> {
    let [height, width] = model.config().image_size;
    let count = 3 * height * width;
    let values: Vec<f32> = (0..count).map(|at| (at as f32 * 0.37).sin()).collect();
    Tensor::<1>::from_floats(values.as_slice(), &Device::flex()).reshape([1, 3, height, width])
}

/// Every layer has the weight that the checkpoint stores under the name at its place.
fn assert_in_the_order_of_the_checkpoint(checkpoint: &Checkpoint, model: &dyn BlockModel) {
    let listed = linear_layers(checkpoint).unwrap();
    let held: Vec<_> = model.stages().into_iter().flatten().flatten().collect();
    assert_eq!(listed.len(), held.len());
    for (listed, held) in listed.iter().zip(held) {
        let weight = match listed.layout {
            WeightLayout::InOut => held.to_dense().transpose(),
            WeightLayout::OutIn | WeightLayout::QueryKeyValue => held.to_dense(),
        };
        let stored = checkpoint.floats(&listed.weight_name()).unwrap();
        assert_eq!(host(weight), stored, "{}", listed.name);
    }
}

#[test]
fn a_language_model_block_by_block_is_the_model() {
    let gpt2 = crate::reference_case::cases("gpt2");
    let gpt2 = gpt2[0].file_name().unwrap().to_str().unwrap();
    for (family, case) in [("gpt2", gpt2), ("llama", "gqa_tied"), ("llama", "biases")] {
        let (checkpoint, model) = language(family, case);
        let ids = model.input_ids(&IDS, 2).unwrap();
        let whole = host(model.hidden(ids.clone(), Context::Empty).unwrap());
        let (model, states) = model.into_blocks([ids]).unwrap();
        assert_in_the_order_of_the_checkpoint(&checkpoint, model.as_ref());
        assert_eq!(
            through(model.as_ref(), &states[0]),
            whole,
            "{family} {case}"
        );
    }
}

#[test]
fn query_key_and_value_joined_in_place_leave_a_vit_as_it_is() {
    let (checkpoint, model) = vit();
    let pixels = pixels(&model);
    let whole = host(model.forward(pixels.clone()).unwrap());
    let (mut model, states) = model.into_blocks([pixels]).unwrap();
    assert_in_the_order_of_the_checkpoint(&checkpoint, model.as_ref());
    assert_eq!(through(model.as_ref(), &states[0]), whole);

    let copy = model.copy();
    let stages = model.stages();
    let qkv = &stages[1][0];
    let ids: Vec<_> = qkv.iter().map(|layer| layer.id()).collect();
    let weights = qkv.iter().map(|layer| layer.to_dense().transpose());
    let joined = BlrLinear::dense(Tensor::cat(weights.collect(), 1), None);
    model.replace_linear(&ids, joined).unwrap();
    assert_eq!(model.stages()[1][0].len(), 1);
    assert!(max_difference(&through(model.as_ref(), &states[0]), &whole) < 1e-5);

    // They are gone now, and the copy has them still.
    let dense = || BlrLinear::dense(Tensor::zeros([48, 48], &Device::flex()), None);
    let error = model.replace_linear(&ids, dense()).unwrap_err();
    assert!(matches!(error, ModelError::UnknownLayer), "{error}");
    assert_eq!(copy.stages()[1][0].len(), 3);
}

#[test]
fn a_replaced_layer_keeps_its_bias_and_changes_the_output() {
    let (_, model) = vit();
    let pixels = pixels(&model);
    let (mut model, states) = model.into_blocks([pixels]).unwrap();
    let whole = through(model.as_ref(), &states[0]);
    let stages = model.stages();
    let layer = stages[0][3][0];
    let (id, bias, (inputs, outputs)) = (layer.id(), layer.bias(), layer.features());
    let zero = BlrLinear::dense(Tensor::zeros([inputs, outputs], &Device::flex()), None);
    model.replace_linear(&[id], zero).unwrap();
    let stages = model.stages();
    assert_eq!(stages[0][3][0].bias().map(host), bias.map(host));
    assert!(max_difference(&through(model.as_ref(), &states[0]), &whole) > 1e-3);
}
