//! Bad input gets one line on standard error, status 2, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{blr, copy_checkpoint, demo_checkpoint, gpt2_cases, read_json, text};

/// A folder with a small dense checkpoint in `source`.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder };
        let case = gpt2_cases().into_iter().find(|case| {
            // Of the cases that transformers made, one in f32 with features that 4 divides.
            let config = read_json(&case.join("config.json"));
            let file = fs::read(case.join("model.safetensors")).unwrap();
            let wide = config["n_embd"]
                .as_u64()
                .is_some_and(|width| width % 4 == 0);
            wide && String::from_utf8_lossy(&file).contains("\"F32\"")
        });
        copy_checkpoint(&case.unwrap(), &place.source());
        place
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn weights(&self) -> PathBuf {
        self.source().join("model.safetensors")
    }

    fn files(&self) -> Vec<PathBuf> {
        fn below(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    below(&path, files);
                }
                files.push(path);
            }
        }
        let mut files = Vec::new();
        below(self.folder.path(), &mut files);
        files.sort();
        files
    }

    /// Runs and checks the complaint.
    fn refuses(&self, arguments: &[&str], parts: &[&str]) {
        let before = self.files();
        blr(arguments).expect_refusal(parts);
        assert_eq!(self.files(), before, "{arguments:?} left something");
    }

    /// Runs `compress` with the given flags and checks the complaint.
    fn refuses_to_compress(&self, flags: &[&str], parts: &[&str]) {
        let (source, out) = (self.source(), self.out());
        let mut arguments = vec!["compress", text(&source), "--out", text(&out)];
        arguments.extend(flags);
        self.refuses(&arguments, parts);
    }

    /// Rewrites the JSON header of the weights.
    fn edit_header(&self, edit: impl Fn(&mut serde_json::Value)) {
        let bytes = fs::read(self.weights()).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        edit(&mut header);
        let mut text = header.to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text);
        file.extend(&bytes[8 + length..]);
        fs::write(self.weights(), file).unwrap();
    }

    /// The tensor of that layer in the weights' header.
    fn tensor_name(&self, suffix: &str) -> String {
        let bytes = fs::read(self.weights()).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let names = header.as_object().unwrap().keys();
        names
            .into_iter()
            .find(|name| name.ends_with(suffix))
            .unwrap()
            .clone()
    }
}

const LOW_RANK: [&str; 4] = ["--method", "low-rank", "--keep", "0.5"];

#[test]
fn a_truncated_weight_file() {
    let place = Place::new();
    let bytes = fs::read(place.weights()).unwrap();
    for length in [bytes.len() - 3, 100, 5, 0] {
        fs::write(place.weights(), &bytes[..length]).unwrap();
        place.refuses_to_compress(&LOW_RANK, &["model.safetensors"]);
        place.refuses(&["inspect", text(&place.source())], &["model.safetensors"]);
    }
}

#[test]
fn a_shape_that_does_not_fit_the_configuration() {
    let place = Place::new();
    let name = place.tensor_name("h.0.mlp.c_fc.weight");
    place.edit_header(|header| {
        let shape = header[&name]["shape"].as_array_mut().unwrap();
        shape.reverse();
    });
    place.refuses_to_compress(&LOW_RANK, &["c_fc.weight", "shape", "expected"]);
}

#[test]
fn a_tensor_that_is_missing() {
    let place = Place::new();
    let name = place.tensor_name("h.0.attn.c_attn.weight");
    place.edit_header(|header| {
        let object = header.as_object_mut().unwrap();
        let entry = object.remove(&name).unwrap();
        object.insert(format!("{name}.renamed"), entry);
    });
    place.refuses_to_compress(&LOW_RANK, &["c_attn.weight"]);
}

#[test]
fn a_weight_that_is_not_a_number() {
    let place = Place::new();
    let name = place.tensor_name("h.0.mlp.c_proj.weight");
    let mut bytes = fs::read(place.weights()).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = 8 + length + header[&name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start + 20..start + 24].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(place.weights(), bytes).unwrap();
    place.refuses_to_compress(&LOW_RANK, &[&name, "NaN", "index 5"]);
    // The layer need not be among the chosen ones.
    let flags = [&LOW_RANK[..], &["--layers", "c_attn"]].concat();
    place.refuses_to_compress(&flags, &[&name, "NaN"]);
}

