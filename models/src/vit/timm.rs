//! `config.json` of timm: the name of an architecture, and what differs from it.

use regex::Regex;
use serde_json::Value;

use super::config::{CheckedKeys, VitConfig, VitNaming, VitPooling};
use crate::checkpoint::ConfigKeys;
use crate::{Activation, ModelError};

/// A size of the architecture.
struct Size {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    /// Inner over hidden width of the MLP.
    mlp_ratio: f64,
}

impl Size {
    const fn new(name: &'static str, hidden: usize, layers: usize, heads: usize) -> Self {
        Self {
            name,
            hidden,
            layers,
            heads,
            mlp_ratio: 4.0,
        }
    }

    const fn mlp_ratio(mut self, mlp_ratio: f64) -> Self {
        self.mlp_ratio = mlp_ratio;
        self
    }
}

const SIZES: [Size; 7] = [
    Size::new("tiny", 192, 12, 3),
    Size::new("small", 384, 12, 6),
    Size::new("base", 768, 12, 12),
    Size::new("large", 1024, 24, 16),
    Size::new("huge", 1280, 32, 16),
    Size::new("giant", 1408, 40, 16).mlp_ratio(48.0 / 11.0),
    Size::new("gigantic", 1664, 48, 16).mlp_ratio(64.0 / 13.0),
];

/// `model_args` that change nothing when a model is run.
const IGNORED: [&str; 12] = [
    "num_classes",
    "dynamic_img_size",
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
const PLAIN: [(&str, Plain); 8] = [
    ("dynamic_img_pad", Plain::False),
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
    let Architecture { size, patch, image } = architecture(keys)?;
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
    let hidden_size = arguments.count("embed_dim", size.hidden)?;
    let class_token = arguments.flag("class_token", true)?;
    let pooling = pooling(keys, &arguments, class_token)?;
    let inner = hidden_size as f64 * arguments.positive("mlp_ratio", size.mlp_ratio)?;
    if !(1.0..f64::from(u32::MAX)).contains(&inner) {
        return Err(arguments.invalid("mlp_ratio", "a ratio that leaves an inner width"));
    }
    let config = VitConfig {
        hidden_size,
        intermediate_size: inner as usize,
        num_hidden_layers: arguments.count("depth", size.layers)?,
        num_attention_heads: arguments.count("num_heads", size.heads)?,
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
    let names = CheckedKeys {
        hidden: "embed_dim",
        layers: "depth",
        heads: "num_heads",
        image: "img_size",
    };
    config.check(&arguments, &names)?;
    Ok(config)
}

/// What `architecture` names.
struct Architecture {
    size: &'static Size,
    /// Edge of a patch.
    patch: usize,
    /// Edge of an image.
    image: usize,
}

fn architecture(keys: &ConfigKeys<'_>) -> Result<Architecture, ModelError> {
    let name = keys.text("architecture", "")?;
    // A tag after the point names a set of weights.
    let pattern = r"^vit_([a-z]+)_patch([1-9][0-9]{0,3})_([1-9][0-9]{0,4})(\..*)?$";
    let parts = Regex::new(pattern)
        .ok()
        .and_then(|pattern| pattern.captures(name));
    let found = parts.and_then(|parts| {
        let size = parts.get(1)?.as_str();
        Some(Architecture {
            size: SIZES.iter().find(|known| known.name == size)?,
            patch: parts.get(2)?.as_str().parse().ok()?,
            image: parts.get(3)?.as_str().parse().ok()?,
        })
    });
    found.ok_or_else(|| {
        let sizes: Vec<_> = SIZES.iter().map(|size| size.name).collect();
        let sizes = sizes.join(", ");
        let expected = format!("vit_SIZE_patchN_M, a plain vision transformer of size {sizes}");
        keys.invalid("architecture", expected)
    })
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
