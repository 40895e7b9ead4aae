//! What the command line takes.

use std::path::PathBuf;
use std::str::FromStr;

use burn_blr::Method;
use burn_blr::strategy::Strategy;
use clap::{ArgAction, Args, Parser, ValueEnum};
use training::{BlastSolver, Exchange, Trained};

use crate::commands::bench::{Family, Phase};
use crate::device::DeviceChoice;

/// Makes dense checkpoints smaller and faster with low-rank, Monarch and BLAST layers.
#[derive(Debug, Parser)]
#[command(name = "blr", version, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub subcommand: Subcommand,
}

/// Flags of every subcommand.
#[derive(Debug, Args)]
pub struct Common {
    /// Where to compute: auto takes CUDA where a GPU answers, else the CPU
    #[arg(
        long,
        global = true,
        default_value = "auto",
        value_name = "auto|cpu|cuda[:N]"
    )]
    pub device: DeviceChoice,
    /// Number format of weights and activations; factorisations are always in f32
    #[arg(long, global = true, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Seed of everything that is drawn at random
    #[arg(long, global = true, default_value_t = 0)]
    pub seed: u64,
    /// Writes the numbers of the report to FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Chooses the kernels of compressed layers on a GPU by measurement, once for each shape; results are kept for
    /// later runs
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub tune: bool,
    /// Most memory that a compressed layer on a GPU takes between its products, in MiB: with less than
    /// all tokens need, it does fewer at a time and takes longer; 128 tokens at least [default: no limit]
    #[arg(long, global = true, value_name = "MIB")]
    pub scratch: Option<usize>,
}

impl Common {
    /// The limit of the memory between products, in bytes.
    pub fn scratch_bytes(&self) -> Option<usize> {
        self.scratch
            .map(|mebibytes| mebibytes.saturating_mul(1 << 20))
    }
}

/// A number format of computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits
    F32,
    /// 16 bits, 11 of them precision
    F16,
    /// 16 bits, 8 of them precision
    Bf16,
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Compresses a small trained GPT-2 three ways, evaluates and times it; needs no download
    Demo(DemoArguments),
    /// Turns a dense checkpoint into one whose linear layers are low-rank, Monarch or BLAST
    Compress(CompressArguments),
    /// Puts layers that were compressed apart, with compress --part or without, into one checkpoint
    Merge(MergeArguments),
    /// Trains a compressed checkpoint, by default to do what its dense teacher does
    Finetune(FinetuneArguments),
    /// Trains a model from scratch, dense or with low-rank, Monarch or BLAST layers
    Train(TrainArguments),
    /// Measures loss and perplexity of a language model on a text, or accuracy on images
    Eval(EvalArguments),
    /// Continues a prompt
    Generate(GenerateArguments),
    /// Says what is on images
    Classify(ClassifyArguments),
    /// Draws images with a DiT and writes them side by side as a PNG
    Sample(SampleArguments),
    /// Turns a checkpoint of another format into a directory that the other subcommands read
    Import(ImportArguments),
    /// Runs one forward pass on given tensors
    Forward(ForwardArguments),
    /// Lists the layers of a checkpoint with structure, parameters and bytes, dense against now
    Inspect(InspectArguments),
    /// Times layers
    Bench(BenchArguments),
    /// Says what layers take at best on a GPU that need not be there, as a table and a picture
    Roofline(RooflineArguments),
}

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// The dense checkpoint [default: demo/checkpoint of this repository]
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// The text to evaluate on [default: demo/heldout.txt of this repository]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Where compressed checkpoints and the report go (report.html, .md and .json); results of an
    /// earlier demo are replaced
    #[arg(long, value_name = "DIR", default_value = "target/blr-demo")]
    pub out: PathBuf,
    /// Fractions of the parameters of the compressed layers to keep
    #[arg(long, value_delimiter = ',', default_values_t = [0.5, 0.3])]
    pub keep: Vec<f64>,
    /// Start of the sample text
    #[arg(long, default_value = "A mutex is")]
    pub prompt: String,
}