#[test]
fn sizes_that_do_not_fit() {
    let place = Place::new();
    let blast = ["--method", "blast", "--rank", "4", "--blocks", "7"];
    place.refuses_to_compress(&blast, &["7", "multiple", "in_features"]);
    let monarch = ["--method", "monarch", "--rank", "6", "--blocks", "4"];
    place.refuses_to_compress(&monarch, &["rank is 6", "multiple of blocks (4)"]);
    place.refuses_to_compress(&["--method", "low-rank", "--rank", "5000"], &["5000"]);
    place.refuses_to_compress(&["--method", "low-rank", "--rank", "0"], &["rank", "0"]);
    place.refuses_to_compress(&["--method", "low-rank", "--keep", "1.5"], &["1.5"]);
    place.refuses_to_compress(&["--method", "blast", "--keep", "0.0001"], &["0.0001"]);
    place.refuses_to_compress(&["--method", "blast"], &["--rank", "--keep"]);
    let tolerance = [&LOW_RANK[..], &["--tolerance", "2"]].concat();
    place.refuses_to_compress(&tolerance, &["--tolerance 2"]);
}

#[test]
fn a_pattern_that_matches_nothing_or_is_none() {
    let place = Place::new();
    let nothing = [&LOW_RANK[..], &["--layers", "no_such_layer"]].concat();
    place.refuses_to_compress(&nothing, &["no_such_layer", "matches none"]);
    let broken = [&LOW_RANK[..], &["--layers", "c_fc("]].concat();
    place.refuses_to_compress(&broken, &["c_fc(", "regular expression"]);
}

#[test]
fn flags_that_are_not_understood() {
    let place = Place::new();
    for (flags, part) in [
        (&["--method", "butterfly", "--keep", "0.5"][..], "butterfly"),
        (&["--method", "blast", "--keep", "half"], "half"),
        (&["--methods", "blast"], "--methods"),
        (
            &["--method", "blast", "--rank", "4", "--keep", "0.5"],
            "--keep",
        ),
        (
            &["--method", "blast", "--keep", "0.5", "--device", "tpu"],
            "tpu",
        ),
    ] {
        let before = place.files();
        let (source, out) = (place.source(), place.out());
        let mut arguments = vec!["compress", text(&source), "--out", text(&out)];
        arguments.extend(flags);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_blr"))
            .args(&arguments)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part), "{part} is not in {stderr}");
        assert_eq!(place.files(), before);
    }
}

#[test]
fn heads_that_do_not_divide_the_width() {
    let place = Place::new();
    let path = place.source().join("config.json");
    let mut config = read_json(&path);
    config["n_head"] = 7.into();
    fs::write(&path, config.to_string()).unwrap();
    let width = format!("a divisor of n_embd {}", config["n_embd"]);
    place.refuses_to_compress(&LOW_RANK, &["config.json", "`n_head` is 7", &width]);
    place.refuses(&["inspect", text(&place.source())], &["`n_head` is 7"]);
}

#[test]
fn a_directory_that_is_no_checkpoint() {
    let place = Place::new();
    let config = fs::read_to_string(place.source().join("config.json")).unwrap();
    fs::remove_file(place.source().join("config.json")).unwrap();
    place.refuses_to_compress(&LOW_RANK, &["config.json"]);
    fs::write(
        place.source().join("config.json"),
        "{\"model_type\": \"gpt2\",",
    )
    .unwrap();
    place.refuses_to_compress(&LOW_RANK, &["config.json"]);
    let other = config.replace("\"gpt2\"", "\"mamba\"");
    fs::write(place.source().join("config.json"), other).unwrap();
    place.refuses_to_compress(&LOW_RANK, &["model_type", "mamba", "gpt2"]);
    let missing = place.folder.path().join("nowhere");
    place.refuses(&["inspect", text(&missing)], &["nowhere"]);
    fs::write(place.source().join("config.json"), config).unwrap();
    fs::remove_file(place.weights()).unwrap();
    place.refuses_to_compress(&LOW_RANK, &["model.safetensors"]);
}

#[test]
fn an_output_that_exists() {
    let place = Place::new();
    fs::create_dir(place.out()).unwrap();
    place.refuses_to_compress(&LOW_RANK, &["out", "already exists"]);
}

#[test]
fn a_plan_with_a_typo() {
    let place = Place::new();
    let plan = place.folder.path().join("plan.toml");
    fs::write(
        &plan,
        "[[rules]]\nlayers = \"c_fc\"\nmethod = \"blast\"\nrnak = 8\n",
    )
    .unwrap();
    place.refuses_to_compress(&["--plan", text(&plan)], &["plan.toml", "line 4", "rnak"]);
    fs::write(
        &plan,
        "[[rules]]\nlayers = \"c_fc\"\nmethod = \"blats\"\nrank = 8\n",
    )
    .unwrap();
    place.refuses_to_compress(&["--plan", text(&plan)], &["plan.toml", "line 3", "blats"]);
    let nowhere = place.folder.path().join("nowhere.toml");
    place.refuses_to_compress(&["--plan", text(&nowhere)], &["nowhere.toml"]);
    place.refuses_to_compress(
        &["--method", "blast", "--preset", "gpt9"],
        &["gpt9", "gpt2s"],
    );
}

