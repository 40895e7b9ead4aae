"""Makes digits.onnx and digits.safetensors: a vision transformer trained on scikit-learn's digits, and what onnxruntime computes with it.

Usage: export.py [OUT_DIR]. Runs on the CPU in a few minutes. The network is timm's `VisionTransformer` on 8 x 8 images of one channel
in patches of 2 x 2. `digits.safetensors` holds the images that training never saw:

- `pixel_values`, f32 [images, 1, 8, 8], from 0 to 1
- `labels`, i64 [images]
- `logits`, f32 [images, 10], of onnxruntime

Seed, versions, sizes and accuracy go to `digits.json`. The images are the test set of "Optical Recognition of Handwritten Digits"
(E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository, CC BY 4.0), as scikit-learn holds them.
"""
import json
import pathlib
import sys

import numpy
import onnx
import onnxruntime
import onnxscript
import safetensors.numpy
import sklearn
import sklearn.datasets
import sklearn.model_selection
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

SEED = 53
HELD_OUT = 360
EPOCHS = 100
BATCH = 64
MODEL = dict(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=48, depth=3, num_heads=3, mlp_ratio=4.0)


def shifted(images, generator):
    """The images moved by up to one pixel each way, zeros coming in."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    row, column = torch.randint(0, 3, (2, len(images), 1, 1, 1), generator=generator)
    rows = (row + torch.arange(8)[:, None]).expand(-1, 1, 8, 8)
    columns = (column + torch.arange(8)).expand(-1, 1, 8, 8)
    image = torch.arange(len(images))[:, None, None, None]
    return padded[image, torch.zeros_like(rows), rows, columns]


def train(images, labels):
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # Of layers this small, one thread computes more than two.
    model = VisionTransformer(**MODEL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = torch.nn.functional.cross_entropy(model(shifted(images[batch], generator)), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent
    digits = sklearn.datasets.load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target, dtype=torch.int64)
    kept, held_out = sklearn.model_selection.train_test_split(
        numpy.arange(len(labels)), test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    model = train(images[kept], labels[kept])

    path = out / "digits.onnx"
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        model,
        (images[held_out[:2]],),
        path,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        external_data=False,
        dynamo=True,
    )
    # Names of nodes and tensors stay; where in the script a node came from goes.
    graph = onnx.load(path)
    for node in graph.graph.node:
        del node.metadata_props[:]
    for value in [*graph.graph.value_info, *graph.graph.input, *graph.graph.output]:
        del value.metadata_props[:]
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)

    pixels = images[held_out].numpy()
    [logits] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixel_values": pixels})
    with torch.no_grad():
        apart = numpy.abs(model(images[held_out]).numpy() - logits).max()
    truth = labels[held_out].numpy()
    accuracy = float((logits.argmax(axis=1) == truth).mean())
    safetensors.numpy.save_file({"pixel_values": pixels, "labels": truth, "logits": logits}, out / "digits.safetensors")
    modules = [torch, timm, onnx, onnxruntime, onnxscript, sklearn, numpy]
    summary = {
        "seed": SEED,
        "model": MODEL,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": len(truth),
        "accuracy": accuracy,
        "versions": {module.__name__: module.__version__ for module in modules},
    }
    (out / "digits.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"accuracy {accuracy:.4f}, PyTorch and onnxruntime are {apart:.1e} apart, {path.stat().st_size >> 10} KB")


if __name__ == "__main__":
    main()