#[derive(Debug, Args)]
pub struct CompressArguments {
    /// The dense checkpoint: config.json, model.safetensors or shards, tokenizer files
    pub checkpoint: PathBuf,
    /// The directory to make; beside the checkpoint it gets a page with tables and plots, report.html
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The structure: low-rank, monarch or blast
    #[arg(long, required_unless_present = "plan", conflicts_with = "plan")]
    pub method: Option<Method>,
    /// Inner width of the factors
    #[arg(long, conflicts_with_all = ["plan", "preset", "keep"])]
    pub rank: Option<usize>,
    /// Fraction of the parameters of each chosen layer to keep, between 0 and 1
    #[arg(long, value_name = "FRACTION", conflicts_with_all = ["plan", "preset"])]
    pub keep: Option<f64>,
    /// Blocks per side [default: up to 16 for BLAST, 4 for Monarch, where they divide the features]
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["plan", "preset"])]
    pub blocks: Option<usize>,
    /// Layers to compress, a regular expression searched for in their names [default: all]
    #[arg(long, value_name = "REGEX", conflicts_with_all = ["plan", "preset"])]
    pub layers: Option<String>,
    /// A TOML file that says which layers become what
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Layers, blocks and ranks of the paper (arXiv:2512.20861) for a network: gpt2s, llama1b, llama7b, vit_b, dit_xl
    #[arg(long, value_name = "NAME", conflicts_with = "plan")]
    pub preset: Option<String>,
    /// How --keep is shared out
    #[arg(long, value_enum, default_value_t = RankChoice::Uniform, conflicts_with_all = ["plan", "preset", "rank"])]
    pub ranks: RankChoice,
    /// Writes what each layer becomes as a plan
    #[arg(long, value_name = "FILE")]
    pub plan_out: Option<PathBuf>,
    /// Goes on with an unfinished run for the same output directory, or begins one; does nothing to a
    /// finished one
    #[arg(long, action = ArgAction::SetTrue)]
    pub resume: bool,
    /// Writes the factors of the chosen layers and no other weights, for blr merge
    #[arg(long, action = ArgAction::SetTrue)]
    pub part: bool,
    /// Minimises the error of the layers' outputs on these samples instead of that of their weights: a
    /// text in UTF-8, or a folder with images for a ViT
    #[arg(long, value_name = "PATH")]
    pub calibration: Option<PathBuf>,
    /// Most windows of the text, of up to 2048 tokens each, or images; they are taken at equal distances
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = count)]
    pub samples: usize,
    /// How BLAST factors are found
    #[arg(long, value_enum, default_value_t = SolverChoice::Lbfgs)]
    pub solver: SolverChoice,
    /// Most steps of the search for BLAST factors
    #[arg(long, default_value_t = 200, value_name = "COUNT")]
    pub steps: usize,
    /// Ends the search for BLAST factors when ten steps lower the error by less than this share of it
    #[arg(long, default_value_t = 1e-3, value_name = "SHARE")]
    pub tolerance: f64,
}

#[derive(Debug, Args)]
pub struct MergeArguments {
    /// What compress wrote for different layers of one checkpoint
    #[arg(required = true, value_name = "PART")]
    pub parts: Vec<PathBuf>,
    /// The checkpoint that the parts were made from; not needed where the first part is a whole
    /// checkpoint
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// How a share of a model's weights is shared out to layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RankChoice {
    /// The same share to each layer
    Uniform,
    /// More to layers whose errors, measured with --calibration, change the model's output more
    ByError,
}

/// How BLAST factors are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SolverChoice {
    /// Quasi-Newton steps from the SVD
    Lbfgs,
    /// Preconditioned gradient steps from a random start, as published (arXiv:2410.21262)
    Gd,
}

impl SolverChoice {
    /// The name used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            SolverChoice::Lbfgs => "lbfgs",
            SolverChoice::Gd => "gd",
        }
    }
}

