//! Plans: rules, presets, files, and what they make of the layers of a model.

use std::path::Path;

use burn_blr::{Method, OutputOrder, Structure};
use models::{
    FactorNames, LinearLayer, LlamaConfig, ModelError, PRESETS, Plan, Rule, WeightLayout,
    default_blocks,
};
use rstest::rstest;

fn layer(name: &str, in_features: usize, out_features: usize) -> LinearLayer {
    LinearLayer {
        name: name.to_string(),
        in_features,
        out_features,
        layout: WeightLayout::InOut,
        has_bias: true,
        structure: Structure::Dense,
        factors: FactorNames::Blr,
    }
}

/// The layers of GPT-2 small.
fn gpt2_small() -> Vec<LinearLayer> {
    (0..12)
        .flat_map(|n| {
            [
                layer(&format!("h.{n}.attn.c_attn"), 768, 2304),
                layer(&format!("h.{n}.attn.c_proj"), 768, 768),
                layer(&format!("h.{n}.mlp.c_fc"), 768, 3072),
                layer(&format!("h.{n}.mlp.c_proj"), 3072, 768),
            ]
        })
        .collect()
}

fn rule(layers: &str, method: Method) -> Rule {
    Rule {
        layers: layers.to_string(),
        method,
        rank: None,
        keep: None,
        blocks: None,
        output_order: None,
    }
}

fn error_of(rule: Rule) -> ModelError {
    Plan::single(rule)
        .resolve(&gpt2_small())
        .expect_err("the rule should be refused")
}

#[rstest]
#[case(Method::Blast, Structure::Blast { blocks: 6, rank: 192 })]
#[case(Method::Monarch, Structure::Monarch { blocks: 4, rank: 192, order: OutputOrder::Contiguous })]
#[case(Method::LowRank, Structure::LowRank { rank: 192 })]
fn the_gpt2s_preset_replaces_three_layers_of_each_block(
    #[case] method: Method,
    #[case] expected: Structure,
) {
    let plan = Plan::preset("gpt2s", method).unwrap();
    let resolved = plan.resolve(&gpt2_small()).unwrap();
    assert_eq!(resolved.len(), 36);
    for (layer, structure) in &resolved {
        assert!(!layer.name.ends_with("attn.c_proj"), "{}", layer.name);
        assert_eq!(*structure, expected);
    }
}

/// What a structure of the paper is for a method.
fn of_method(method: Method, blocks: usize, blast_rank: usize, monarch_rank: usize) -> Structure {
    match method {
        Method::LowRank => Structure::LowRank { rank: blast_rank },
        Method::Monarch => Structure::Monarch {
            blocks,
            rank: monarch_rank,
            order: OutputOrder::Contiguous,
        },
        Method::Blast => Structure::Blast {
            blocks,
            rank: blast_rank,
        },
    }
}

#[rstest]
fn the_llama_presets_replace_the_layers_of_the_paper(
    #[values(Method::LowRank, Method::Monarch, Method::Blast)] method: Method,
) {
    let rank_of = |name: &str| match name.rsplit('.').next().unwrap() {
        "q_proj" | "o_proj" => 256,
        "gate_proj" => 512,
        "up_proj" | "down_proj" => 768,
        _ => panic!("{name} is not in the preset"),
    };
    let layers = LlamaConfig::llama_3_2_1b().linear_layers();
    let plan = Plan::preset("llama1b", method).unwrap();
    let resolved = plan.resolve(&layers).unwrap();
    assert_eq!(resolved.len(), 16 * 5);
    for (layer, structure) in &resolved {
        let rank = rank_of(&layer.name);
        assert_eq!(*structure, of_method(method, 16, rank, rank));
    }

    let layers = LlamaConfig::llama_7b().linear_layers();
    let plan = Plan::preset("llama7b", method).unwrap();
    let resolved = plan.resolve(&layers).unwrap();
    assert_eq!(resolved.len(), 32 * 7);
    let (mut kept, mut dense) = (0, 0);
    for (layer, structure) in &resolved {
        let expected = if layer.name.contains("self_attn") {
            of_method(method, 16, 1024, 1024)
        } else {
            of_method(method, 16, 1488, 1536)
        };
        assert_eq!(*structure, expected);
        kept += structure.parameters(layer.in_features, layer.out_features);
        dense += layer.dense_parameters();
    }
    let share = kept as f64 / dense as f64;
    assert!((0.49..0.52).contains(&share), "{share}");
}

