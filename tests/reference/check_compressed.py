"""Rebuilds the dense weights of a compressed checkpoint with numpy and safetensors alone.

    check_compressed.py DENSE_DIR COMPRESSED_DIR

Compares the relative Frobenius error of every replaced layer with the one that config.json states,
and every other tensor bit by bit. GPT-2 stores dense weights as [in, out]; factors are laid out for
[out, in]. A layer P.qkv may stand for P.query, P.key and P.value. Exits with 1 and a reason where something differs.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open


def tensors(folder):
    found = {}
    for path in sorted(Path(folder).glob("model*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                found[name] = file.get_tensor(name)
    return found


def rebuild(found, name, entry):
    def factor(suffix):
        return found[f"{name}.{suffix}"].astype(np.float64)

    if entry["method"] == "low-rank":
        u, v = factor("low_rank.u"), factor("low_rank.v")
        assert u.shape[1] == v.shape[0] == entry["rank"]
        return u @ v
    b, r = entry["blocks"], entry["rank"]
    if entry["method"] == "monarch":
        right, left = factor("monarch.right"), factor("monarch.left")
        p, q, w = left.shape[1], right.shape[2], r // b
        assert right.shape == (b, r, q) and left.shape == (b, p, r)
        # block (j, i) = left_j[:, part i] @ right_i[part j, :]
        dense = np.einsum(
            "jpik,ijkq->jpiq", left.reshape(b, p, b, w), right.reshape(b, b, w, q), optimize=True
        )
        if entry["output_order"] == "interleaved":
            dense = dense.transpose(1, 0, 2, 3)
        return dense.reshape(b * p, b * q)
    u, s, v = factor("blast.u"), factor("blast.s"), factor("blast.v")
    p, q = u.shape[1], v.shape[2]
    assert u.shape == (b, p, r) and s.shape == (b, b, r) and v.shape == (b, r, q)
    return np.einsum("jpk,jik,ikq->jpiq", u, s, v, optimize=True).reshape(b * p, b * q)


def parts(dense, name):
    """Names of the dense tensors that a layer stands for."""
    stem = name.removesuffix("qkv")
    if f"{name}.weight" in dense or stem == name:
        return [f"{name}.weight"]
    return [f"{stem}{part}.weight" for part in ["query", "key", "value"]]


def main(dense_folder, compressed_folder):
    dense, found = tensors(dense_folder), tensors(compressed_folder)
    config = json.loads((Path(compressed_folder) / "config.json").read_text())
    section = config["blr"]
    assert section["version"] == 1, section["version"]
    replaced = set()
    for name, entry in section["layers"].items():
        stored = parts(dense, name)
        replaced.update(stored)
        weight = np.concatenate([dense[part].astype(np.float64) for part in stored])
        if config.get("model_type") == "gpt2":
            weight = weight.T
        error = np.linalg.norm(weight - rebuild(found, name, entry)) / np.linalg.norm(weight)
        if abs(error - entry["relative_error"]) > 1e-5:
            sys.exit(f"{name}: error {error}, config.json states {entry['relative_error']}")
        if any(part in found for part in stored):
            sys.exit(f"the dense weight of {name} is there beside its factors")
    for name, tensor in dense.items():
        if name not in replaced and not (
            found[name].dtype == tensor.dtype and np.array_equal(found[name], tensor)
        ):
            sys.exit(f"{name} differs from the dense checkpoint")
    print(f"{len(section['layers'])} layers agree, {len(dense) - len(replaced)} tensors are unchanged")


main(*sys.argv[1:])
