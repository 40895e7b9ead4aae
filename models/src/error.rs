//! The one error type of the crate.

use std::path::PathBuf;

use burn::tensor::{DType, TensorReadError};
use burn_blr::graph::GraphError;
use burn_blr::{BlrError, Method, Structure};
use safetensors::{Dtype, SafeTensorError};

/// What can go wrong between a checkpoint directory and the numbers a model returns.
///
/// Each text is one line that names the file, tensor, key or layer, what was found and what was
/// expected, so that a command can print it as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A layer could not be built from its factors, or could not run.
    #[error(transparent)]
    Blr(#[from] BlrError),

    /// A layer that is not, or no longer, part of a model.
    #[error("the model has no such linear layer")]
    UnknownLayer,

    /// A model was given what a model of another family takes.
    #[error("a {family} model cannot take this kind of input")]
    OtherInput {
        /// Its family.
        family: &'static str,
    },

    /// The parameters of a model are not those that were recorded.
    #[error("the parameters are not those of the model that was loaded")]
    OtherModel,

    /// A result could not be read back from the device.
    #[error("cannot read a result from the device: {0}")]
    Read(#[from] TensorReadError),
    /// A captured pass was not replayed.
    #[error("the device did not replay a captured pass: {0}")]
    Graph(#[from] GraphError),

    /// The checkpoint directory is not there, or is a file.
    #[error("{}: not a directory; expected one with config.json and model.safetensors", .path.display())]
    NotADirectory {
        /// The path that was given.
        path: PathBuf,
    },

    /// A file that must be there is not.
    #[error("{}: no such file; {expected}", .path.display())]
    MissingFile {
        /// The file that was looked for.
        path: PathBuf,
        /// What should have been there, and why.
        expected: &'static str,
    },

    /// A directory holds some compressed layers and nothing else of a model.
    #[error("{}: holds only a part of a model's layers; put the parts together with `blr merge`", .path.display())]
    Part {
        /// The directory.
        path: PathBuf,
    },

    /// The operating system refused to open, map or read a file.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A JSON file is not JSON, or not of the expected form.
    #[error("{}: {source}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where parsing stopped, and why.
        source: serde_json::Error,
    },

    /// A key of `config.json` is missing.
    #[error("{}: no key `{key}`; expected {expected}", .path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key, with dots for nesting.
        key: String,
        /// What its value should be.
        expected: String,
    },

    /// A key of `config.json` has a value that cannot be used.
    #[error("{}: `{key}` is {found}; expected {expected}", .path.display())]
    InvalidKey {
        /// The file.
        path: PathBuf,
        /// The key, with dots for nesting.
        key: String,
        /// The value, as JSON.
        found: String,
        /// What it should be.
        expected: String,
    },

    /// `model_type` names a family that this crate does not have.
    #[error("{}: model_type is `{found}`; supported: {supported}", .path.display())]
    UnsupportedFamily {
        /// The `config.json`.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
        /// The names that are supported, separated by commas.
        supported: String,
    },

    /// A checkpoint of one family was given to the model of another.
    #[error("{}: holds a {found} model; expected a {expected} model", .path.display())]
    WrongFamily {
        /// The checkpoint directory.
        path: PathBuf,
        /// Its family.
        found: &'static str,
        /// The family of the model that was asked to load it.
        expected: &'static str,
    },

    /// A weight file is truncated, or is not in the safetensors format.
    #[error("{}: not a complete safetensors file of {bytes} bytes: {source}", .path.display())]
    InvalidWeights {
        /// The file.
        path: PathBuf,
        /// How many bytes it has.
        bytes: usize,
        /// What the header check said.
        source: SafeTensorError,
    },

    /// `model.safetensors.index.json` and the shards disagree.
    #[error("{}: tensor `{tensor}` should be in {shard}, {found}", .path.display())]
    InvalidIndex {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that the index names.
        shard: String,
        /// What is wrong.
        found: &'static str,
    },

    /// Two weight files hold a tensor of the same name.
    #[error("tensor `{tensor}` is in both {} and {}; expected it once", .first.display(), .second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },

    /// The model needs a tensor that the checkpoint does not hold.
    #[error("{}: no tensor `{tensor}`; expected one of shape {expected:?}", .path.display())]
    MissingTensor {
        /// The checkpoint directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },

    /// A tensor was asked for by a name that the checkpoint does not hold.
    #[error("{}: no tensor `{tensor}`", .path.display())]
    UnknownTensor {
        /// The checkpoint directory.
        path: PathBuf,
        /// The name.
        tensor: String,
    },

    /// The checkpoint holds a tensor that the model has no place for.
    #[error(
        "{}: tensor `{tensor}` of shape {found:?} is not used by this model ({more} more like it)",
        .path.display()
    )]
    UnusedTensor {
        /// The checkpoint directory.
        path: PathBuf,
        /// The first of them, by name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// How many others are unused too.
        more: usize,
    },

    /// A tensor does not have the shape that the configuration asks for.
    #[error("{}: tensor `{tensor}` has shape {found:?}; expected {expected:?}", .path.display())]
    TensorShape {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that was expected.
        expected: Vec<usize>,
    },

    /// A tensor has an element type that is not read as floating point.
    #[error("{}: tensor `{tensor}` has dtype {found}; expected F32, F16 or BF16", .path.display())]
    TensorDtype {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The element type in the file.
        found: Dtype,
    },

    /// A weight is not a number, infinite, or too large for the requested element type.
    #[error("{}: tensor `{tensor}` has {value} at index {index}; expected a finite {dtype} value", .path.display())]
    NonFiniteWeight {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Position in the tensor, row-major.
        index: usize,
        /// The value found.
        value: f32,
        /// The element type it should fit.
        dtype: &'static str,
    },

    /// Two tensors that the configuration ties together differ.
    #[error(
        "{}: `{tensor}` differs from `{tied_to}`, but tie_word_embeddings is true; expected the same values, or false",
        .path.display()
    )]
    TiedTensorDiffers {
        /// The checkpoint directory.
        path: PathBuf,
        /// The duplicate.
        tensor: String,
        /// The tensor it should equal.
        tied_to: String,
    },

    /// The device has no arithmetic for the requested element type.
    #[error("device {device} cannot compute in {dtype}; expected a dtype it supports, such as f32")]
    UnsupportedDtype {
        /// The device.
        device: String,
        /// The element type.
        dtype: &'static str,
    },

    /// The `blr` section names a layer that the model does not have.
    #[error("{}: blr.layers names `{layer}`, which is not a replaceable layer of this model", .path.display())]
    UnknownBlrLayer {
        /// The `config.json`.
        path: PathBuf,
        /// The layer.
        layer: String,
    },

    /// A structure does not fit a layer.
    #[error("layer `{layer}` ({in_features} -> {out_features}) as {structure}: {source}")]
    Structure {
        /// The layer.
        layer: String,
        /// Its input features.
        in_features: usize,
        /// Its output features.
        out_features: usize,
        /// The structure that was asked for.
        structure: Structure,
        /// Which number does not fit, and what would.
        source: Box<BlrError>,
    },

    /// A fraction of the parameters too small for even the smallest rank.
    #[error(
        "layer `{layer}` ({in_features} -> {out_features}): keeping {keep} of it leaves no rank for {method} with {blocks} blocks; expected at least {needed:.4}"
    )]
    KeepTooSmall {
        /// The layer.
        layer: String,
        /// Its input features.
        in_features: usize,
        /// Its output features.
        out_features: usize,
        /// The structure that was asked for.
        method: Method,
        /// Its block count.
        blocks: usize,
        /// The fraction that was asked for.
        keep: f64,
        /// The fraction that the smallest rank takes.
        needed: f64,
    },

    /// A plan file is not TOML, or not a plan.
    #[error("{}, line {line}: {message}", .path.display())]
    PlanSyntax {
        /// The plan file.
        path: PathBuf,
        /// Line, counted from one.
        line: usize,
        /// What the parser said, on one line.
        message: String,
    },

    /// A plan could not be written as TOML.
    #[error("the plan cannot be written as TOML: {message}")]
    PlanFormat {
        /// What the writer said, on one line.
        message: String,
    },

    /// A rule of a plan contradicts itself.
    #[error("rule `{layers}`: `{key}` is {found}; expected {expected}")]
    InvalidRule {
        /// The pattern of the rule.
        layers: String,
        /// The key that is wrong.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        expected: &'static str,
    },

    /// The pattern of a rule is not a regular expression.
    #[error("rule `{layers}`: not a regular expression: {reason}")]
    InvalidPattern {
        /// The pattern.
        layers: String,
        /// Why, on one line.
        reason: String,
    },

    /// The pattern of a rule matches no layer of the model.
    #[error("rule `{layers}` matches none of the {available} layers; names look like `{example}`")]
    PatternMatchesNothing {
        /// The pattern.
        layers: String,
        /// How many layers there are.
        available: usize,
        /// The name of one of them.
        example: String,
    },

    /// A rule asks for a layer that is not dense any more.
    #[error("rule `{layers}` matches `{layer}`, which is {method} already; expected a dense layer")]
    AlreadyReplaced {
        /// The pattern.
        layers: String,
        /// The layer.
        layer: String,
        /// What it is now.
        method: Method,
    },

    /// A plan has no rules.
    #[error("the plan has no rules; expected at least one")]
    EmptyPlan,

    /// There is no preset of that name.
    #[error("no preset `{found}`; there are: {available}")]
    UnknownPreset {
        /// The name that was given.
        found: String,
        /// The names there are, separated by commas.
        available: String,
    },

    /// The tokenizer files are damaged, or a text could not be encoded.
    #[error("{}: {reason}", .path.display())]
    Tokenizer {
        /// The file the tokenizer came from.
        path: PathBuf,
        /// What the tokenizer said, on one line.
        reason: String,
    },

    /// A directory has a tokenizer of a kind that is not read.
    #[error("{}: {found}; expected {expected}", .path.display())]
    UnsupportedTokenizer {
        /// The file.
        path: PathBuf,
        /// What kind it is of.
        found: &'static str,
        /// What would be read.
        expected: &'static str,
    },

    /// A token id is not in the vocabulary of the model.
    #[error("token id {found} at position {position}; expected 0 to {max}", max = .vocab_size.saturating_sub(1))]
    TokenOutOfRange {
        /// The id.
        found: i64,
        /// Where it is in the ids given.
        position: usize,
        /// Number of ids the model knows.
        vocab_size: usize,
    },

    /// A number of ids that does not fill the batch.
    #[error(
        "{found} token ids do not fill a batch of {batch} rows; expected a positive multiple of {batch}"
    )]
    Batch {
        /// Number of ids.
        found: usize,
        /// Number of rows.
        batch: usize,
    },

    /// More tokens than the model has positions.
    #[error("{found} tokens; expected at most {max}, the number of positions of the model")]
    TooManyTokens {
        /// Tokens in the context, those in the cache included.
        found: usize,
        /// Positions of the model, or the capacity of the cache where that is smaller.
        max: usize,
    },

    /// Fewer tokens than the computation needs.
    #[error("{found} tokens; expected at least {min}")]
    TooFewTokens {
        /// Tokens given.
        found: usize,
        /// Tokens needed.
        min: usize,
    },

    /// A cache was used with a model or batch it was not made for.
    #[error("key-value cache has {key} {found}; the model and its input need {expected}")]
    CacheMismatch {
        /// What differs.
        key: &'static str,
        /// Its value in the cache.
        found: usize,
        /// Its value in the model or the input.
        expected: usize,
    },

    /// A class that the model does not know.
    #[error("class {found} at position {position}; expected 0 to {max}")]
    ClassOutOfRange {
        /// The class.
        found: i64,
        /// Where it is in the classes given.
        position: usize,
        /// The largest class; the null class where that is allowed.
        max: usize,
    },

    /// An image, or a list that goes with images, does not have the shape that the model needs.
    #[error("`{tensor}` has shape {found:?}; the model and its input need {expected:?}")]
    InputShape {
        /// What the tensor is.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },

    /// A file is not one that `torch.save` writes.
    #[error("{}: not a PyTorch checkpoint: {reason}", .path.display())]
    NotPytorch {
        /// The file.
        path: PathBuf,
        /// Why, on one line.
        reason: String,
    },

    /// A PyTorch checkpoint does not hold a DiT.
    #[error(
        "{}: tensor `{tensor}` {}; expected that of a DiT, with {rank} axes",
        .path.display(),
        .found.as_ref().map_or_else(|| String::from("is not in the file"), |found| format!("has shape {found:?}"))
    )]
    NotADit {
        /// The file.
        path: PathBuf,
        /// A tensor that every DiT has.
        tensor: String,
        /// Its shape, where it is there.
        found: Option<Vec<usize>>,
        /// The number of its axes.
        rank: usize,
    },

    /// A tensor of a file that is imported is not of floating point.
    #[error("{}: tensor `{tensor}` has dtype {found}; expected f64, f32, f16 or bf16", .path.display())]
    NotReadAsFloat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        found: &'static str,
    },

    /// The directory to make is there already.
    #[error("{}: exists already; expected a path that does not", .path.display())]
    OutputExists {
        /// The path.
        path: PathBuf,
    },

    /// Guidance was asked of a model that has no class for "no class".
    #[error(
        "guidance {guidance} needs a null class, which this model was trained without; expected 1"
    )]
    NoNullClass {
        /// The guidance.
        guidance: f64,
    },

    /// Padding was used with a batch it was not made for.
    #[error("padding is for {found} rows; the batch has {expected}")]
    PaddingMismatch {
        /// Rows of the padding.
        found: usize,
        /// Rows of the batch.
        expected: usize,
    },

    /// Pixels of a shape that the model does not take.
    #[error(
        "pixel values have shape {found:?}; expected [batch, {channels}, height, width] with at least {} x {} pixels", .patch[0], .patch[1]
    )]
    PixelShape {
        /// The shape of the pixels.
        found: Vec<usize>,
        /// Colour channels of the model.
        channels: usize,
        /// Height and width of a patch.
        patch: [usize; 2],
    },

    /// Images of different sizes were to go through a model together.
    #[error("images of sizes {found:?} in one batch; expected one size, height and width")]
    MixedSizes {
        /// Height and width of each.
        found: Vec<[usize; 2]>,
    },

    /// A file is not an image that is read.
    #[error("{}: not a readable image: {reason}; expected a PNG or JPEG file", .path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What the decoder said, on one line.
        reason: String,
    },

    /// A list of images is not as it should be.
    #[error("{}: {found}; expected {expected}", .path.display())]
    ImageList {
        /// The file or folder, with the line where there is one.
        path: PathBuf,
        /// What is wrong.
        found: String,
        /// What would be right.
        expected: String,
    },

    /// A label that the model does not have.
    #[error("{}: label {found}; expected 0 to {max} or one of the names in config.json", .path.display(), max = .labels.saturating_sub(1))]
    UnknownLabel {
        /// The file or folder that names it.
        path: PathBuf,
        /// The label.
        found: String,
        /// Number of labels of the model.
        labels: usize,
    },

    /// The model returned a score that is not a number.
    #[error("the score of label {label} is {value}; expected finite scores (try a wider dtype)")]
    NonFiniteScore {
        /// The label.
        label: usize,
        /// The value.
        value: f32,
    },

    /// An option has a value that cannot be used.
    #[error("`{option}` is {found}; expected {expected}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },

    /// The model returned a logit that is not a number.
    #[error("the logit of token {token} is {value}; expected finite logits (try a wider dtype)")]
    NonFiniteLogit {
        /// The token.
        token: usize,
        /// The value.
        value: f32,
    },
}

impl ModelError {
    /// The error for a dtype that `device` cannot compute in.
    pub(crate) fn unsupported_dtype(device: &burn::tensor::Device, dtype: DType) -> Self {
        Self::UnsupportedDtype {
            device: format!("{device:?}"),
            dtype: dtype.name(),
        }
    }

    /// The error for an option whose value cannot be used.
    pub(crate) fn invalid_option(
        option: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidOption {
            option,
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}
