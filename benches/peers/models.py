"""Times the networks of `blr bench model` in PyTorch, and writes the same JSON.

    python3 benches/peers/models.py --family llama7b --dtype bf16 --json peers.json
    blr bench model --family llama7b --device cuda --dtype bf16 --json ours.json

Needs PyTorch and transformers, and a CUDA device; on a machine without one it times on the CPU, which is of
use to try the script out. Weights are random and made on the device. GPT-2, Llama and ViT are those of
transformers; DiT-XL/2 is written out from plain modules below, after the paper (arXiv:2212.09748).

`--methods` names structures beside dense: their linear layers become plain operations in PyTorch
(layers.py), at the blocks and ranks of the paper. `--kernels compile` is torch.compile(mode="max-autotune"),
which captures CUDA graphs by itself and tries its candidates for minutes on the larger networks;
`--kernels graph` captures the eager network; `--kernels eager` is the eager network without a graph.

Prefill is a pass over a prompt with the logits of its last token, without a cache: that favours the peer.
Decode is one token behind a full static cache.
"""

import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

import layers

METHODS = layers.METHODS
KERNELS = ["eager", "graph", "compile"]
ROOM = 128

# Name of a layer, block counts (BLAST, Monarch) and ranks (BLAST and low-rank, Monarch), as in the presets of
# models/src/plan/preset.rs with the names of transformers.
PLANS = {
    "gpt2s": [(("c_attn", "c_fc", "mlp.c_proj"), (6, 4), (192, 192))],
    "llama1b": [
        (("q_proj", "o_proj"), (16, 16), (256, 256)),
        (("gate_proj",), (16, 16), (512, 512)),
        (("up_proj", "down_proj"), (16, 16), (768, 768)),
    ],
    "llama7b": [
        (("q_proj", "k_proj", "v_proj", "o_proj"), (16, 16), (1024, 1024)),
        (("gate_proj", "up_proj", "down_proj"), (16, 16), (1488, 1536)),
    ],
    "dit_xl": [
        (("qkv",), (9, 9), (384, 378)),
        (("fc1", "modulation"), (9, 9), (256, 252)),
    ],
    # transformers keeps query, key and value apart; the paper's plan is of the joined layer.
    "vit_b": [(("intermediate.dense", "output.dense"), (3, 4), (128, 128))],
}


class Structured(nn.Module):
    """A layer of plain operations with the functions of layers.py."""

    def __init__(self, method, in_features, out_features, blocks, rank, bias, dtype, device):
        super().__init__()
        layer = {
            "in": in_features, "out": out_features, "low_rank_rank": rank[0],
            "monarch_blocks": blocks[1], "monarch_rank": rank[1],
            "blast_blocks": blocks[0], "blast_rank": rank[0],
        }
        row = layers.Row(layer, method, 1, dtype)
        _, factors = row.operands(device)
        self.factors = nn.ParameterList(
            nn.Parameter(factor, requires_grad=False) for factor in factors.values()
        )
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.product = {
            "low-rank": layers.low_rank, "monarch": layers.monarch, "blast": layers.blast_bmm,
        }[method]
        self.out_features = out_features

    def forward(self, x):
        y = self.product(x.reshape(-1, x.shape[-1]), *self.factors)
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


def replace(model, family, method, dtype, device):
    """Puts structured layers in place of those that the paper's plan names."""
    if method == "dense":
        return 0
    found = 0
    for name, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        if weight is None or weight.dim() != 2 or isinstance(module, nn.Embedding):
            continue
        for names, blocks, rank in PLANS[family]:
            if not any(name.endswith("." + suffix) for suffix in names):
                continue
            # GPT-2's Conv1D stores [in, out].
            conv = type(module).__name__ == "Conv1D"
            i, o = weight.shape if conv else reversed(weight.shape)
            parent = model.get_submodule(name.rpartition(".")[0])
            layer = Structured(method, i, o, blocks, rank, module.bias, dtype, device)
            setattr(parent, name.rpartition(".")[2], layer)
            found += 1
    if found == 0:
        raise SystemExit(f"{family}: no layer of the plan was found")
    return found


class DitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x, condition):
        batch, tokens, width = x.shape
        parts = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        y = F.layer_norm(x, (width,), eps=1e-6) * (1 + parts[1]) + parts[0]
        q, k, v = self.qkv(y).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + parts[2] * self.proj(y)
        y = F.layer_norm(x, (width,), eps=1e-6) * (1 + parts[4]) + parts[3]
        return x + parts[5] * self.fc2(F.gelu(self.fc1(y), approximate="tanh"))


class Dit(nn.Module):
    """DiT-XL/2 on latents of 32 x 32."""

    def __init__(self, width=1152, depth=28, heads=16, patch=2, channels=4):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, 256, width))
        self.time1, self.time2 = nn.Linear(256, width), nn.Linear(width, width)
        self.labels = nn.Embedding(1001, width)
        self.blocks = nn.ModuleList(DitBlock(width, heads) for _ in range(depth))
        self.last_modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, patch * patch * 2 * channels)
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(128) / 128))

    def forward(self, x, t, y):
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        angles = t[:, None].float() * self.frequencies.float()
        time = torch.cat([angles.cos(), angles.sin()], -1).to(tokens.dtype)
        condition = F.silu(self.time2(F.silu(self.time1(time))) + self.labels(y))
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.last_modulation(condition).unsqueeze(1).chunk(2, -1)
        tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return self.last(tokens)


def build(family, device, dtype):
    """The dense network with random weights."""
    import transformers as tr

    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            if family == "dit_xl":
                model = Dit()
            elif family == "vit_b":
                model = tr.ViTForImageClassification(tr.ViTConfig(num_labels=1000))
            elif family == "gpt2s":
                model = tr.GPT2LMHeadModel(tr.GPT2Config())
            elif family == "llama1b":
                model = tr.LlamaForCausalLM(tr.LlamaConfig(
                    vocab_size=128256, hidden_size=2048, intermediate_size=8192,
                    num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
                    max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True,
                ))
            else:
                model = tr.LlamaForCausalLM(tr.LlamaConfig())
        finally:
            torch.set_default_dtype(torch.float32)
    return model.to(device).eval()


def passes(family, phase, model, batch, tokens, context, device, dtype):
    """The pass to time and what has to be done before some of them, as functions of no arguments."""
    if family == "dit_xl":
        x = torch.randn(batch, 4, 32, 32, device=device, dtype=dtype)
        t = torch.full((batch,), 500, device=device)
        y = torch.full((batch,), 207, device=device)
        return lambda: model(x, t, y), lambda: None
    if family == "vit_b":
        pixels = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype)
        return lambda: model(pixel_values=pixels).logits, lambda: None
    vocabulary = model.config.vocab_size
    count = 1 if phase == "decode" else tokens
    ids = torch.randint(vocabulary, (batch, count), device=device)
    if phase == "forward":
        return lambda: model(input_ids=ids, use_cache=False).logits, lambda: None
    if phase == "prefill":
        return lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1).logits, lambda: None
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=context + ROOM)
    prompt = torch.randint(vocabulary, (batch, context), device=device)
    with torch.no_grad():
        model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1,
              cache_position=torch.arange(context, device=device))
    position = torch.tensor([context], device=device)
    positions = position.expand(batch, 1)

    def decode():
        return model(input_ids=ids, past_key_values=cache, use_cache=True,
                     cache_position=position, position_ids=positions).logits

    def reset():
        """The cache counts its tokens by itself, in a replayed graph as well."""
        for layer in cache.layers:
            counted = getattr(layer, "cumulative_length", None)
            if isinstance(counted, torch.Tensor):
                counted.fill_(context)
            elif counted is not None:
                layer.cumulative_length = context

    return decode, reset