impl From<SolverChoice> for BlastSolver {
    fn from(choice: SolverChoice) -> Self {
        match choice {
            SolverChoice::Lbfgs => BlastSolver::QuasiNewton,
            SolverChoice::Gd => BlastSolver::Published,
        }
    }
}

#[derive(Debug, Args)]
pub struct FinetuneArguments {
    /// The checkpoint to train
    pub checkpoint: PathBuf,
    /// The dense checkpoint whose outputs and hidden states are learned; without it the task alone is
    #[arg(long, value_name = "DIR")]
    pub teacher: Option<PathBuf>,
    /// Weight of the divergence from the teacher's outputs
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0, value_parser = weight)]
    pub output_weight: f64,
    /// What logits are divided by for it
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = weight)]
    pub temperature: f64,
    /// Weight of the relative squared distance to the teacher's hidden states; one, or one for each
    /// block, separated by commas
    #[arg(long, value_name = "WEIGHTS", value_delimiter = ',', default_values_t = [1.0], value_parser = weight)]
    pub hidden_weight: Vec<f64>,
    /// Weight of the loss of the task: cross entropy, or the error of the noise
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0, value_parser = weight)]
    pub task_weight: f64,
    /// Which parameters are trained
    #[arg(long, value_enum, default_value_t = TrainedChoice::All)]
    pub train: TrainedChoice,
    #[command(flatten)]
    pub training: TrainingArguments,
}

#[derive(Debug, Args)]
pub struct TrainArguments {
    /// The family
    #[arg(long, value_enum)]
    pub family: FamilyChoice,
    /// The sizes of the model, as in the config.json of a checkpoint; the folder configs/ has some
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A directory with the tokenizer of a language model
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// The structure of the linear layers: low-rank, monarch or blast [default: dense]
    #[arg(long, conflicts_with = "plan")]
    pub method: Option<Method>,
    /// Fraction of the parameters of each chosen layer to keep, between 0 and 1
    #[arg(
        long,
        value_name = "FRACTION",
        requires = "method",
        conflicts_with = "preset"
    )]
    pub keep: Option<f64>,
    /// Inner width of the factors
    #[arg(long, requires = "method", conflicts_with_all = ["keep", "preset"])]
    pub rank: Option<usize>,
    /// Blocks per side [default: up to 16 for BLAST, 4 for Monarch, where they divide the features]
    #[arg(
        long,
        value_name = "COUNT",
        requires = "method",
        conflicts_with = "preset"
    )]
    pub blocks: Option<usize>,
    /// Layers that get the structure, a regular expression searched for in their names [default: all]
    #[arg(
        long,
        value_name = "REGEX",
        requires = "method",
        conflicts_with = "preset"
    )]
    pub layers: Option<String>,
    /// A TOML file that says which layers become what
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Layers, blocks and ranks of the paper (arXiv:2512.20861) for a network: gpt2s, llama1b, llama7b, vit_b, dit_xl
    #[arg(long, value_name = "NAME", requires = "method")]
    pub preset: Option<String>,
    #[command(flatten)]
    pub training: TrainingArguments,
}

