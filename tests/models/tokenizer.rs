//! Tokenizer files of both kinds.

use std::fs;
use std::path::Path;

use models::{ModelError, TextTokenizer};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The character that stands for each byte in GPT-2's files: itself where it prints, else one from
/// 256 on.
fn byte_characters() -> Vec<char> {
    let prints = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
    let mut next = 256;
    (0..256)
        .map(|byte| {
            let code = if prints(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap()
        })
        .collect()
}

/// All bytes as tokens 0 to 255, then three merges, then the end of text.
fn vocabulary() -> Map<String, Value> {
    let tokens = byte_characters().into_iter().map(String::from);
    let merged = ["he", "ll", "Ġw", "<|endoftext|>"].map(String::from);
    tokens
        .chain(merged)
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect()
}

const MERGES: [&str; 3] = ["h e", "l l", "Ġ w"];

fn gpt2_files() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("vocab.json"),
        Value::from(vocabulary()).to_string(),
    )
    .unwrap();
    let merges = format!("#version: 0.2\n{}\n", MERGES.join("\n"));
    fs::write(dir.path().join("merges.txt"), merges).unwrap();
    dir
}

/// A `tokenizer.json` of the same tokens that asks to cut every text to three.
fn write_tokenizer_json(dir: &Path) {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": true});
    let content = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
        "added_tokens": [{"id": 259, "content": "<|endoftext|>", "single_word": false,
                          "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary(), "merges": MERGES},
    });
    fs::write(dir.join("tokenizer.json"), content.to_string()).unwrap();
}

const TEXT: &str = "hello world, grüß dich 🦀\n\tfn main() {}";

#[test]
fn merges_are_applied_and_bytes_cover_the_rest() {
    let dir = gpt2_files();
    let tokenizer = TextTokenizer::open(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 260);
    let [o, r, l, d] = [b'o', b'r', b'l', b'd'].map(u32::from);
    assert_eq!(
        tokenizer.encode("hello world").unwrap(),
        [256, 257, o, 258, o, r, l, d]
    );
    assert_eq!(
        tokenizer.decode(&tokenizer.encode(TEXT).unwrap()).unwrap(),
        TEXT
    );
    assert!(tokenizer.encode("").unwrap().is_empty());
}

#[test]
fn the_end_of_text_is_one_token_that_is_not_shown() {
    let dir = gpt2_files();
    let tokenizer = TextTokenizer::open(dir.path()).unwrap();
    assert_eq!(tokenizer.token_id("<|endoftext|>"), Some(259));
    assert_eq!(tokenizer.token_id("<|nothing|>"), None);
    let ids = tokenizer.encode("he<|endoftext|>he").unwrap();
    assert_eq!(ids, [256, 259, 256]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "hehe");
}

#[test]
fn both_kinds_of_files_give_the_same_tokens_and_nothing_is_cut_off_or_padded() {
    let dir = gpt2_files();
    let from_parts = TextTokenizer::open(dir.path())
        .unwrap()
        .encode(TEXT)
        .unwrap();
    assert!(from_parts.len() > 3);
    write_tokenizer_json(dir.path());
    let from_json = TextTokenizer::open(dir.path())
        .unwrap()
        .encode(TEXT)
        .unwrap();
    assert_eq!(from_parts, from_json);
}

#[test]
fn a_stream_returns_whole_characters() {
    let dir = gpt2_files();
    let tokenizer = TextTokenizer::open(dir.path()).unwrap();
    let mut stream = tokenizer.stream();
    let mut pieces = Vec::new();
    for id in tokenizer.encode(TEXT).unwrap() {
        pieces.push(stream.push(id).unwrap());
    }
    assert_eq!(stream.finish().unwrap(), "");
    assert_eq!(pieces.concat(), TEXT);
    assert!(
        pieces
            .iter()
            .all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER))
    );
    assert_eq!(
        pieces.iter().filter(|piece| piece.contains('🦀')).count(),
        1
    );
}

#[test]
fn half_a_character_at_the_end_is_shown_when_the_stream_ends() {
    let dir = gpt2_files();
    let tokenizer = TextTokenizer::open(dir.path()).unwrap();
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(u32::from(b'a')).unwrap(), "a");
    assert_eq!(stream.push(0xF0).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn missing_and_damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let error = TextTokenizer::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ModelError::MissingFile { path: found, .. } if *found == path),
        "{error}"
    );
    fs::write(&path, "{\"version\": \"1.0\",\n \"model\": 3}").unwrap();
    let error = TextTokenizer::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ModelError::Tokenizer { path: found, .. } if *found == path),
        "{error}"
    );
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn a_sentencepiece_model_alone_is_refused_with_what_would_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    fs::write(&path, b"\x0a\x0e\x0a\x05<unk>").unwrap();
    let error = TextTokenizer::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ModelError::UnsupportedTokenizer { path: found, .. } if *found == path),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("sentencepiece") && text.contains("tokenizer.json"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
    // Beside a tokenizer.json it does not matter.
    write_tokenizer_json(dir.path());
    TextTokenizer::open(dir.path()).unwrap();
}