def sync(device):
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run, reset, device, reps):
    """Milliseconds of one call: (1 + k) calls less one, over k."""
    def seconds(count):
        reset()
        sync(device)
        began = time.perf_counter()
        for _ in range(count):
            run()
        sync(device)
        return time.perf_counter() - began

    began = time.perf_counter()
    while time.perf_counter() - began < layers.WARM_UP_S:
        seconds(1)
    once = statistics.median(seconds(1) for _ in range(5))
    k = min(max(math.ceil(layers.SAMPLE_S / once), 1), layers.MAX_REPLAYS)
    samples = max(math.ceil(reps / k), 10)
    found = [(seconds(1 + k) - once) * 1e3 / k for _ in range(samples)]
    return statistics.median(found), min(found), max(found)


def row(args, family, phase, method, kernel, device):
    dtype = layers.DTYPES[args.dtype]
    text = family not in ("dit_xl", "vit_b")
    tokens = {"gpt2s": 384, "dit_xl": 256, "vit_b": 197}.get(family, 1024)
    tokens = args.tokens or tokens if text else tokens
    context = (args.context or tokens) if phase == "decode" else 0
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = build(family, device, dtype)
    replace(model, family, method, dtype, device)
    with torch.inference_mode():
        forward = model.forward
        if kernel == "compile":
            torch._dynamo.reset()
            model.forward = torch.compile(forward, mode="max-autotune", dynamic=False)
        run, reset = passes(family, phase, model, args.batch, tokens, context, device, dtype)
        for _ in range(3):
            out = run()
        sync(device)
        no_graph = None
        if kernel == "graph" and device == "cuda":
            try:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    out = run()
                run = graph.replay
            except RuntimeError as error:
                no_graph = str(error).splitlines()[0]
        median, least, most = timed(run, reset, device, args.reps)
        if not torch.isfinite(out.float()).all():
            raise SystemExit(f"{family} {phase} {method}: not finite")
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    in_one_pass = 1 if phase == "decode" else tokens
    return {
        "family": family, "method": method, "phase": phase, "kernel": kernel, "batch": args.batch,
        "tokens": in_one_pass, "context": context, "dtype": args.dtype,
        "parameters": sum(p.numel() for p in model.parameters()), "weight_bytes": weights,
        "no_graph": no_graph, "median_ms": median, "min_ms": least, "max_ms": most,
        "tokens_per_s": args.batch * in_one_pass / median * 1e3, "peak_bytes": peak,
    }


def names(text):
    return text.split(",")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", type=names, required=True, help=", ".join(PLANS))
    parser.add_argument("--phase", type=names, help="prefill, decode, forward")
    parser.add_argument("--methods", type=names, default=["dense"], help=", ".join(METHODS))
    parser.add_argument("--kernels", type=names, default=["graph"], help=", ".join(KERNELS))
    parser.add_argument("--dtype", choices=layers.DTYPES, default="bf16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--context", type=int)
    parser.add_argument("--reps", type=int, default=50)
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which no row begins")
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    for chosen, known in ((args.family, PLANS), (args.methods, METHODS), (args.kernels, KERNELS)):
        for name in chosen:
            if name not in known:
                parser.error(f"{name} is none of {', '.join(known)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__, "rows": [],
    }
    began = time.time()
    for family in args.family:
        text = family not in ("dit_xl", "vit_b")
        for phase in args.phase or (["prefill", "decode"] if text else ["forward"]):
            for method in args.methods:
                for kernel in args.kernels:
                    if time.time() - began > args.budget:
                        print(f"out of time before {family} {phase} {method} {kernel}", flush=True)
                        continue
                    try:
                        found = row(args, family, phase, method, kernel, device)
                    except (RuntimeError, TypeError) as error:
                        print(f"{family} {phase} {method} {kernel}: {str(error).splitlines()[0]}", flush=True)
                        continue
                    report["rows"].append(found)
                    print(f"{family:8} {phase:8} {method:9} {kernel:8} {found['median_ms']:9.3f} ms "
                          f"peak {(found['peak_bytes'] or 0) / 1e9:.2f} GB", flush=True)
                    with open(args.json, "w") as file:
                        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