/// What both ways of training take.
#[derive(Debug, Args)]
pub struct TrainingArguments {
    /// What is learned from: a text in UTF-8; or images with their labels, as eval takes them, for a ViT or
    /// a DiT of pixels
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// What validations look at [default: a part of the data, which is not learned from then]
    #[arg(long, value_name = "PATH")]
    pub valid: Option<PathBuf>,
    /// Share of the data for validation if --valid names none
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub valid_share: f64,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Tokens of a row of text [default: the context of the model, up to 512]
    #[arg(long, value_name = "COUNT")]
    pub window: Option<usize>,
    /// Steps of the optimizer
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub steps: usize,
    /// Rows of text or images that go through the model at once, on each device
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub batch: usize,
    /// Batches of each device whose gradients make one step
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub accumulate: usize,
    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 3e-4)]
    pub lr: f64,
    /// Share of it that is left at the end, after a cosine
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub lr_end: f64,
    /// Steps in which the learning rate grows to its largest value [default: a tenth of all]
    #[arg(long, value_name = "COUNT")]
    pub warmup: Option<usize>,
    /// Decay of matrices per step and learning rate; vectors and the couplings of BLAST have none
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    pub weight_decay: f64,
    /// Largest norm of a step's gradient; 0 does not limit it
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub clip: f64,
    /// Share that an average of the weights keeps at each step, such as 0.999; the average is written then
    #[arg(long, value_name = "SHARE")]
    pub ema: Option<f64>,
    /// Steps between two validations, after each of which a killed run can go on
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub save_every: usize,
    /// Most batches of a validation
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub valid_batches: usize,
    /// Computes cheap activations again in the backward pass instead of keeping them
    #[arg(long, action = ArgAction::SetTrue)]
    pub recompute: bool,
    /// Devices of this machine that share the batches of a step, from --device on
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub devices: usize,
    /// How several devices share gradients
    #[arg(long, value_enum, default_value_t = ExchangeChoice::Main)]
    pub exchange: ExchangeChoice,
    /// Goes on with an unfinished run for the same output directory
    #[arg(long, action = ArgAction::SetTrue)]
    pub resume: bool,
}

/// Which parameters are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrainedChoice {
    /// All of them
    All,
    /// Factors and biases of the compressed layers
    Layers,
}

impl From<TrainedChoice> for Trained {
    fn from(choice: TrainedChoice) -> Self {
        match choice {
            TrainedChoice::All => Trained::All,
            TrainedChoice::Layers => Trained::Layers,
        }
    }
}

/// How several devices share gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExchangeChoice {
    /// By a collective operation: NCCL's
    AllReduce,
    /// Through the first device, which has the optimizer
    Main,
}

impl From<ExchangeChoice> for Exchange {
    fn from(choice: ExchangeChoice) -> Self {
        match choice {
            ExchangeChoice::AllReduce => Exchange::AllReduce,
            ExchangeChoice::Main => Exchange::MainDevice,
        }
    }
}

/// A model family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FamilyChoice {
    /// GPT-2
    Gpt2,
    /// Llama
    Llama,
    /// A vision transformer
    Vit,
    /// A diffusion transformer
    Dit,
}

impl From<FamilyChoice> for models::Family {
    fn from(choice: FamilyChoice) -> Self {
        match choice {
            FamilyChoice::Gpt2 => models::Family::Gpt2,
            FamilyChoice::Llama => models::Family::Llama,
            FamilyChoice::Vit => models::Family::Vit,
            FamilyChoice::Dit => models::Family::Dit,
        }
    }
}

/// Parses the weight of a loss.
fn weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(weight) if weight >= 0.0 && weight.is_finite() => Ok(weight),
        _ => Err(String::from("expected a number of at least 0")),
    }
}

#[derive(Debug, Args)]
pub struct EvalArguments {
    /// The checkpoint
    pub checkpoint: PathBuf,
    /// The text, UTF-8; or images with their labels: a folder with a folder per label, a .csv file of
    /// lines `image,label`, or a .json list of objects with `image` and `label`
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Tokens of a window; each is evaluated on its own [default: the context of the model, up to 2048]
    #[arg(long, value_name = "COUNT")]
    pub window: Option<usize>,
    /// Writes a page with tables and plots
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Shows other models on that page as well: what eval --json wrote of them
    #[arg(long, value_delimiter = ',', value_name = "FILES", requires = "report")]
    pub beside: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// The checkpoint
    pub checkpoint: PathBuf,
    /// The text to continue; given several times, all are continued as one batch
    #[arg(long, required = true, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Most tokens to add
    #[arg(long, default_value_t = 128, value_name = "COUNT")]
    pub max_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Sample from this many of the likeliest tokens
    #[arg(long, value_name = "COUNT")]
    pub top_k: Option<usize>,
    /// Sample from the fewest tokens that together have this probability
    #[arg(long, value_name = "PROBABILITY")]
    pub top_p: Option<f64>,
    /// Runs the whole context again for every token, to check what the cache gives
    #[arg(long, action = ArgAction::SetTrue)]
    pub no_cache: bool,
    /// Captures the pass over the prompt in a graph on a GPU, as the passes over single tokens are
    /// anyway; a capture takes about as long as four passes, so this is for checks
    #[arg(long, action = ArgAction::SetTrue, conflicts_with = "no_cache")]
    pub capture: bool,
}

