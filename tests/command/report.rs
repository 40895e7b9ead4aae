//! The pages that commands write.

use std::path::Path;

use roxmltree::{Document, Node, ParsingOptions};

use crate::run::{blr, copy_checkpoint, demo_checkpoint, read_json, repository, text};

/// Reads a page and passes it on parsed, after checking that nothing in it lies elsewhere.
pub fn with_page(path: &Path, check: impl FnOnce(&Page<'_>)) {
    let file = std::fs::read_to_string(path).unwrap();
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(&file, options).unwrap();
    let mut ids = vec![];
    for node in document.descendants() {
        assert!(!node.has_tag_name("script") && !node.has_tag_name("link"));
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(!["src", "href", "srcset", "data"].contains(&name), "{name}");
            assert!(!attribute.value().contains("NaN"), "{attribute:?}");
        }
        ids.extend(node.attribute("id"));
        if node.has_tag_name("svg") && node.attribute("role").is_some() {
            let titled = node.attribute("aria-labelledby").unwrap();
            let title = node.children().find(|child| child.has_tag_name("title"));
            assert_eq!(title.unwrap().attribute("id"), Some(titled));
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is there twice");
    assert!(!file.contains("url(") && !file.contains("@import") && !file.contains("http"));
    check(&Page {
        document: &document,
    });
}

pub struct Page<'a> {
    document: &'a Document<'a>,
}

impl Page<'_> {
    /// The text of all elements of that name.
    pub fn texts(&self, element: &str) -> Vec<String> {
        let nodes = self.document.descendants();
        let nodes = nodes.filter(|node| node.has_tag_name(element));
        nodes.map(|node| text_of(&node)).collect()
    }

    /// The cells of all rows of all tables.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let nodes = self.document.descendants();
        let rows = nodes.filter(|node| node.has_tag_name("tr"));
        let cells = |row: Node<'_, '_>| row.children().map(|cell| text_of(&cell)).collect();
        rows.map(cells).collect()
    }

    /// The row that begins with `cells`.
    pub fn row(&self, cells: &[&str]) -> Vec<String> {
        let rows = self.rows();
        let row = rows.iter().find(|row| {
            row.len() >= cells.len() && row.iter().zip(cells).all(|(cell, text)| cell == text)
        });
        row.unwrap_or_else(|| panic!("no row {cells:?} in {rows:?}"))
            .clone()
    }
}

fn text_of(node: &Node<'_, '_>) -> String {
    let texts = node.descendants().filter_map(|node| {
        let text = node.is_text().then(|| node.text());
        text.flatten()
    });
    texts.collect()
}

#[test]
fn the_page_of_compress_has_every_layer_with_the_numbers_of_the_json() {
    let folder = tempfile::tempdir().unwrap();
    // A name with all that has a meaning in HTML.
    let source = folder.path().join("a <b> & \"c\"");
    copy_checkpoint(&demo_checkpoint(), &source);
    let (plan, json) = (
        folder.path().join("plan.toml"),
        folder.path().join("report.json"),
    );
    std::fs::write(
        &plan,
        "[[rules]]\nlayers = 'c_attn$'\nmethod = \"low-rank\"\nkeep = 0.5\n\
         [[rules]]\nlayers = 'mlp'\nmethod = \"monarch\"\nkeep = 0.4\n",
    )
    .unwrap();
    let out = folder.path().join("out");
    let arguments = ["compress", text(&source), "--out", text(&out)];
    let flags = ["--plan", text(&plan), "--json", text(&json)];
    blr(&[&arguments[..], &flags].concat()).expect_success();
    let report = read_json(&json);
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 12);
    with_page(&out.join("report.html"), |page| {
        assert_eq!(page.texts("h1"), ["Compression of a <b> & \"c\""]);
        let pointed_at = page.texts("title");
        for layer in layers {
            let name = layer["layer"].as_str().unwrap();
            let error = format!("{:.4}", layer["relative_error"].as_f64().unwrap());
            let row = page.row(&[name, layer["structure"].as_str().unwrap()]);
            assert_eq!(row[2], layer["parameters"].to_string());
            assert_eq!(row[4], error);
            let method = if name.contains("mlp") {
                "Monarch"
            } else {
                "low-rank"
            };
            let point = format!("{name}, {method}: {error}");
            assert_eq!(
                pointed_at.iter().filter(|text| **text == point).count(),
                1,
                "{point}"
            );
        }
        let kinds = page.texts("h3");
        for kind in ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"] {
            let kind = format!("transformer.h.*.{kind}");
            // Of errors, of shares and of times.
            assert_eq!(
                kinds.iter().filter(|text| **text == kind).count(),
                3,
                "{kinds:?}"
            );
        }
    });
    // A checkpoint made from this one gets a page of its own.
    let again = folder.path().join("again");
    let arguments = ["compress", text(&out), "--out", text(&again)];
    let flags = [
        "--method",
        "low-rank",
        "--keep",
        "0.5",
        "--layers",
        "attn.c_proj",
    ];
    blr(&[&arguments[..], &flags].concat()).expect_success();
    with_page(&again.join("report.html"), |page| {
        assert_eq!(page.texts("h1"), ["Compression of out"]);
    });
}

#[test]
fn the_page_of_eval_has_models_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (checkpoint, out, data) = (demo_checkpoint(), path("half"), path("short.txt"));
    let heldout = std::fs::read_to_string(repository().join("demo/heldout.txt")).unwrap();
    std::fs::write(&data, heldout.chars().take(3000).collect::<String>()).unwrap();
    let arguments = ["compress", text(&checkpoint), "--out", text(&out)];
    let flags = ["--method", "low-rank", "--keep", "0.5"];
    blr(&[&arguments[..], &flags].concat()).expect_success();

    let (dense, half, page) = (path("dense.json"), path("half.json"), path("eval.html"));
    let arguments = ["eval", text(&checkpoint), "--data", text(&data)];
    blr(&[&arguments[..], &["--json", text(&dense)]].concat()).expect_success();
    let arguments = [
        "eval",
        text(&out),
        "--data",
        text(&data),
        "--json",
        text(&half),
    ];
    let flags = ["--report", text(&page), "--beside", text(&dense)];
    blr(&[&arguments[..], &flags].concat()).expect_success();
    let reports = [read_json(&dense), read_json(&half)];
    with_page(&page, |page| {
        assert_eq!(page.texts("h1"), ["Evaluation of 2 models"]);
        for (report, name) in reports
            .iter()
            .zip([["checkpoint", "dense"], ["half", "low-rank"]])
        {
            let row = page.row(&name);
            assert_eq!(row[2], report["model"]["parameters"].to_string());
            assert_eq!(
                row[5],
                format!("{:.3}", report["perplexity"].as_f64().unwrap())
            );
        }
        for layer in reports[1]["model"]["layers"].as_array().unwrap() {
            let row = page.row(&[layer["layer"].as_str().unwrap(), "half"]);
            assert_eq!(row[2], layer["structure"].as_str().unwrap());
            assert_eq!(
                row[5],
                format!("{:.4}", layer["relative_error"].as_f64().unwrap())
            );
        }
    });

    // What is no report of eval is refused before the model runs.
    let other = path("other.json");
    std::fs::write(&other, "{\"rows\": []}").unwrap();
    let flags = ["--report", text(&page), "--beside", text(&other)];
    blr(&[&arguments[..], &flags].concat()).expect_refusal(&["other.json", "eval --json"]);
}
