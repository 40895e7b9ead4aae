//! The examples do what they say.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    dead_code,
    reason = "a test that cannot go on fails, tests have no documentation, and nobody calls `main`"
)]

#[path = "../../examples/build_model.rs"]
mod build_model;
#[path = "../../examples/onnx/main.rs"]
mod onnx;
#[path = "../../examples/swap_layers.rs"]
mod swap_layers;

use burn::tensor::Device;
use burn_blr::Method;

#[test]
fn a_model_of_each_family_is_built_with_half_of_its_layers_parameters() {
    let built = build_model::build(&Device::flex()).unwrap();
    let outputs: Vec<_> = built.iter().map(|built| built.output.as_slice()).collect();
    assert_eq!(
        outputs,
        [&[1, 3, 512][..], &[1, 3, 512], &[1, 10], &[1, 8, 8, 8]]
    );
    for built in built {
        let [dense, blast] = built.parameters;
        let kept = blast as f64 / dense as f64;
        assert!((0.4..0.8).contains(&kept), "{}: {kept}", built.family);
    }
}

#[test]
fn the_layers_of_a_model_of_ones_own_are_swapped_and_trained() {
    let swapped = swap_layers::swap(&Device::flex()).unwrap();
    assert!(swapped.taken_over < 1e-5, "{swapped:?}");
    let [before, after] = swapped.parameters;
    assert!(after * 10 < before * 6, "{swapped:?}");
    // Random weights have no low rank, and BLAST keeps less than half of their numbers.
    assert!(
        swapped.weight_errors.iter().all(|error| *error < 0.7),
        "{swapped:?}"
    );
    let [first, last] = swapped.losses;
    assert!(last < 0.7 * first, "{swapped:?}");
}

#[test]
fn the_model_from_onnx_computes_what_onnxruntime_does_and_takes_every_structure() {
    let rows = onnx::run(0.5, &Device::flex()).unwrap();
    let [dense, low_rank, monarch, blast] = rows.as_slice() else {
        unreachable!("{rows:?}");
    };
    let exported = std::fs::read_to_string("examples/onnx/digits.json").unwrap();
    let exported: serde_json::Value = serde_json::from_str(&exported).unwrap();
    assert!(dense.difference < 1e-4, "{dense:?}");
    let accuracy = exported["accuracy"].as_f64().unwrap();
    assert!((dense.accuracy - accuracy).abs() < 1e-9, "{dense:?}");
    // One parameter more is a constant of the graph, what queries and keys are scaled with.
    let parameters = exported["parameters"].as_u64().unwrap() as usize;
    assert_eq!(dense.parameters, parameters + 1);
    assert_eq!(blast.method, Some(Method::Blast));
    for row in [low_rank, monarch, blast] {
        assert!(row.parameters * 10 < dense.parameters * 6, "{row:?}");
    }
    assert!(blast.weight_error < low_rank.weight_error, "{rows:?}");
    assert!(
        low_rank.accuracy > 0.95 && blast.accuracy > 0.95,
        "{rows:?}"
    );
    assert!(monarch.accuracy > 0.85, "{rows:?}");
}

#[test]
fn with_few_parameters_blast_keeps_more_of_the_model_from_onnx_than_low_rank() {
    let rows = onnx::run(0.3, &Device::flex()).unwrap();
    let accuracy = |method| {
        rows.iter()
            .find(|row| row.method == Some(method))
            .unwrap()
            .accuracy
    };
    assert!(
        accuracy(Method::Blast) > accuracy(Method::LowRank),
        "{rows:?}"
    );
}

#[test]
fn too_few_parameters_for_a_structure_are_an_error_that_names_the_layer() {
    let refused = onnx::run(0.01, &Device::flex()).unwrap_err().to_string();
    assert!(refused.contains("linear1: 0.01"), "{refused}");
}
