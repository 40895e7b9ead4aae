//! What a training is told.

use burn::tensor::FloatDType;

/// How a model is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Steps of the optimizer.
    pub steps: usize,
    /// Rows or images that go through the model at once.
    pub batch: usize,
    /// Batches of each device whose gradients make one step.
    pub accumulate: usize,
    /// Devices that share the batches of a step.
    pub devices: usize,
    /// How the devices share gradients.
    pub exchange: Exchange,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Share of it that is left at the end.
    pub final_share: f64,
    /// Steps in which the learning rate grows from zero to its largest value.
    pub warmup: usize,
    /// Decay of matrices per step and learning rate; vectors (norms and biases) and the couplings of BLAST
    /// have none.
    pub weight_decay: f64,
    /// Largest norm of the gradient of a step, over all parameters together.
    pub clip: Option<f64>,
    /// Steps between two validations, after each of which the state is kept for a resumption.
    pub save_every: usize,
    /// Most batches that a validation looks at.
    pub valid_batches: usize,
    /// Seed of the order of the data, and of noise.
    pub seed: u64,
    /// What the model computes in. Weights, their moments and what is summed up are in `f32`.
    pub dtype: FloatDType,
    /// Computes activations that are cheap to compute again instead of keeping them.
    pub recompute: bool,
    /// Which parameters are trained.
    pub trained: Trained,
    /// Share that an average of the weights keeps at each step; the average is what is written.
    pub average: Option<f64>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 8,
            accumulate: 1,
            devices: 1,
            exchange: Exchange::AllReduce,
            learning_rate: 1e-4,
            final_share: 0.1,
            warmup: 100,
            weight_decay: 0.01,
            clip: Some(1.0),
            save_every: 100,
            valid_batches: 16,
            seed: 0,
            dtype: FloatDType::F32,
            recompute: false,
            trained: Trained::All,
            average: None,
        }
    }
}

impl TrainOptions {
    /// Batches of all devices that make one step.
    pub(crate) fn batches_per_step(&self) -> usize {
        self.accumulate * self.devices
    }

    /// Rounds of a training: what lies between two validations.
    pub(crate) fn rounds(&self) -> usize {
        self.steps.div_ceil(self.save_every)
    }
}

/// Which parameters are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// All of them.
    All,
    /// Factors and biases of the layers that are not dense.
    Layers,
}

/// How several devices share gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// Each device keeps the model and its optimizer; gradients are averaged by a collective
    /// operation, which on NVIDIA's devices is NCCL's.
    AllReduce,
    /// The first device gets all gradients and has the optimizer; the others get the weights anew at
    /// each step.
    MainDevice,
}

/// What a student learns from its teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct Distillation {
    /// Weight of the loss that the task has by itself: cross entropy, or the error of the noise.
    pub task: f64,
    /// Weight of the distance between outputs: the Kullback-Leibler divergence of the student's
    /// distribution from the teacher's, multiplied with the square of the temperature; for a DiT the
    /// mean squared difference.
    pub output: f64,
    /// What logits are divided by for it.
    pub temperature: f64,
    /// Weight of the distance between hidden states, for each block or one for all: the mean squared
    /// difference over the mean square of the teacher's state.
    pub hidden: Vec<f64>,
}

impl Default for Distillation {
    fn default() -> Self {
        Self {
            task: 1.0,
            output: 1.0,
            temperature: 1.0,
            hidden: vec![1.0],
        }
    }
}

impl Distillation {
    /// The weight of the hidden state behind block `n`.
    pub(crate) fn hidden_weight(&self, n: usize) -> f64 {
        match self.hidden.as_slice() {
            [all] => *all,
            each => each.get(n).copied().unwrap_or(0.0),
        }
    }
}