#[derive(Debug, Args)]
pub struct ClassifyArguments {
    /// The checkpoint
    pub checkpoint: PathBuf,
    /// PNG or JPEG files
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// How many labels to name for each image, likeliest first
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub top: usize,
}

#[derive(Debug, Args)]
pub struct SampleArguments {
    /// The checkpoint of a DiT
    pub checkpoint: PathBuf,
    /// The class; several may be given, separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "NUMBERS")]
    pub class: Vec<u32>,
    /// Images of each class
    #[arg(long, default_value_t = 4, value_name = "COUNT", value_parser = count)]
    pub count: usize,
    /// Steps from noise to image, up to 1000 [default: 250 for ddpm, 50 for ddim]
    #[arg(long, value_name = "COUNT")]
    pub steps: Option<usize>,
    /// How steps are taken: with noise of the learned variance, or without noise
    #[arg(long, value_enum, default_value_t = SamplerChoice::Ddpm)]
    pub sampler: SamplerChoice,
    /// Classifier-free guidance; 1 is none, at half of the cost
    #[arg(long, default_value_t = 4.0, value_name = "SCALE")]
    pub guidance: f64,
    /// Decodes latents with the KL autoencoder in DIR, as diffusers saves it; without it latents are
    /// shown in false colour
    #[arg(long, value_name = "DIR")]
    pub vae: Option<PathBuf>,
    /// Captures the pass of a step in a graph on a GPU and replays it with one launch
    #[arg(long, action = ArgAction::SetTrue)]
    pub capture: bool,
    /// The PNG file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// How steps are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SamplerChoice {
    /// With noise
    Ddpm,
    /// Without noise
    Ddim,
}

/// Parses a count of at least one that memory holds.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=4096).contains(&count) => Ok(count),
        _ => Err(String::from("expected 1 to 4096")),
    }
}

#[derive(Debug, Args)]
pub struct ImportArguments {
    #[command(subcommand)]
    pub what: ImportSubcommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum ImportSubcommand {
    /// A `.pt` file of the official DiT code: a state dict, or what its train.py saves
    Dit(ImportDitArguments),
}

#[derive(Debug, Args)]
pub struct ImportDitArguments {
    /// The `.pt` file
    pub file: PathBuf,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Side of the images, checked against the positions in the file: 256, 512
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<usize>,
    /// Attention heads [default: those of the model of the paper of the same width]
    #[arg(long, value_name = "COUNT")]
    pub heads: Option<usize>,
}

#[derive(Debug, Args)]
pub struct ForwardArguments {
    /// The checkpoint
    pub checkpoint: PathBuf,
    /// A safetensors file; language models: `input_ids`, I64 [batch, tokens]; ViT: `pixel_values`, F32
    /// [batch, channels, height, width]; DiT: `x`, F32 [batch, channels, height, width], and `t` and
    /// `y`, I64, one of each per image
    #[arg(long, value_name = "FILE")]
    pub inputs: PathBuf,
    /// The safetensors file to write; language models: `logits`, F32 [batch, tokens, vocabulary];
    /// ViT: `logits`, F32 [batch, labels]; DiT: `sample`, F32 of the shape of `x`, with the channels
    /// of a learned variance behind
    #[arg(long, value_name = "FILE")]
    pub outputs: PathBuf,
}

#[derive(Debug, Args)]
pub struct InspectArguments {
    /// The checkpoint
    pub checkpoint: PathBuf,
}

#[derive(Debug, Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    pub what: BenchSubcommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum BenchSubcommand {
    /// Times the layers of the paper as dense, low-rank, Monarch and BLAST
    Layers(BenchLayersArguments),
    /// Times whole networks with random weights, dense and with the layers of the paper
    Model(BenchModelArguments),
    /// Sets the times of bench layers beside those of benches/peers/layers.py
    Report(BenchReportArguments),
    /// Follows the error of a BLAST factorisation over time, on a matrix with singular values k^-0.5
    Compress(BenchCompressArguments),
}

