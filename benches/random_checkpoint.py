"""Writes a checkpoint of real size with random weights, to measure time and memory of `blr compress`.

    python3 benches/random_checkpoint.py --family llama1b --out llama1b/ --shard-bytes 1000000000
    /usr/bin/time -v blr compress llama1b/ --out small/ --method low-rank --keep 0.5

gpt2s is GPT-2 small in f32 (0.5 GB), llama1b is Llama-3.2-1B in bf16 (2.5 GB). Needs numpy. Weights are normal with a
standard deviation of 0.02 and, along the input of a layer, fall off as k^-0.25, so that factorising them is no more
and no less work than usual. No tensor is held longer than it takes to write it.
"""

import argparse
import json
import pathlib
import struct

import numpy

DTYPES = {"F32": 4, "BF16": 2}


def gpt2s():
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024,
        "n_embd": 768, "n_layer": 12, "n_head": 12, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True, "bos_token_id": 50256, "eos_token_id": 50256,
    }
    width = 768
    tensors = [("transformer.wte.weight", (50257, width)), ("transformer.wpe.weight", (1024, width))]
    for block in range(12):
        prefix = f"transformer.h.{block}"
        for norm in ("ln_1", "ln_2"):
            tensors += [(f"{prefix}.{norm}.weight", (width,)), (f"{prefix}.{norm}.bias", (width,))]
        for layer, inputs, outputs in (
            ("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width),
        ):
            tensors += [(f"{prefix}.{layer}.weight", (inputs, outputs)), (f"{prefix}.{layer}.bias", (outputs,))]
    tensors += [("transformer.ln_f.weight", (width,)), ("transformer.ln_f.bias", (width,))]
    return config, tensors, "F32"


def llama1b():
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 128000, "eos_token_id": 128001,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
    width, wide = 2048, 8192
    tensors = [("model.embed_tokens.weight", (128256, width))]
    for block in range(16):
        prefix = f"model.layers.{block}"
        tensors += [(f"{prefix}.{norm}.weight", (width,)) for norm in ("input_layernorm", "post_attention_layernorm")]
        tensors += [
            (f"{prefix}.self_attn.q_proj.weight", (width, width)), (f"{prefix}.self_attn.k_proj.weight", (512, width)),
            (f"{prefix}.self_attn.v_proj.weight", (512, width)), (f"{prefix}.self_attn.o_proj.weight", (width, width)),
            (f"{prefix}.mlp.gate_proj.weight", (wide, width)), (f"{prefix}.mlp.up_proj.weight", (wide, width)),
            (f"{prefix}.mlp.down_proj.weight", (width, wide)),
        ]
    tensors += [("model.norm.weight", (width,))]
    return config, tensors, "BF16"


FAMILIES = {"gpt2s": gpt2s, "llama1b": llama1b}


def values(name, shape, dtype, rng):
    """The bytes of a tensor."""
    if len(shape) == 1:
        entries = numpy.ones(shape, numpy.float32) if name.endswith("weight") else numpy.zeros(shape, numpy.float32)
    else:
        entries = rng.standard_normal(shape, numpy.float32)
        entries *= 0.02 * numpy.arange(1, shape[1] + 1, dtype=numpy.float32) ** -0.25
    if dtype == "F32":
        return entries.astype("<f4").tobytes()
    return (entries.view(numpy.uint32) >> 16).astype("<u2").tobytes()  # towards zero


def write(path, tensors, dtype, rng):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        start, end = end, end + DTYPES[dtype] * int(numpy.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, shape in tensors:
            file.write(values(name, shape, dtype, rng))
    return end


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--shard-bytes", type=int, help="begins a new file before one gets larger than this")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    config, tensors, dtype = FAMILIES[arguments.family]()
    shards, size = [[]], 0
    for tensor in tensors:
        length = DTYPES[dtype] * int(numpy.prod(tensor[1]))
        if arguments.shard_bytes and shards[-1] and size + length > arguments.shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += length
    arguments.out.mkdir(parents=True)
    (arguments.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    rng = numpy.random.default_rng(arguments.seed)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    total = sum(write(arguments.out / name, shard, dtype, rng) for name, shard in zip(names, shards))
    if len(shards) > 1:
        places = {tensor: name for name, shard in zip(names, shards) for tensor, _ in shard}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (arguments.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"{arguments.out}: {total / 1e9:.2f} GB in {len(shards)} file(s)")


if __name__ == "__main__":
    main()
