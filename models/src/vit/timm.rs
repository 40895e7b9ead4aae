//! `config.json` of timm: the name of an architecture, and what differs from it.

use regex::Regex;
use serde_json::Value;

use super::config::{CheckedKeys, VitConfig, VitNaming, VitPooling};
use crate::checkpoint::ConfigKeys;
use crate::{Activation, ModelError};

/// Width, number of blocks, heads, and inner over hidden width of the sizes.
const SIZES: [(&str, [usize; 3], f64); 7] = [
    ("tiny", [192, 12, 3], 4.0),
    ("small", [384, 12, 6], 4.0),
    ("base", [768, 12, 12], 4.0),
    ("large", [1024, 24, 16], 4.0),
    ("huge", [1280, 32, 16], 4.0),
    ("giant", [1408, 40, 16], 48.0 / 11.0),
    ("gigantic", [1664, 48, 16], 64.0 / 13.0),
];

/// `model_args` that change nothing when a model is run.
const IGNORED: [&str; 13] = [
    "num_classes",
    "dynamic_img_size",
    "dynamic_img_pad",
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "strict_img_size",
    "pretrained",
];

/// `model_args` that are read.
const READ: [&str; 14] = [
    "in_chans",
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "proj_bias",
    "class_token",
    "no_embed_class",
    "global_pool",
    "fc_norm",
    "act_layer",
];

/// `model_args` that may be written out as long as they leave the model plain.
const PLAIN: [(&str, Plain); 7] = [
    ("pre_norm", Plain::False),
    ("qk_norm", Plain::False),
    ("scale_attn_norm", Plain::False),
    ("scale_mlp_norm", Plain::False),
    ("pool_include_prefix", Plain::False),
    ("final_norm", Plain::True),
    ("reg_tokens", Plain::Zero),
];

/// The one value that leaves a model plain.
#[derive(Clone, Copy)]
enum Plain {
    False,
    True,
    Zero,
}

/// Reads a configuration of timm.
pub(super) fn config(keys: &ConfigKeys<'_>) -> Result<VitConfig, ModelError> {
    let (size, patch, image) = architecture(keys)?;
    let &(_, [hidden, layers, heads], ratio) = size;
    let empty = Value::Object(serde_json::Map::new());
    let arguments = keys.section_or("model_args", &empty)?;
    let pretrained = keys.section_or("pretrained_cfg", &empty)?;
    check_plain(&arguments)?;

    let input_size: Option<[f32; 3]> = pretrained.numbers("input_size")?;
    let [channels, height, width] = match input_size {
        None => [3, image, image],
        Some(sides) => {
            let sides = sides.map(|side| side as usize);
            if sides.contains(&0) {
                return Err(pretrained.invalid("input_size", "channels, height and width"));
            }
            sides
        }
    };
    let hidden_size = arguments.count("embed_dim", hidden)?;
    let class_token = arguments.flag("class_token", true)?;
    let pooling = pooling(keys, &arguments, class_token)?;
    let config = VitConfig {
        hidden_size,
        intermediate_size: (hidden_size as f64 * arguments.positive("mlp_ratio", ratio)?) as usize,
        num_hidden_layers: arguments.count("depth", layers)?,
        num_attention_heads: arguments.count("num_heads", heads)?,
        hidden_act: activation(&arguments)?,
        layer_norm_eps: 1e-6,
        image_size: arguments.sides("img_size")?.unwrap_or([height, width]),
        patch_size: arguments.sides("patch_size")?.unwrap_or([patch, patch]),
        num_channels: arguments.count("in_chans", channels)?,
        qkv_bias: arguments.flag("qkv_bias", true)?,
        proj_bias: arguments.flag("proj_bias", true)?,
        num_labels: keys.required_count("num_classes")?,
        class_token,
        embed_class_token: !arguments.flag("no_embed_class", false)?,
        pooling,
        norm_after_pooling: arguments.flag("fc_norm", pooling == VitPooling::Average)?,
        naming: VitNaming::Timm,
    };
    if config.intermediate_size == 0 {
        return Err(arguments.invalid("mlp_ratio", "a ratio that leaves an inner width"));
    }
    let names = CheckedKeys {
        hidden: "embed_dim",
        layers: "depth",
        heads: "num_heads",
        image: "img_size",
    };
    config.check(&arguments, &names)?;
    Ok(config)
}

/// Size, patch and image size that `architecture` names.
fn architecture(
    keys: &ConfigKeys<'_>,
) -> Result<(&'static (&'static str, [usize; 3], f64), usize, usize), ModelError> {
    let name = keys.text("architecture", "")?;
    let unknown = || {
        let sizes = SIZES.map(|(size, ..)| size).join(", ");
        let expected = format!("vit_SIZE_patchN_M, a plain vision transformer of size {sizes}");
        keys.invalid("architecture", expected)
    };
    // A tag after the point names a set of weights.
    let pattern = r"^vit_([a-z]+)_patch([1-9][0-9]{0,3})_([1-9][0-9]{0,4})(\..*)?$";
    let parts = Regex::new(pattern)
        .ok()
        .and_then(|pattern| pattern.captures(name));
    let parts = parts.ok_or_else(unknown)?;
    let part = |n: usize| parts.get(n).map(|part| part.as_str()).unwrap_or_default();
    let size = SIZES.iter().find(|(size, ..)| *size == part(1));
    match (size, part(2).parse(), part(3).parse()) {
        (Some(size), Ok(patch), Ok(image)) => Ok((size, patch, image)),
        _ => Err(unknown()),
    }
}

/// Refuses what would make the model another one.
fn check_plain(arguments: &ConfigKeys<'_>) -> Result<(), ModelError> {
    for name in arguments.names() {
        let plain = PLAIN.iter().find(|(key, _)| *key == name);
        let value = arguments.get(name);
        let fits = match plain {
            None => {
                IGNORED.contains(&name)
                    || READ.contains(&name)
                    // Layer scale, which is off where it is not set.
                    || (name == "init_values" && value.is_none())
            }
            Some((_, Plain::False)) => !arguments.flag(name, false)?,
            Some((_, Plain::True)) => arguments.flag(name, true)?,
            Some((_, Plain::Zero)) => value.is_none_or(|value| value.as_u64() == Some(0)),
        };
        if !fits {
            let expected = "only arguments of a plain vision transformer";
            return Err(arguments.invalid(name, expected));
        }
    }
    Ok(())
}

/// What the head looks at: an argument, or what the configuration says of the model.
fn pooling(
    keys: &ConfigKeys<'_>,
    arguments: &ConfigKeys<'_>,
    class_token: bool,
) -> Result<VitPooling, ModelError> {
    const KEY: &str = "global_pool";
    let place = if arguments.holds(KEY) {
        arguments
    } else {
        keys
    };
    match place.text(KEY, "token")? {
        "token" if class_token => Ok(VitPooling::Token),
        "token" => Err(place.invalid(KEY, "avg where class_token is false")),
        "avg" => Ok(VitPooling::Average),
        _ => Err(place.invalid(KEY, "token or avg")),
    }
}

fn activation(arguments: &ConfigKeys<'_>) -> Result<Activation, ModelError> {
    match arguments.text("act_layer", "gelu")? {
        "gelu_tanh" => Ok(Activation::GeluTanh),
        _ => arguments.activation("act_layer", "gelu"),
    }
}