#[test]
fn an_unknown_preset_lists_those_there_are() {
    let error = Plan::preset("gpt3", Method::Blast).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no preset `gpt3`; there are: gpt2s, llama1b, llama7b"
    );
    for name in PRESETS {
        Plan::preset(name, Method::Monarch)
            .unwrap()
            .validate()
            .unwrap();
    }
}

#[rstest]
fn keep_takes_the_largest_rank_that_fits(
    #[values(Method::LowRank, Method::Monarch, Method::Blast)] method: Method,
    #[values(0.1, 0.25, 0.5, 0.73)] keep: f64,
) {
    let rule = Rule {
        keep: Some(keep),
        ..rule("c_attn", method)
    };
    let resolved = Plan::single(rule).resolve(&gpt2_small()).unwrap();
    assert_eq!(resolved.len(), 12);
    let (layer, structure) = &resolved[0];
    let budget = keep * layer.dense_parameters() as f64;
    let parameters = |s: &Structure| s.parameters(768, 2304) as f64;
    assert!(parameters(structure) <= budget);
    let (blocks, wider) = match *structure {
        Structure::LowRank { rank } => (1, Structure::LowRank { rank: rank + 1 }),
        Structure::Monarch {
            blocks,
            rank,
            order,
        } => (
            blocks,
            Structure::Monarch {
                blocks,
                rank: rank + blocks,
                order,
            },
        ),
        Structure::Blast { blocks, rank } => (
            blocks,
            Structure::Blast {
                blocks,
                rank: rank + 1,
            },
        ),
        Structure::Dense => panic!("the layer was not replaced"),
    };
    let default = match method {
        Method::LowRank => 1,
        Method::Monarch => 4,
        Method::Blast => 16,
    };
    assert_eq!(blocks, default);
    assert!(parameters(&wider) > budget);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let plan = Plan {
        rules: vec![
            Rule {
                rank: Some(64),
                ..rule(r"h\.0\.", Method::LowRank)
            },
            Rule {
                rank: Some(192),
                blocks: Some(6),
                ..rule("c_fc|c_proj", Method::Blast)
            },
        ],
    };
    let resolved = plan.resolve(&gpt2_small()).unwrap();
    assert_eq!(resolved.len(), 4 + 11 * 3);
    assert!(
        resolved[..4]
            .iter()
            .all(|(_, s)| *s == Structure::LowRank { rank: 64 })
    );
    assert!(resolved[4..].iter().all(|(_, s)| *s
        == Structure::Blast {
            blocks: 6,
            rank: 192
        }));
    let names: Vec<_> = resolved.iter().map(|(layer, _)| &layer.name).collect();
    assert_eq!(names[4], "h.1.attn.c_proj");
}

#[rstest]
#[case(Method::LowRank, 768, 2304, 1)]
#[case(Method::Monarch, 768, 2304, 4)]
#[case(Method::Monarch, 10, 6, 2)]
#[case(Method::Monarch, 49, 21, 7)]
#[case(Method::Monarch, 13, 26, 1)]
#[case(Method::Blast, 768, 2304, 16)]
#[case(Method::Blast, 256, 256, 16)]
#[case(Method::Blast, 64, 64, 8)]
#[case(Method::Blast, 49, 21, 1)]
#[case(Method::Blast, 490, 210, 14)]
#[case(Method::Blast, 13, 29, 1)]
fn default_blocks_divide_both_widths(
    #[case] method: Method,
    #[case] inputs: usize,
    #[case] outputs: usize,
    #[case] expected: usize,
) {
    assert_eq!(default_blocks(method, inputs, outputs), expected);
}

