"""Writes a ViT-B/16 checkpoint with random weights, to compress and run something of full size without a download.

Usage: random_vit.py OUT_DIR hf|timm. Needs numpy and safetensors; 346 MB.
"""
import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file

WIDTH, INNER, BLOCKS, LABELS = 768, 3072, 12, 1000


def hf():
    config = {"model_type": "vit", "id2label": {str(n): f"label {n}" for n in range(LABELS)}}
    block = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ["query", "key", "value"]}
    block |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER)}
    block |= {"layernorm_before": (WIDTH,), "layernorm_after": (WIDTH,)}
    layers = {f"vit.encoder.layer.{n}.{name}": shape for n in range(BLOCKS) for name, shape in block.items()}
    layers |= {"vit.embeddings.patch_embeddings.projection": (WIDTH, 3, 16, 16), "vit.layernorm": (WIDTH,)}
    layers |= {"classifier": (LABELS, WIDTH)}
    return config, layers, ["vit.embeddings.cls_token", "vit.embeddings.position_embeddings"]


def timm():
    pretrained = {"input_size": [3, 224, 224], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "vit_base_patch16_224", "num_classes": LABELS, "pretrained_cfg": pretrained}
    block = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "mlp.fc1": (INNER, WIDTH), "mlp.fc2": (WIDTH, INNER)}
    block |= {"norm1": (WIDTH,), "norm2": (WIDTH,)}
    layers = {f"blocks.{n}.{name}": shape for n in range(BLOCKS) for name, shape in block.items()}
    layers |= {"patch_embed.proj": (WIDTH, 3, 16, 16), "norm": (WIDTH,), "head": (LABELS, WIDTH)}
    return config, layers, ["cls_token", "pos_embed"]


def main():
    out = pathlib.Path(sys.argv[1])
    config, layers, (class_token, positions) = {"hf": hf, "timm": timm}[sys.argv[2]]()
    generator = numpy.random.default_rng(0)
    tensors = {class_token: (1, 1, WIDTH), positions: (1, 197, WIDTH)}
    for name, shape in layers.items():
        tensors |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    drawn = {}
    for name, shape in tensors.items():
        noise = 0.02 * generator.standard_normal(shape, dtype=numpy.float32)
        drawn[name] = noise + numpy.float32(len(shape) == 1 and name.endswith("weight"))
    out.mkdir(parents=True, exist_ok=True)
    save_file(drawn, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 224, "width": 224}, "resample": 2}) + "\n")


if __name__ == "__main__":
    main()
