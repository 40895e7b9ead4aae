"""Makes tests/reference/gpt2/<case>/: tiny GPT-2 checkpoints and what transformers computes with them.

Usage: make_gpt2.py [OUT_DIR]. Runs on the CPU in under a minute. Each case holds config.json and
model.safetensors as `save_pretrained` writes them, and expected.safetensors with

- `input_ids`, i64 [batch, tokens]
- `logits`, f32 [batch, tokens, vocab]
- `loss`, f32 [1]: mean over the batch * (tokens - 1) predictions
- `generated`, i64 [batch, new tokens], in some cases: greedy continuation of `input_ids`

Logits and loss are computed in float64 from the saved weights and rounded once to float32, so that
their own rounding is no part of a comparison.
"""
import json
import pathlib
import shutil
import sys
import zlib

import safetensors
import safetensors.torch
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

SEED = 11
NEW_TOKENS = 12
# Below this gap between the best two logits another framework may pick the other token.
MIN_GREEDY_GAP = 1e-3
# gelu and its tanh form differ by under 1e-3 anywhere; float32 rounding stays under 1e-5 here.
MIN_APART = 5e-5

# Names that transformers accepts and that take no weights of their own.
ACTIVATIONS = [
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2",
    "relu6", "sigmoid", "silu", "swish", "tanh",
]  # fmt: skip


def case(batch=2, tokens=9, kind="head", dtype=torch.float32, generate=False, **config):
    defaults = dict(vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=2)
    return dict(batch=batch, tokens=tokens, kind=kind, dtype=dtype, generate=generate, config=defaults | config)


CASES = {
    "heads1": case(n_head=1, n_embd=20, vocab_size=97),
    "heads2": case(generate=True, n_positions=24),
    "heads3": case(n_head=3, batch=3, tokens=7, n_layer=3),
    "heads4": case(n_head=4, n_embd=32, vocab_size=127, generate=True, n_positions=24),
    "full_context": case(n_head=3, batch=1, tokens=16),
    "one_token": case(batch=2, tokens=1),
    "n_inner": case(n_inner=40),
    "layer_norm_epsilon": case(layer_norm_epsilon=1e-3),
    "inverse_layer_idx": case(scale_attn_by_inverse_layer_idx=True, n_layer=3),
    "unscaled_attention": case(scale_attn_weights=False),
    "unscaled_inverse_layer_idx": case(scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True, n_layer=3),
    "reorder_and_upcast": case(reorder_and_upcast_attn=True),
    "untied": case(tie_word_embeddings=False),
    "bare_names": case(kind="bare"),
    "mask_buffers": case(kind="buffers"),
    "float16": case(dtype=torch.float16, n_head=3),
    "bfloat16": case(dtype=torch.bfloat16, n_head=3),
    "bare_float16": case(kind="bare", dtype=torch.float16),
}
for name in ACTIVATIONS:
    CASES[f"activation_{name}"] = case(
        activation_function=name, n_embd=12, n_head=3, n_layer=1, vocab_size=29, n_positions=10
    )


def randomise(model, generator, wide):
    """Draws every parameter, biases and norms too: a zero or a one would hide a swapped or lost tensor.

    `wide` makes the input of the activation reach the ends where gelu_10 and relu6 are clipped.
    """
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if ".ln_" in f".{name}" and name.endswith("weight"):
            values = 1 + 0.3 * noise
        elif parameter.ndim == 1:
            values = 0.3 * noise
        elif "wte" in name or "lm_head" in name:
            values = noise * parameter.shape[1] ** -0.5
        elif "wpe" in name:
            values = 0.2 * noise
        else:
            values = 1.2 * noise * parameter.shape[0] ** -0.5
        if wide and "c_fc" in name:
            values = 5 * values
        with torch.no_grad():
            parameter.copy_(values)


def add_mask_buffers(folder, config):
    """Adds the causal masks that the published GPT-2 files of 2019 still hold; a reader ignores them."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    mask = torch.ones(config.n_positions, config.n_positions).tril()[None, None]
    for layer in range(config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = mask.clone()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def expected(folder, settings, generator):
    # The upcasting path insists on float32; the same sums in float64 are in the other one.
    attention = "sdpa" if settings["config"].get("reorder_and_upcast_attn") else "eager"
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64, attn_implementation=attention).eval()
    config = model.config
    ids = torch.randint(config.vocab_size, (settings["batch"], settings["tokens"]), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        tensors = {"input_ids": ids, "logits": logits.float().contiguous()}
        if settings["tokens"] > 1:
            tensors["loss"] = model(input_ids=ids, labels=ids).loss.float().reshape(1)
            mean = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            assert abs(mean.item() - tensors["loss"].item()) < 1e-6, "loss is not the plain mean"
        if settings["generate"]:
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=None,
                pad_token_id=0,
            )
            steps = model(input_ids=out).logits[:, settings["tokens"] - 1 : -1]
            best = steps.topk(2).values
            gap = (best[..., 0] - best[..., 1]).min().item()
            assert gap > MIN_GREEDY_GAP, f"greedy choice too close: {gap}"
            tensors["generated"] = out[:, settings["tokens"] :].contiguous()
            assert tensors["generated"].shape[1] == NEW_TOKENS
    assert 0.3 < logits.std() < 5, f"logits are not of order one: {logits.std()}"
    safetensors.torch.save_file(tensors, folder / "expected.safetensors")
    return tensors


def make(folder, settings, seed):
    generator = torch.Generator().manual_seed(seed)
    config = GPT2Config(**settings["config"], bos_token_id=0, eos_token_id=0)
    model = (GPT2LMHeadModel if settings["kind"] == "head" else GPT2Model)(config)
    randomise(model, generator, "activation_function" in settings["config"])
    shutil.rmtree(folder, ignore_errors=True)
    model.to(settings["dtype"]).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    if settings["kind"] == "buffers":
        add_mask_buffers(folder, config)
    return expected(folder, settings, generator)


def check_apart(activations):
    """Functions that differ must show it, else a wrong one would pass for another."""
    names = ["gelu", "gelu_10", "gelu_new", "quick_gelu", "silu", "mish", "hardswish", "relu", "relu2", "relu6"]
    names += ["leaky_relu", "linear", "sigmoid", "tanh"]
    for i, a in enumerate(names):
        for b in names[:i]:
            apart = (activations[f"activation_{a}"] - activations[f"activation_{b}"]).abs().max().item()
            assert apart > MIN_APART, f"{a} and {b} are only {apart} apart"


def main():
    here = pathlib.Path(__file__).resolve().parent
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "gpt2"
    summary = {}
    activations = {}
    for name, settings in sorted(CASES.items()):
        # Activations share one seed: the same weights under another function.
        seed = SEED if name.startswith("activation_") else SEED + zlib.crc32(name.encode())
        tensors = make(out / name, settings, seed)
        summary[name] = {"seed": seed, "tensors": {k: list(v.shape) for k, v in tensors.items()}}
        if name.startswith("activation_"):
            activations[name] = tensors["logits"]
        print(name, f"std {tensors['logits'].std():.3f}", tensors["logits"].flatten()[:3].tolist())
    check_apart(activations)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
    }
    text = json.dumps({"versions": versions, "cases": summary}, indent=1) + "\n"
    (out / "versions.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