#[test]
fn a_plan_is_read_back_from_its_toml() {
    let plan = Plan {
        rules: vec![
            Rule {
                keep: Some(0.5),
                output_order: Some(OutputOrder::Interleaved),
                ..rule(r"attn\.c_attn$", Method::Monarch)
            },
            Rule {
                rank: Some(192),
                blocks: Some(6),
                ..rule("mlp", Method::Blast)
            },
            Rule {
                rank: Some(100),
                ..rule("c_proj", Method::LowRank)
            },
        ],
    };
    let text = plan.to_toml().unwrap();
    assert_eq!(
        Plan::from_toml(&text, Path::new("plan.toml")).unwrap(),
        plan,
        "{text}"
    );
    assert!(text.contains("output_order = \"interleaved\""), "{text}");
}

#[rstest]
#[case::unknown_key("[[rules]]\nlayers = 'c_fc'\nmetod = 'blast'\nrank = 4\n", 3, "metod")]
#[case::unknown_method("[[rules]]\nlayers = 'c_fc'\nmethod = 'blst'\nrank = 4\n", 3, "blst")]
#[case::text_for_a_number(
    "\n[[rules]]\nlayers = 'c_fc'\nmethod = 'blast'\nrank = 'four'\n",
    5,
    "rank|four|string"
)]
#[case::negative("[[rules]]\nlayers = 'c_fc'\nmethod = 'blast'\nrank = -4\n", 4, "-4")]
#[case::no_method("[[rules]]\nlayers = 'c_fc'\nrank = 4\n", 1, "method")]
#[case::unknown_table("[[rule]]\nlayers = 'c_fc'\n", 1, "rule")]
#[case::not_toml("[[rules]]\nlayers = c_fc\n", 2, "")]
#[case::unknown_order(
    "[[rules]]\nlayers = 'c_fc'\nmethod = 'monarch'\nrank = 4\noutput_order = 'mixed'\n",
    5,
    "mixed"
)]
fn a_mistake_in_a_plan_file_is_one_line_with_its_place(
    #[case] text: &str,
    #[case] expected_line: usize,
    #[case] says: &str,
) {
    let error = Plan::from_toml(text, Path::new("plan.toml")).unwrap_err();
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(says.split('|').any(|word| shown.contains(word)), "{shown}");
    assert!(
        matches!(error, ModelError::PlanSyntax { line, .. } if line == expected_line),
        "{shown}"
    );
}

#[test]
fn a_plan_file_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan.toml");
    let error = Plan::open(&path).unwrap_err();
    assert!(matches!(error, ModelError::MissingFile { path: found, .. } if found == path));
    std::fs::write(
        &path,
        "[[rules]]\nlayers = 'c_fc'\nmethod = 'blast'\nkeep = 0.5\n",
    )
    .unwrap();
    assert_eq!(Plan::open(&path).unwrap().rules[0].keep, Some(0.5));
}

#[test]
fn a_plan_without_rules_is_refused() {
    let error = Plan::from_toml("rules = []\n", Path::new("plan.toml")).unwrap_err();
    assert!(matches!(error, ModelError::EmptyPlan));
}

