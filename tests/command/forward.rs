use std::path::Path;

use crate::run::{blr, gpt2_cases, llama_cases, text};
use crate::safetensors_by_hand::{Tensor, read};

/// The logits that the command writes for the inputs of a case.
pub fn logits(checkpoint: &Path, inputs: &Path) -> Tensor {
    let folder = tempfile::tempdir().unwrap();
    let outputs = folder.path().join("outputs.safetensors");
    blr(&[
        "forward",
        text(checkpoint),
        "--inputs",
        text(inputs),
        "--outputs",
        text(&outputs),
    ])
    .expect_success();
    read(&outputs).remove("logits").unwrap()
}

#[test]
fn logits_equal_those_of_transformers() {
    for case in gpt2_cases().into_iter().chain(llama_cases()) {
        let expected_path = case.join("expected.safetensors");
        let expected = &read(&expected_path)["logits"];
        let found = logits(&case, &expected_path);
        assert_eq!(found.shape, expected.shape, "{}", case.display());
        let difference = found
            .values
            .iter()
            .zip(&expected.values)
            .map(|(found, expected)| (found - expected).abs())
            .fold(0.0, f64::max);
        assert!(
            difference < 1e-4,
            "{}: differs by {difference:e}",
            case.display()
        );
    }
}
