use crate::run::{blr, demo_checkpoint, read_json, text};

fn generated(arguments: &[&str]) -> (String, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("generated.json");
    let checkpoint = demo_checkpoint();
    let mut all = vec![
        "generate",
        text(&checkpoint),
        "--max-tokens",
        "24",
        "--json",
        text(&json),
    ];
    all.extend(arguments);
    let stdout = blr(&all).expect_success().stdout;
    (stdout, read_json(&json))
}

#[test]
fn greedy_text_is_printed_after_the_prompt_and_does_not_depend_on_the_seed() {
    let prompt = "The `Vec` type";
    let (stdout, report) = generated(&["--prompt", prompt]);
    let text = report["text"].as_str().unwrap();
    assert_eq!(stdout, format!("{prompt}{text}\n"));
    assert!(!text.is_empty());
    assert_eq!(generated(&["--prompt", prompt, "--seed", "9"]).0, stdout);
}

#[test]
fn sampled_text_depends_on_the_seed_and_on_nothing_else() {
    let sample = |seed: &str| {
        let arguments = [
            "--prompt",
            "fn main",
            "--temperature",
            "1.2",
            "--top-k",
            "50",
            "--seed",
        ];
        generated(&[&arguments[..], &[seed]].concat()).0
    };
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
}

#[test]
fn a_captured_prompt_changes_no_text() {
    let prompt = ["--prompt", "The `Vec` type"];
    let (usual, _) = generated(&prompt);
    let (captured, _) = generated(&[&prompt[..], &["--capture"]].concat());
    assert_eq!(captured, usual);
}