#[derive(Debug, Args)]
pub struct BenchReportArguments {
    /// What `blr bench layers --json` wrote
    pub ours: PathBuf,
    /// What `benches/peers/layers.py --json` wrote
    pub peers: PathBuf,
    /// Prints the table as Markdown
    #[arg(long)]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct BenchModelArguments {
    /// The networks
    #[arg(
        long,
        value_enum,
        required = true,
        value_delimiter = ',',
        value_name = "NAMES"
    )]
    pub family: Vec<Family>,
    /// Only these methods: dense, low-rank, monarch, blast
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub methods: Vec<String>,
    /// What is timed [default: prefill,decode for language models, forward for the others]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub phase: Vec<Phase>,
    /// Rows or images that go through the network at once [default: 1]
    #[arg(long, value_name = "COUNT")]
    pub batch: Option<usize>,
    /// Tokens of each row [default: 1024 for Llama, 384 for GPT-2; decode always has one]
    #[arg(long, value_name = "COUNT")]
    pub tokens: Option<usize>,
    /// Tokens of each row in the cache before a token is decoded [default: as many as --tokens]
    #[arg(long, value_name = "COUNT")]
    pub context: Option<usize>,
    /// Fewest timed repetitions of each row
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    pub reps: usize,
}

#[derive(Debug, Args)]
pub struct RooflineArguments {
    /// The layers of these networks [default: all that bench layers times]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub family: Vec<Family>,
    /// Layers of bench layers whose name contains one of these, such as gpt2s or llama7b.down_proj
    #[arg(long, value_delimiter = ',', value_name = "TEXTS")]
    pub layer: Vec<String>,
    /// Inputs of a layer of one's own, with --out, and with --rank for all methods but dense
    #[arg(long = "in", requires = "out_features", conflicts_with_all = ["family", "layer"], value_name = "COUNT", value_parser = width)]
    pub in_features: Option<usize>,
    /// Outputs of a layer of one's own
    #[arg(long = "out", requires = "in_features", value_name = "COUNT", value_parser = width)]
    pub out_features: Option<usize>,
    /// Inner width of the factors of a layer of one's own
    #[arg(long, requires = "in_features", value_name = "COUNT", value_parser = width)]
    pub rank: Option<usize>,
    /// Blocks per side of a layer of one's own [default: as for compress]
    #[arg(long, requires = "in_features", value_name = "COUNT", value_parser = width)]
    pub blocks: Option<usize>,
    /// Token counts; paper stands for that of the paper's measurement of a layer
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "COUNTS",
        default_value = "paper"
    )]
    pub tokens: Vec<TokenCount>,
    /// Only these methods: dense, low-rank, monarch, blast
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub methods: Vec<String>,
    /// GPUs: h100, h200, a100, a100-40gb, a40, l40s, rtx4090, orin-nano [default: that of --measured, or h100]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub gpu: Vec<String>,
    /// Sets what `blr bench layers --json` wrote beside the limits
    #[arg(long, value_name = "FILE")]
    pub measured: Option<PathBuf>,
    /// Draws the limits, and what was measured, as an SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Prints the table as Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// Parses a width of a layer, small enough that a product of two counts in 64 bits.
fn width(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(width) if (1..=1 << 17).contains(&width) => Ok(width),
        _ => Err(String::from("expected 1 to 131072")),
    }
}