#[rstest]
#[case::neither(rule("c_fc", Method::Blast), "rank")]
#[case::both(Rule { rank: Some(8), keep: Some(0.5), ..rule("c_fc", Method::Blast) }, "rank")]
#[case::rank_of_zero(Rule { rank: Some(0), ..rule("c_fc", Method::Blast) }, "rank")]
#[case::keep_of_zero(Rule { keep: Some(0.0), ..rule("c_fc", Method::Blast) }, "keep")]
#[case::keep_of_one(Rule { keep: Some(1.0), ..rule("c_fc", Method::Blast) }, "keep")]
#[case::keep_nan(Rule { keep: Some(f64::NAN), ..rule("c_fc", Method::Blast) }, "keep")]
#[case::no_blocks(Rule { rank: Some(8), blocks: Some(0), ..rule("c_fc", Method::Blast) }, "blocks")]
#[case::low_rank_blocks(Rule { rank: Some(8), blocks: Some(4), ..rule("c_fc", Method::LowRank) }, "blocks")]
#[case::blast_order(Rule { rank: Some(8), output_order: Some(OutputOrder::Interleaved), ..rule("c_fc", Method::Blast) }, "output_order")]
fn a_rule_that_contradicts_itself_is_refused(#[case] rule: Rule, #[case] expected: &str) {
    let error = error_of(rule);
    assert!(
        matches!(&error, ModelError::InvalidRule { layers, key, .. }
            if layers == "c_fc" && *key == expected),
        "{error}"
    );
}

#[rstest]
#[case::blocks(Rule { rank: Some(8), blocks: Some(5), ..rule("1.mlp.c_fc", Method::Blast) }, "5")]
#[case::rank_of_monarch(Rule { rank: Some(10), blocks: Some(4), ..rule("1.mlp.c_fc", Method::Monarch) }, "10")]
#[case::rank(Rule { rank: Some(769), ..rule("1.mlp.c_fc", Method::LowRank) }, "769")]
fn numbers_that_do_not_suit_a_layer_are_named_with_it(#[case] rule: Rule, #[case] number: &str) {
    let error = error_of(rule);
    let text = error.to_string();
    assert!(
        matches!(&error, ModelError::Structure { layer, .. } if layer == "h.1.mlp.c_fc"),
        "{text}"
    );
    assert!(text.contains(number) && text.contains("768"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn a_fraction_that_leaves_no_rank_is_refused_with_the_smallest_that_does() {
    let error = error_of(Rule {
        keep: Some(1e-4),
        ..rule("c_fc", Method::Blast)
    });
    let ModelError::KeepTooSmall { needed, .. } = error else {
        panic!("{error}");
    };
    let exactly = (768 + 3072 + 256) as f64 / (768.0 * 3072.0);
    assert!((needed - exactly).abs() < 1e-12);
    let plan = Plan::single(Rule {
        keep: Some(needed * 1.001),
        ..rule("c_fc", Method::Blast)
    });
    let resolved = plan.resolve(&gpt2_small()).unwrap();
    assert_eq!(
        resolved[0].1,
        Structure::Blast {
            blocks: 16,
            rank: 1
        }
    );
}

#[test]
fn a_pattern_that_matches_nothing_is_refused_with_an_example() {
    let error = error_of(Rule {
        rank: Some(8),
        ..rule("q_proj", Method::LowRank)
    });
    let text = error.to_string();
    assert_eq!(
        text,
        "rule `q_proj` matches none of the 48 layers; names look like `h.0.attn.c_attn`"
    );
}

#[test]
fn a_pattern_that_is_no_regular_expression_is_one_line() {
    let error = error_of(Rule {
        rank: Some(8),
        ..rule("c_(fc", Method::LowRank)
    });
    let text = error.to_string();
    assert!(matches!(error, ModelError::InvalidPattern { .. }), "{text}");
    assert_eq!(
        text,
        "rule `c_(fc`: not a regular expression: unclosed group"
    );
}

#[test]
fn a_layer_that_was_replaced_already_is_refused() {
    let mut layers = gpt2_small();
    layers[2].structure = Structure::LowRank { rank: 8 };
    let rule = Rule {
        rank: Some(8),
        ..rule("c_fc", Method::Blast)
    };
    let error = Plan::single(rule).resolve(&layers).unwrap_err();
    assert!(
        matches!(&error, ModelError::AlreadyReplaced { layer, method: Method::LowRank, .. }
            if layer == "h.0.mlp.c_fc"),
        "{error}"
    );
}
