use crate::run::{blr, demo_checkpoint, read_json, text};

#[test]
fn a_dense_checkpoint_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("inspect.json");
    let checkpoint = demo_checkpoint();
    let arguments = ["inspect", text(&checkpoint), "--json", text(&json)];
    let stdout = blr(&arguments).expect_success().stdout;
    let report = read_json(&json);
    assert_eq!(report["parameters"], report["dense_parameters"]);
    let layers = report["layers"].as_array().unwrap();
    let config = read_json(&demo_checkpoint().join("config.json"));
    assert_eq!(layers.len() as u64, 4 * config["n_layer"].as_u64().unwrap());
    assert!(layers.iter().all(|layer| layer["structure"] == "dense"));
    for layer in layers {
        assert!(stdout.contains(layer["layer"].as_str().unwrap()));
    }
    let file = std::fs::metadata(demo_checkpoint().join("model.safetensors"))
        .unwrap()
        .len();
    let bytes = report["bytes"].as_u64().unwrap();
    assert!(
        bytes < file && file - bytes < 100_000,
        "{bytes} bytes of tensors in {file}"
    );
}