#[derive(Debug, Args)]
pub struct BenchCompressArguments {
    /// Rows of the matrix
    #[arg(long, default_value_t = 1024, value_name = "COUNT")]
    pub rows: usize,
    /// Columns of the matrix
    #[arg(long, default_value_t = 1024, value_name = "COUNT")]
    pub columns: usize,
    /// Inner width of the factors
    #[arg(long, default_value_t = 256)]
    pub rank: usize,
    /// Blocks per side
    #[arg(long, default_value_t = 16, value_name = "COUNT")]
    pub blocks: usize,
    /// How the factors are found
    #[arg(long, value_enum, default_value_t = SolverChoice::Lbfgs)]
    pub solver: SolverChoice,
    /// Steps of the search
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub steps: usize,
    /// Computes all products of the search in f32; without it a GPU may round to tf32
    #[arg(long, action = ArgAction::SetTrue)]
    pub exact: bool,
    /// Adds a part of rank 4 of its own to every block of the matrix
    #[arg(long, action = ArgAction::SetTrue)]
    pub own_parts: bool,
    /// Runs this many times; the first one compiles kernels on a GPU
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub repeat: usize,
}

/// What is done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pass {
    /// The output
    Forward,
    /// The output, and the gradients of input and factors for a gradient of one everywhere
    Training,
}

impl Pass {
    /// The name used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Training => "training",
        }
    }
}

/// Kernels that are chosen or forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StrategyChoice {
    /// The fastest that the device can run
    Auto,
    /// One unit for each output
    Naive,
    /// Tiles in shared memory, without tensor cores
    Tiled,
    /// Tensor cores of compute capability 8.0 and above
    TensorCores,
    /// Tensor cores of compute capability 9.0
    Hopper,
    /// The same, with both products of a Monarch layer in one kernel, and the first of a BLAST layer with its coupling
    Fused,
}

impl StrategyChoice {
    /// The name used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            StrategyChoice::Auto => "auto",
            StrategyChoice::Naive => "naive",
            StrategyChoice::Tiled => "tiled",
            StrategyChoice::TensorCores => "tensor-cores",
            StrategyChoice::Hopper => "hopper",
            StrategyChoice::Fused => "fused",
        }
    }

    /// The kernels that are forced, if they are.
    pub fn forced(self) -> Option<Strategy> {
        match self {
            StrategyChoice::Auto => None,
            StrategyChoice::Naive => Some(Strategy::Naive),
            StrategyChoice::Tiled => Some(Strategy::Tiled),
            StrategyChoice::TensorCores => Some(Strategy::TensorCores),
            StrategyChoice::Hopper => Some(Strategy::Hopper),
            StrategyChoice::Fused => Some(Strategy::Fused),
        }
    }
}

/// A number of tokens, or that of the paper's measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCount {
    Paper,
    Count(usize),
}

impl FromStr for TokenCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("paper", _) => Ok(TokenCount::Paper),
            (_, Ok(count)) if count > 0 => Ok(TokenCount::Count(count)),
            _ => Err("expected a count of at least 1, or paper".to_string()),
        }
    }
}

#[derive(Debug, Args)]
pub struct BenchLayersArguments {
    /// Only layers whose name contains one of these, such as gpt2s or llama7b.down_proj
    #[arg(long, value_delimiter = ',', value_name = "TEXTS")]
    pub layer: Vec<String>,
    /// Only these methods: dense, low-rank, monarch, blast
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub methods: Vec<String>,
    /// Token counts; paper stands for that of the paper's measurement of a layer
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "COUNTS",
        default_value = "1,16,paper"
    )]
    pub tokens: Vec<TokenCount>,
    /// What is timed
    #[arg(long, value_enum, default_value_t = Pass::Forward)]
    pub pass: Pass,
    /// Kernels by which the layers run, in rows of their own: auto chooses by device and shape, the
    /// others are steps on the way to it
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAMES",
        default_value = "auto"
    )]
    pub strategy: Vec<StrategyChoice>,
    /// Times the structures by plain operations of Burn as well, in rows with kernel "plain"
    #[arg(long)]
    pub plain: bool,
    /// Fewest timed repetitions of each row
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    pub reps: usize,
    /// Lists the layers instead, with the blocks and ranks they get; --json writes them to FILE
    #[arg(long)]
    pub list: bool,
}