#[test]
fn tokens_and_texts_that_cannot_be_used() {
    let place = Place::new();
    let data = place.folder.path().join("data.txt");
    let checkpoint = demo_checkpoint();
    let nowhere = place.folder.path().join("nowhere.txt");
    place.refuses(
        &["eval", text(&checkpoint), "--data", text(&nowhere)],
        &["nowhere.txt"],
    );
    fs::write(&data, [0xff, 0xfe, 0x41]).unwrap();
    place.refuses(
        &["eval", text(&checkpoint), "--data", text(&data)],
        &["data.txt", "UTF-8"],
    );
    fs::write(&data, "").unwrap();
    place.refuses(
        &["eval", text(&checkpoint), "--data", text(&data)],
        &["0 tokens"],
    );
    // A checkpoint without tokenizer.
    fs::write(&data, "text").unwrap();
    place.refuses(
        &["eval", text(&place.source()), "--data", text(&data)],
        &["tokenizer.json"],
    );
    let long = "word ".repeat(2000);
    place.refuses(
        &["generate", text(&checkpoint), "--prompt", &long],
        &["tokens", "at most"],
    );
    let arguments = [
        "generate",
        text(&checkpoint),
        "--prompt",
        "a",
        "--temperature",
        "-1",
    ];
    let output = blr(&arguments);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
}

#[test]
fn inputs_of_forward_that_cannot_be_used() {
    let place = Place::new();
    let (source, out) = (place.source(), place.out());
    let inputs = place.folder.path().join("inputs.safetensors");
    let arguments = [
        "forward",
        text(&source),
        "--inputs",
        text(&inputs),
        "--outputs",
        text(&out),
    ];
    place.refuses(&arguments, &["inputs.safetensors"]);
    fs::write(&inputs, "not a tensor").unwrap();
    place.refuses(
        &arguments,
        &["inputs.safetensors", "not a safetensors file"],
    );
    let write = |name: &str, ids: &[i64]| {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let header = format!(
            "{{\"{name}\":{{\"dtype\":\"I64\",\"shape\":[1,{}],\"data_offsets\":[0,{}]}}}}",
            ids.len(),
            bytes.len()
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(bytes);
        fs::write(&inputs, file).unwrap();
    };
    write("tokens", &[1, 2]);
    place.refuses(&arguments, &["input_ids", "not in the file"]);
    write("input_ids", &[1, 1_000_000]);
    place.refuses(&arguments, &["1000000"]);
    write("input_ids", &[1, -1]);
    place.refuses(&arguments, &["-1"]);
    write("input_ids", &[0; 5000]);
    place.refuses(&arguments, &["5000 tokens", "at most"]);
}

#[cfg(feature = "cuda")]
#[test]
fn a_gpu_that_is_not_there() {
    let place = Place::new();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_blr"))
        .args(["inspect", text(&place.source()), "--device", "cuda:99"])
        .output()
        .unwrap();
    // `inspect` needs no device; a command that computes does.
    assert_eq!(output.status.code(), Some(0));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_blr"))
        .args([
            "generate",
            text(&demo_checkpoint()),
            "--prompt",
            "a",
            "--device",
            "cuda:99",
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("cuda:99") && !stderr.contains("panicked"),
        "{stderr}"
    );
}

#[test]
fn samples_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let demo = demo_checkpoint();
    let vit = crate::run::repository().join("tests/reference/vit/hf_patch8");
    let dit = crate::run::repository().join("tests/reference/dit/latent");
    let missing = folder.path().join("nowhere.txt");
    let (empty, binary) = (
        file("empty.txt", b""),
        file("binary.txt", &[0xff, 0xfe, 0x41]),
    );
    let (fine, none) = (
        file("fine.txt", b"fn main() {}"),
        folder.path().join("none"),
    );
    fs::create_dir(&none).unwrap();
    let by_error = ["--ranks", "by-error"];
    type Case<'a> = (&'a Path, Option<&'a Path>, &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
        (&demo, Some(&missing), &[], &["nowhere.txt"]),
        (&demo, Some(&empty), &[], &["token", "2"]),
        (&demo, Some(&binary), &[], &["binary.txt", "UTF-8"]),
        (
            &demo,
            Some(&fine),
            &["--solver", "gd"],
            &["--solver gd", "--calibration"],
        ),
        (
            &demo,
            None,
            &by_error,
            &["--ranks by-error", "--calibration"],
        ),
        (&vit, Some(&none), &[], &["none", "no images"]),
        (&vit, Some(&missing), &[], &["nowhere.txt"]),
        (&dit, Some(&fine), &[], &["dit"]),
    ];
    for (source, calibration, flags, parts) in cases {
        let mut arguments = vec!["compress", text(source), "--out", text(&out)];
        arguments.extend(LOW_RANK);
        arguments.extend(flags);
        if let Some(calibration) = calibration {
            arguments.extend(["--calibration", text(calibration)]);
        }
        blr(&arguments).expect_refusal(parts);
        assert!(!out.exists() && !folder.path().join("out.partial").exists());
    }
}
