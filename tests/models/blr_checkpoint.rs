//! Checkpoints whose layers are stored as factors, against the dense weights they stand for.

use burn_blr::{Method, OutputOrder, Structure};
use models::{BlrLayer, BlrSection, Checkpoint, Gpt2, LanguageModel, ModelError, linear_layers};
use rstest::rstest;
use serde_json::{Value, json};

use crate::tiny_gpt2::{EMBD, TinyGpt2, host, max_difference};

const NAME: &str = "transformer.h.1.attn.c_attn";
const IN: usize = EMBD;
const OUT: usize = 3 * EMBD;

const LOW_RANK: Structure = Structure::LowRank { rank: 5 };
const MONARCH: Structure = Structure::Monarch {
    blocks: 3,
    rank: 6,
    order: OutputOrder::Contiguous,
};
const INTERLEAVED: Structure = Structure::Monarch {
    blocks: 3,
    rank: 6,
    order: OutputOrder::Interleaved,
};
const BLAST: Structure = Structure::Blast { blocks: 3, rank: 5 };

/// Replaces one layer by random factors and returns its dense weight, row-major `[in, out]`,
/// computed from the factors by the formulas of the structures.
fn replace(tiny: &mut TinyGpt2, structure: Structure) -> Vec<f32> {
    tiny.tensors.remove(&format!("{NAME}.weight"));
    let entry = BlrLayer::new(&structure, Some(0.25)).unwrap();
    tiny.config["blr"] = json!({"version": 1, "layers": {NAME: entry}});
    let b = structure.blocks();
    let (rows, columns) = (OUT / b, IN / b); // of a block
    let mut factor =
        |name: &str, shape: &[usize]| tiny.random(&format!("{NAME}.{name}"), shape, 0.6, 0.0);
    let mut dense = vec![0.0; IN * OUT];
    match structure {
        Structure::LowRank { rank } => {
            let u = factor("low_rank.u", &[OUT, rank]);
            let v = factor("low_rank.v", &[rank, IN]);
            for o in 0..OUT {
                for i in 0..IN {
                    dense[i * OUT + o] = (0..rank).map(|k| u[o * rank + k] * v[k * IN + i]).sum();
                }
            }
        }
        Structure::Monarch { rank, order, .. } => {
            let right = factor("monarch.right", &[b, rank, columns]);
            let left = factor("monarch.left", &[b, rows, rank]);
            for (j, q, i) in block_rows(b, rows) {
                let o = match order {
                    OutputOrder::Contiguous => j * rows + q,
                    OutputOrder::Interleaved => q * b + j,
                };
                for c in 0..columns {
                    let part = |t: usize| {
                        left[(j * rows + q) * rank + i * rank / b + t]
                            * right[(i * rank + j * rank / b + t) * columns + c]
                    };
                    dense[(i * columns + c) * OUT + o] = (0..rank / b).map(part).sum();
                }
            }
        }
        Structure::Blast { rank, .. } => {
            let u = factor("blast.u", &[b, rows, rank]);
            let s = factor("blast.s", &[b, b, rank]);
            let v = factor("blast.v", &[b, rank, columns]);
            for (j, q, i) in block_rows(b, rows) {
                for c in 0..columns {
                    let part = |k: usize| {
                        u[(j * rows + q) * rank + k]
                            * s[(j * b + i) * rank + k]
                            * v[(i * rank + k) * columns + c]
                    };
                    dense[(i * columns + c) * OUT + j * rows + q] = (0..rank).map(part).sum();
                }
            }
        }
        Structure::Dense => panic!("not a replacement"),
    }
    dense
}

/// Output block, row in it, and input block.
fn block_rows(b: usize, rows: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..b).flat_map(move |j| (0..rows).flat_map(move |q| (0..b).map(move |i| (j, q, i))))
}

fn logits(model: &Gpt2) -> Vec<f32> {
    let ids = model.input_ids(&[3, 1, 4, 1, 5, 9, 2, 6], 2).unwrap();
    host(model.forward(ids).unwrap())
}

#[rstest]
#[case::low_rank(LOW_RANK)]
#[case::monarch(MONARCH)]
#[case::monarch_interleaved(INTERLEAVED)]
#[case::blast(BLAST)]
fn a_replaced_layer_computes_as_the_dense_weight_it_stands_for(#[case] structure: Structure) {
    let mut replaced = TinyGpt2::new();
    let weight = replace(&mut replaced, structure);
    let mut dense = TinyGpt2::new();
    dense.set(&format!("{NAME}.weight"), &[IN, OUT], &weight);
    let (replaced, dense) = (replaced.model(), dense.model());
    assert_eq!(
        replaced.blocks[1].attention.qkv.layers()[0].structure(),
        structure
    );
    let difference = max_difference(&logits(&replaced), &logits(&dense));
    assert!(difference < 5e-5, "{difference}");
    let original = TinyGpt2::new().model();
    assert!(max_difference(&logits(&original), &logits(&dense)) > 0.05);
}

