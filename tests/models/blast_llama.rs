//! Checkpoints in the layout published with BLAST (arXiv:2410.21262). That their logits are right is
//! part of the comparison with `transformers`.

use burn::tensor::{Device, FloatDType};
use burn_blr::Structure;
use models::{Checkpoint, Family, LinearLayer, Llama, ModelError, linear_layers};
use rstest::rstest;
use serde_json::{Value, json};

use crate::reference_case::CaseCopy;

fn layers(copy: &CaseCopy) -> Vec<LinearLayer> {
    linear_layers(&Checkpoint::open(copy.path()).unwrap()).unwrap()
}

fn blast(rank: usize) -> Structure {
    Structure::Blast { blocks: 4, rank }
}

#[test]
fn layers_are_listed_with_the_structures_of_the_configuration() {
    let copy = CaseCopy::new("llama", "blast_llama");
    let checkpoint = Checkpoint::open(copy.path()).unwrap();
    assert_eq!(checkpoint.family(), Family::Llama);
    let layers = linear_layers(&checkpoint).unwrap();
    let structures: Vec<_> = layers.iter().map(|layer| layer.structure).collect();
    assert_eq!(structures[..7], [Structure::Dense; 7]);
    let expected = [
        blast(10),
        blast(10),
        blast(7),
        Structure::Dense, // o_proj is no target
        blast(12),
        blast(12),
        blast(12),
    ];
    assert_eq!(structures[7..], expected);
    for layer in &layers {
        for (tensor, shape) in layer.weight_tensors(&layer.structure) {
            assert_eq!(checkpoint.entry(&tensor).unwrap().shape, shape, "{tensor}");
        }
    }
}

#[rstest]
#[case::plain(json!(4))]
#[case::saved_once(json!([4]))]
#[case::saved_twice(json!([[4]]))]
#[case::rows_and_columns(json!([[4, 4]]))]
#[case::per_module(json!({"self_attn": 4, "mlp": 4}))]
fn every_spelling_of_a_block_count_is_read(#[case] blocks: Value) {
    let copy = CaseCopy::new("llama", "blast_llama");
    copy.edit_config(|config| config["blast_num_blocks"] = blocks);
    assert_eq!(layers(&copy)[7].structure, blast(10));
}

#[test]
fn ranks_are_numbers_or_fractions_of_the_smaller_width() {
    let copy = CaseCopy::new("llama", "blast_llama");
    copy.edit_config(|config| config["blast_rank"] = json!(9));
    assert_eq!(layers(&copy)[13].structure, blast(9));
    copy.edit_config(|config| config["blast_rank"] = json!(0.26));
    assert_eq!(layers(&copy)[13].structure, blast(12)); // 0.26 of 48 is 12.48
}

#[test]
fn keys_that_are_not_set_take_the_defaults_of_the_published_code() {
    let copy = CaseCopy::new("llama", "blast_llama");
    copy.edit_config(|config| {
        let config = config.as_object_mut().unwrap();
        for key in ["indices", "target_modules", "blast_num_blocks"] {
            config.remove(key);
        }
    });
    let found = layers(&copy);
    assert!(
        found
            .iter()
            .all(|layer| layer.structure.method().is_some() && layer.structure.blocks() == 4)
    );
}

#[rstest]
#[case::rows_unlike_columns("blast_num_blocks", json!([[2, 4]]), "one block count for 1.self_attn.q_proj")]
#[case::blocks_of_text("blast_num_blocks", json!("four"), "one block count")]
#[case::no_rank("blast_rank", json!({"k_proj": 10}), "a rank or a fraction for 1.self_attn.q_proj")]
#[case::fraction_above_one("blast_rank", json!(1.5), "a rank or a fraction")]
#[case::indices("indices", json!("all"), "a list of block numbers")]
#[case::modules("target_modules", json!([3]), "a list of parts of layer names")]
fn a_bad_value_is_named_with_what_was_expected(
    #[case] key: &str,
    #[case] value: Value,
    #[case] expected: &str,
) {
    let copy = CaseCopy::new("llama", "blast_llama");
    copy.edit_config(|config| config[key] = value);
    let error = linear_layers(&Checkpoint::open(copy.path()).unwrap()).unwrap_err();
    assert!(
        matches!(&error, ModelError::InvalidKey { key: found, .. } if found == key),
        "{error}"
    );
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn a_factor_of_another_shape_is_named() {
    let copy = CaseCopy::new("llama", "blast_llama");
    copy.edit_config(|config| config["blast_rank"]["v_proj"] = json!(8));
    let checkpoint = Checkpoint::open(copy.path()).unwrap();
    let error = Llama::load(&checkpoint, &Device::flex(), FloatDType::F32).unwrap_err();
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, found, expected, .. }
            if tensor == "model.layers.1.self_attn.v_proj.B"
                && *found == [4, 12, 7] && *expected == [4, 12, 8]),
        "{error}"
    );
    copy.edit_config(|config| config["blast_num_blocks"] = json!(5));
    let error = linear_layers(&checkpoint_of(&copy)).unwrap_err();
    assert!(matches!(error, ModelError::Structure { .. }), "{error}");
}

fn checkpoint_of(copy: &CaseCopy) -> Checkpoint {
    Checkpoint::open(copy.path()).unwrap()
}
