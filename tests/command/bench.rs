use crate::run::{blr, read_json, text};

#[test]
fn every_row_has_the_agreed_keys_and_a_small_error() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    blr(&[
        "bench",
        "layers",
        "--layer",
        "vit_b_patch16_224.mlp_fc1",
        "--tokens",
        "1,5",
        "--reps",
        "1",
        "--json",
        text(&json),
    ])
    .expect_success();
    let report = read_json(&json);
    assert_eq!(report["device"], "cpu");
    let rows = report["rows"].as_array().unwrap();
    let methods: Vec<&str> = rows
        .iter()
        .map(|row| row["method"].as_str().unwrap())
        .collect();
    let expected = ["dense", "low-rank", "monarch", "blast"];
    assert_eq!(methods, [expected, expected].concat());
    for row in rows {
        for key in [
            "layer",
            "method",
            "tokens",
            "in",
            "out",
            "blocks",
            "rank",
            "dtype",
            "kernel",
            "median_us",
            "min_us",
            "max_us",
            "tflops",
            "gbps",
            "limit_us",
            "share_of_limit",
            "rel_err",
            "host_us",
        ] {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("min_us") <= number("median_us"));
        assert!(number("median_us") <= number("max_us"));
        assert!(number("rel_err") < 1e-5, "{row}");
        assert_eq!((number("in"), number("out")), (768.0, 3072.0));
    }
}
