use crate::run::{blr, demo_checkpoint, read_json, repository, text};

#[test]
fn the_loss_of_the_demo_checkpoint_is_that_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("eval.json");
    let heldout = repository().join("demo/heldout.txt");
    blr(&[
        "eval",
        text(&demo_checkpoint()),
        "--data",
        text(&heldout),
        "--json",
        text(&json),
    ])
    .expect_success();
    let (found, expected) = (
        read_json(&json),
        read_json(&repository().join("demo/reference.json")),
    );
    assert_eq!(found["tokens"], expected["tokens"], "as many predictions");
    let number = |report: &serde_json::Value, key: &str| report[key].as_f64().unwrap();
    let difference = number(&found, "loss") - number(&expected, "loss");
    assert!(difference.abs() < 1e-4, "{found} against {expected}");
    let perplexity = number(&found, "loss").exp();
    assert!((number(&found, "perplexity") - perplexity).abs() < 1e-9 * perplexity);
}
