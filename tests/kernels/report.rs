//! Launches every kernel without looking at results, for `kernel-report`, which compiles what a
//! program launches on a machine without a GPU:
//! `kernel-report target/release/deps/kernels-* --ignored report`.

use cubecl::prelude::*;
use cubecl_kernels::blast::{self, BlastBackward, BlastForward};
use cubecl_kernels::low_rank::{self, LowRankForward};
use cubecl_kernels::monarch::{self, MonarchForward};
use cubecl_kernels::{BlastDims, LowRankDims, MonarchDims, OutputOrder, Strategy};

use crate::harness::clients::cuda;
use crate::harness::dtype::Dtype;
use crate::harness::tensors::{DeviceTensor, Layout};

/// Tokens: a few, some, and enough to fill a large GPU with large tiles.
const TOKENS: [usize; 3] = [1, 64, 2048];
/// As in `llama1b.q_proj`.
const FEATURES: usize = 2048;
const BLOCKS: usize = 16;
const RANK: usize = 256;

struct Launcher<'a, R: Runtime> {
    client: &'a ComputeClient<R>,
    dtype: Dtype,
    strategy: Strategy,
    tokens: usize,
}

impl<R: Runtime> Launcher<'_, R> {
    fn tensor(&self, shape: &[usize]) -> TensorBinding<R> {
        DeviceTensor::junk(self.client, shape, Layout::Contiguous, self.dtype).binding()
    }

    fn features(&self) -> TensorBinding<R> {
        self.tensor(&[self.tokens, FEATURES])
    }

    fn low_rank(&self) {
        let dims = LowRankDims::new(RANK, FEATURES, FEATURES).unwrap();
        let operands = LowRankForward {
            input: self.features(),
            u: self.tensor(&dims.u_shape()),
            v: self.tensor(&dims.v_shape()),
            bias: Some(self.tensor(&[FEATURES])),
            inner: self.tensor(&dims.scratch_shape(self.tokens)),
            output: self.features(),
        };
        let dtype = self.dtype.elem();
        low_rank::forward(self.client, operands, &dims, dtype, &self.strategy).unwrap();
    }

    fn monarch(&self) {
        let order = OutputOrder::Interleaved;
        let dims = MonarchDims::new(BLOCKS, RANK, FEATURES, FEATURES, order).unwrap();
        let operands = MonarchForward {
            input: self.features(),
            right: self.tensor(&dims.right_shape()),
            left: self.tensor(&dims.left_shape()),
            bias: None,
            inner: self.tensor(&dims.scratch_shape(self.tokens)),
            output: self.features(),
        };
        let dtype = self.dtype.elem();
        monarch::forward(self.client, operands, &dims, dtype, &self.strategy).unwrap();
    }

    fn blast(&self, blocks: usize) {
        let dims = BlastDims::new(blocks, RANK, FEATURES, FEATURES).unwrap();
        let scratch = || self.tensor(&dims.scratch_shape(self.tokens));
        let (u, s, v) = (
            self.tensor(&dims.u_shape()),
            self.tensor(&dims.s_shape()),
            self.tensor(&dims.v_shape()),
        );
        let forward = BlastForward {
            input: self.features(),
            u: u.clone(),
            s: s.clone(),
            v: v.clone(),
            bias: None,
            inner: scratch(),
            coupled: scratch(),
            output: self.features(),
        };
        let dtype = self.dtype.elem();
        blast::forward(self.client, forward, &dims, dtype, &self.strategy).unwrap();
        let backward = BlastBackward {
            grad_output: self.features(),
            input: self.features(),
            u,
            s,
            v,
            inner: scratch(),
            coupled: scratch(),
            grad_coupled: scratch(),
            grad_input: self.features(),
            grad_u: self.tensor(&dims.u_shape()),
            grad_s: self.tensor(&dims.s_shape()),
            grad_v: self.tensor(&dims.v_shape()),
        };
        blast::backward(self.client, backward, &dims, dtype, &self.strategy).unwrap();
    }
}

#[test]
#[ignore = "checks nothing: run it through kernel-report"]
fn report_launches_every_kernel() {
    let Some(client) = cuda() else { return };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for strategy in [Strategy::Naive, Strategy::Tiled] {
            for tokens in TOKENS {
                let launcher = Launcher {
                    client: &client,
                    dtype,
                    strategy,
                    tokens,
                };
                launcher.low_rank();
                launcher.monarch();
                launcher.blast(BLOCKS);
                launcher.blast(2);
            }
        }
    }
    // Reading waits for the kernels, without which none might be compiled before the end.
    DeviceTensor::junk(&client, &[1], Layout::Contiguous, Dtype::F32).read(&client);
}
