use crate::report::with_page;
use crate::run::{blr, read_json, repository, text};

#[test]
fn the_demo_compresses_three_ways_and_blast_is_nearest_on_every_layer() {
    let folder = tempfile::tempdir().unwrap();
    let (out, short) = (folder.path().join("out"), folder.path().join("short.txt"));
    let heldout = std::fs::read_to_string(repository().join("demo/heldout.txt")).unwrap();
    let start: String = heldout.chars().take(8000).collect();
    std::fs::write(&short, start).unwrap();
    let run = || blr(&["demo", "--out", text(&out), "--text", text(&short)]).expect_success();
    run();
    // A second demo replaces the results of the first.
    let stdout = run().stdout;
    assert!(
        stdout.contains("BLAST has the lowest error of the three on every layer."),
        "{stdout}"
    );

    let report = read_json(&out.join("report.json"));
    assert_eq!(report["blast_is_best_on_every_layer"], true);
    let rows = report["rows"].as_array().unwrap();
    let of = |row: &serde_json::Value| {
        (
            row["method"].as_str().unwrap().to_string(),
            row["keep"].as_f64().unwrap(),
        )
    };
    let found: Vec<(String, f64)> = rows.iter().map(of).collect();
    let expected = [
        ("dense", 1.0),
        ("low-rank", 0.5),
        ("monarch", 0.5),
        ("blast", 0.5),
        ("low-rank", 0.3),
        ("monarch", 0.3),
        ("blast", 0.3),
    ];
    assert_eq!(
        found,
        expected.map(|(method, keep)| (method.to_string(), keep))
    );
    for row in &rows[1..] {
        let keep = row["keep"].as_f64().unwrap();
        for layer in row["layers"].as_array().unwrap() {
            let parameters = layer["parameters"].as_f64().unwrap();
            assert!(parameters <= keep * layer["dense_parameters"].as_f64().unwrap());
        }
        assert!(row["bytes"].as_u64() < rows[0]["bytes"].as_u64());
        assert!(row["perplexity"].as_f64() > rows[0]["perplexity"].as_f64());
    }
    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(markdown.contains("| method | keep |"), "{markdown}");
    with_page(&out.join("report.html"), |page| {
        for row in rows {
            let (method, keep) = of(row);
            let cells = page.row(&[&method, &keep.to_string()]);
            assert_eq!(cells[2], row["parameters"].to_string());
            assert_eq!(
                cells[5],
                format!("{:.3}", row["perplexity"].as_f64().unwrap())
            );
            assert_eq!(row["layer_times"].as_array().unwrap().len(), 8);
        }
        for (place, layer) in rows[3]["layers"].as_array().unwrap().iter().enumerate() {
            let cells = page.row(&[layer["layer"].as_str().unwrap()]);
            for (cell, row) in cells[1..].iter().zip(&rows[1..]) {
                let error = row["layers"][place]["relative_error"].as_f64().unwrap();
                assert_eq!(*cell, format!("{error:.4}"));
            }
        }
    });
}
