"""Makes tests/reference/llama/<case>/: tiny Llama checkpoints and what transformers computes with them.

Usage: make_llama.py [OUT_DIR]. Runs on the CPU in under a minute. Each case holds config.json and the weights as
`save_pretrained` writes them, and expected.safetensors with

- `input_ids`, i64 [batch, tokens]
- `logits`, f32 [batch, tokens, vocab]
- `loss`, f32 [1]: mean over the batch * (tokens - 1) predictions

and in some cases the greedy continuation of one row, and of three rows of different lengths padded on the left:

- `generated`, i64 [1, new tokens]: continues the first row of `input_ids`
- `padded_ids`, `padded_mask`, i64 [3, tokens]: the mask is 0 where a token is padding
- `padded_logits`, f32 [3, tokens, vocab]: with positions counted from the first token that is no padding
- `padded_generated`, i64 [3, new tokens]

Attention is `sdpa`, whose softmax stays in float64 (`eager` rounds it to float32, in which the mask of a row of padding
overflows). All numbers are computed in float64 from the saved weights and rounded once to float32, so that their own rounding is
no part of a comparison. The rotary angles are what transformers computes, in float32 in any case.

`blast_llama` is a checkpoint in the layout of the one published with arXiv:2410.21262 (github changwoolee/BLAST): linear
layers are stored as B, C and D. What it should compute comes from a LlamaForCausalLM with the dense weights they stand for.
"""
import json
import pathlib
import shutil
import sys
import zlib

import safetensors
import safetensors.torch
import tokenizers
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