#[rstest]
#[case(LOW_RANK)]
#[case(INTERLEAVED)]
#[case(BLAST)]
fn a_replaced_layer_is_listed_with_its_structure(#[case] structure: Structure) {
    let mut tiny = TinyGpt2::new();
    replace(&mut tiny, structure);
    let dir = tiny.to_dir();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.blr().layers[NAME].relative_error, Some(0.25));
    let layers = linear_layers(&checkpoint).unwrap();
    for layer in &layers {
        let expected = if layer.name == NAME {
            structure
        } else {
            Structure::Dense
        };
        assert_eq!(layer.structure, expected);
        for (tensor, shape) in layer.weight_tensors(&layer.structure) {
            assert_eq!(checkpoint.entry(&tensor).unwrap().shape, shape);
        }
    }
}

#[test]
fn the_section_is_written_as_it_is_documented() {
    let section = BlrSection {
        part: false,
        version: 1,
        layers: [
            (
                "a".to_string(),
                BlrLayer::new(&INTERLEAVED, Some(0.5)).unwrap(),
            ),
            ("b".to_string(), BlrLayer::new(&BLAST, None).unwrap()),
        ]
        .into(),
    };
    let expected = json!({"version": 1, "layers": {
        "a": {"method": "monarch", "blocks": 3, "rank": 6, "output_order": "interleaved",
              "relative_error": 0.5},
        "b": {"method": "blast", "blocks": 3, "rank": 5},
    }});
    assert_eq!(serde_json::to_value(&section).unwrap(), expected);
    assert_eq!(
        serde_json::from_value::<BlrSection>(expected).unwrap(),
        section
    );
    assert_eq!(BlrLayer::new(&Structure::Dense, None), None);
}

#[test]
fn a_monarch_layer_without_an_order_is_contiguous() {
    let entry: BlrLayer =
        serde_json::from_value(json!({"method": "monarch", "blocks": 3, "rank": 6})).unwrap();
    assert_eq!(entry.method, Method::Monarch);
    assert_eq!(entry.structure(), MONARCH);
}

#[rstest]
#[case::later_version(json!({"version": 2, "layers": {}}), "blr.version", "expected 1")]
#[case::no_version(json!({"layers": {}}), "blr.version", "not set")]
#[case::no_layers(json!({"version": 1}), "blr.layers", "expected an object")]
#[case::unknown_method(json!({"version": 1, "layers": {NAME: {"method": "butterfly", "blocks": 1, "rank": 2}}}), NAME, "butterfly")]
#[case::no_rank(json!({"version": 1, "layers": {NAME: {"method": "blast", "blocks": 3}}}), NAME, "rank")]
#[case::unknown_key(json!({"version": 1, "layers": {NAME: {"method": "blast", "blocks": 3, "rank": 2, "rnk": 1}}}), NAME, "rnk")]
#[case::unknown_order(json!({"version": 1, "layers": {NAME: {"method": "monarch", "blocks": 3, "rank": 3, "output_order": "mixed"}}}), NAME, "mixed")]
#[case::unknown_layer(json!({"version": 1, "layers": {"lm_head": {"method": "blast", "blocks": 1, "rank": 2}}}), "lm_head", "not a replaceable layer")]
#[case::blocks_do_not_divide(json!({"version": 1, "layers": {NAME: {"method": "blast", "blocks": 5, "rank": 2}}}), NAME, "5")]
#[case::blocks_of_zero(json!({"version": 1, "layers": {NAME: {"method": "monarch", "blocks": 0, "rank": 2}}}), NAME, "0")]
fn a_section_that_cannot_be_used_is_refused(
    #[case] section: Value,
    #[case] names: &str,
    #[case] says: &str,
) {
    let mut tiny = TinyGpt2::new();
    tiny.config["blr"] = section;
    let text = tiny.error().to_string();
    assert!(text.contains(names) && text.contains(says), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn a_factor_of_another_shape_is_named() {
    let mut tiny = TinyGpt2::new();
    replace(&mut tiny, BLAST);
    tiny.random(&format!("{NAME}.blast.s"), &[5, 3, 3], 0.5, 0.0);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::TensorShape { tensor, found, expected, .. }
            if tensor.ends_with("blast.s") && *found == [5, 3, 3] && *expected == [3, 3, 5]),
        "{error}"
    );
}

#[test]
fn a_dense_weight_beside_its_factors_is_unused() {
    let mut tiny = TinyGpt2::new();
    replace(&mut tiny, LOW_RANK);
    tiny.random(&format!("{NAME}.weight"), &[IN, OUT], 0.5, 0.0);
    let error = tiny.error();
    assert!(
        matches!(&error, ModelError::UnusedTensor { tensor, .. } if tensor.ends_with("c_attn.weight")),
        "{error}"
    );
}