SEED = 23
NEW_TOKENS = 12
# Below this gap between the best two logits another framework may pick the other token.
MIN_GREEDY_GAP = 2e-4
# A rotary scaling that is read wrongly changes some logit by more than this.
MIN_APART = 1e-2
PADDED_LENGTHS = [9, 4, 6]
TOKENIZER_TEXT = """A layer turns its input into its output. The weights of a layer are a matrix, and a matrix of low rank is the
product of two thin ones. The blocks of a matrix can share what is on their left and on their right."""

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def case(batch=2, tokens=11, kind="head", dtype=torch.float32, generate=False, old_rope=None, seed=None, **config):
    """`old_rope`: keys that older versions of transformers write in place of `rope_parameters`."""
    defaults = dict(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return dict(
        batch=batch,
        tokens=tokens,
        kind=kind,
        dtype=dtype,
        generate=generate,
        old_rope=old_rope,
        seed=seed,
        config=defaults | config,
    )


def rope(old_rope=None, generate=False, **parameters):
    """One of the cases that differ in nothing but their rotary scaling."""
    parameters = {"rope_theta": 500.0, **parameters}
    return case(
        batch=1, tokens=30, seed="rope", max_position_embeddings=64, num_hidden_layers=1, generate=generate,
        old_rope=old_rope, rope_parameters=parameters,
    )  # fmt: skip


CASES = {
    "mha": case(num_key_value_heads=4, generate=True),
    # Byte-level tokens, so that it reads text.
    "gqa_tied": case(num_attention_heads=6, tie_word_embeddings=True, vocab_size=288, kind="text", generate=True,
                     max_position_embeddings=40, rms_norm_eps=1e-5),  # fmt: skip
    "mqa_head_dim": case(num_key_value_heads=1, num_attention_heads=3, head_dim=10, num_hidden_layers=3, batch=3, tokens=7),
    "biases": case(attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh", rms_norm_eps=1e-3),
    "sharded": case(kind="sharded"),
    "bare_names": case(kind="bare", tie_word_embeddings=True, num_hidden_layers=1),
    "bfloat16": case(dtype=torch.bfloat16),
    "rope_default": rope(rope_type="default"),
    "rope_linear": rope(rope_type="linear", factor=2.0),
    "rope_linear_old": rope(
        rope_type="linear", factor=2.0, old_rope={"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    ),
    "rope_llama3": rope(**LLAMA3, generate=True),
    "rope_llama3_old": rope(**LLAMA3, old_rope={"rope_theta": 500.0, "rope_scaling": LLAMA3}),
    "blast_llama": case(kind="blast", generate=True, num_key_value_heads=4),
}

# Layer 1 keeps its attention dense in none of its parts, layer 0 all of it, and o_proj is dense in both.
BLAST = {
    "target_modules": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
    "blast_rank": {"q_proj": 10, "k_proj": 10, "v_proj": 7, "o_proj": 10, "gate_proj": 12, "up_proj": 12, "down_proj": 12},
    # A list of one: the published configuration class stores a tuple.
    "blast_num_blocks": [4],
    "indices": [1],
    "precompute_matrix": False,
}


def randomise(model, generator):
    """Draws every parameter, biases and norms too: a zero or a one would hide a swapped or lost tensor."""
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            values = 1 + 0.3 * noise
        elif parameter.ndim == 1:
            values = 0.3 * noise
        elif "embed_tokens" in name and not model.config.tie_word_embeddings:
            values = noise
        else:
            values = 1.2 * noise * parameter.shape[1] ** -0.5
        with torch.no_grad():
            parameter.copy_(values)


def write_tokenizer(folder, vocab_size):
    """Byte-level BPE that puts `<s>` before every text, as Llama 3's does."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TOKENIZER_TEXT], trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def use_old_rope(folder, keys):
    """Writes the rotary settings as older versions of transformers did."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | keys, indent=2) + "\n")


def blastify(folder, model, generator):
    """Stores the chosen layers as B, C and D, and gives `model` the dense weights they stand for."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    blocks = BLAST["blast_num_blocks"][0]
    dense = {}
    for layer in BLAST["indices"]:
        for module in BLAST["target_modules"]:
            name = next(n for n in tensors if f"layers.{layer}." in n and n.endswith(f"{module}.weight"))
            outputs, inputs = tensors.pop(name).shape
            rank = BLAST["blast_rank"][module]
            b = torch.randn(blocks, outputs // blocks, rank, generator=generator) * rank**-0.5
            c = torch.randn(blocks, rank, inputs // blocks, generator=generator) * inputs**-0.5
            d = torch.rand(blocks, blocks, rank, generator=generator) * 2
            stem = name.removesuffix("weight")
            tensors |= {f"{stem}B": b, f"{stem}C": c, f"{stem}D": d}
            # Block (j, i) is B_j diag(D_ji) C_i.
            grid = torch.einsum("jor,jir,irc->joic", b.double(), d.double(), c.double())
            dense[name] = grid.reshape(outputs, inputs)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    config |= BLAST | {
        "model_type": "blast_llama",
        "architectures": ["BlastModelForCausalLM"],
        "rope_theta": theta,
        "rope_scaling": None,
        "transformers_version": "4.44.0",
    }
    path.write_text(json.dumps(config, indent=2) + "\n")
    model = model.double()
    model.load_state_dict(model.state_dict() | dense)
    return model


def greedy_gap(logits):
    best = logits.topk(2).values
    return (best[..., 0] - best[..., 1]).min().item()


def continuation(model, ids, mask):
    out = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0
    )
    mask = torch.cat([mask, torch.ones(len(ids), NEW_TOKENS, dtype=mask.dtype)], dim=1)
    steps = model(input_ids=out, attention_mask=mask, position_ids=positions(mask)).logits
    gap = greedy_gap(steps[:, ids.shape[1] - 1 : -1])
    assert gap > MIN_GREEDY_GAP, f"greedy choice too close: {gap}"
    new = out[:, ids.shape[1] :].contiguous()
    assert new.shape[1] == NEW_TOKENS
    return new


def positions(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


def padded(model, generator):
    """Three prompts of different lengths, padded on the left with a token that also occurs in them."""
    width = max(PADDED_LENGTHS)
    vocab = model.config.vocab_size
    ids = torch.zeros(len(PADDED_LENGTHS), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(PADDED_LENGTHS):
        ids[row, width - length :] = torch.randint(vocab, (length,), generator=generator)
        mask[row, width - length :] = 1
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).logits
    return {
        "padded_ids": ids,
        "padded_mask": mask,
        "padded_logits": logits.float().contiguous(),
        "padded_generated": continuation(model, ids, mask),
    }


def expected(folder, model, settings, generator):
    vocab = model.config.vocab_size
    ids = torch.randint(vocab, (settings["batch"], settings["tokens"]), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        loss = model(input_ids=ids, labels=ids).loss.float().reshape(1)
        mean = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        assert abs(mean.item() - loss.item()) < 1e-6, "loss is not the plain mean"
        tensors = {"input_ids": ids, "logits": logits.float().contiguous(), "loss": loss}
        if settings["generate"]:
            tensors["generated"] = continuation(model, ids[:1], torch.ones_like(ids[:1]))
            tensors |= padded(model, generator)
    assert 0.3 < logits.std() < 5, f"logits are not of order one: {logits.std()}"
    safetensors.torch.save_file(tensors, folder / "expected.safetensors")
    return tensors


def make(folder, settings, seed):
    generator = torch.Generator().manual_seed(seed)
    kind = settings["kind"]
    config = LlamaConfig(**settings["config"])
    model = (LlamaModel if kind == "bare" else LlamaForCausalLM)(config)
    randomise(model, generator)
    shutil.rmtree(folder, ignore_errors=True)
    model = model.to(settings["dtype"])
    model.save_pretrained(folder, max_shard_size="60KB" if kind == "sharded" else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    if kind == "sharded":
        assert len(list(folder.glob("model-*.safetensors"))) > 2, "not sharded"
    if kind == "text":
        write_tokenizer(folder, config.vocab_size)
    if kind == "blast":
        model = blastify(folder, model, generator)
        model.set_attn_implementation("sdpa")
    else:
        if settings["old_rope"]:
            use_old_rope(folder, settings["old_rope"])
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa")
    return expected(folder, model.eval(), settings, generator)


def check_rope(logits):
    """Scalings that differ must show it, and both spellings of one must not."""
    for old in ["linear", "llama3"]:
        same = (logits[f"rope_{old}"] - logits[f"rope_{old}_old"]).abs().max().item()
        assert same == 0, f"the spellings of {old} are {same} apart"
    names = ["rope_default", "rope_linear", "rope_llama3"]
    for i, a in enumerate(names):
        for b in names[:i]:
            apart = (logits[a] - logits[b]).abs().max().item()
            assert apart > MIN_APART, f"{a} and {b} are only {apart} apart"


def main():
    here = pathlib.Path(__file__).resolve().parent
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "llama"
    summary = {}
    logits = {}
    for name, settings in sorted(CASES.items()):
        seed = SEED + zlib.crc32((settings["seed"] or name).encode())
        tensors = make(out / name, settings, seed)
        summary[name] = {"seed": seed, "tensors": {k: list(v.shape) for k, v in tensors.items()}}
        logits[name] = tensors["logits"]
        size = sum(path.stat().st_size for path in (out / name).iterdir())
        print(name, f"{size >> 10} KB, std {tensors['logits'].std():.3f}", tensors["logits"].flatten()[:3].tolist())
    check_rope(logits)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "tokenizers": tokenizers.__version__,
    }
    text = json.dumps({"versions": versions, "cases": summary}, indent=1) + "\n"
    (out / "versions.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
