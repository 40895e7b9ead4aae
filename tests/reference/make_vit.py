"""Makes tests/reference/vit/: tiny ViT checkpoints of transformers and timm, and what the two compute with them.

Usage: make_vit.py [OUT_DIR]. Runs on the CPU in under a minute. Each case holds the checkpoint as `save_pretrained` or timm's
`save_for_hf` writes it, and expected.safetensors with

- `pixel_values`, f32 [batch, 3, height, width]
- `logits`, f32 [batch, labels]
- `pixel_values.HxW`, `logits.HxW`: the same at sizes the model was not made for, where position embeddings are interpolated

Logits are computed in float64 from the saved weights and rounded once to float32, but for the interpolation of timm, which
timm does in float32 in any case.

`pipelines.json` lists settings of image pipelines, each with the file it is for (`preprocessor_config.json` of transformers,
`config.json` of timm); `pipelines.safetensors` holds the pixel values that each gives for image.png, and for some for
image.jpg (`NAME.jpg`) and for turned.jpg, whose EXIF data ask for a quarter turn (`NAME.turned`).
"""
import json
import pathlib
import shutil
import sys
import zlib

import numpy
import PIL
import PIL.Image
import PIL.ImageOps
import safetensors
import safetensors.torch
import timm
import timm.data
import timm.models
import torch
import torchvision
import transformers
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.vit.image_processing_vit import ViTImageProcessor

SEED = 29
LABELS = ["tabby cat", "egyptian cat", "lynx", "tank", "sea snake", "goldfish, Carassius auratus", "pier"]


def hf(sizes=(), dtype=torch.float32, **config):
    defaults = dict(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-12,
        id2label=dict(enumerate(LABELS)),
        label2id={name: n for n, name in enumerate(LABELS)},
    )
    return dict(kind="hf", sizes=sizes, dtype=dtype, config=defaults | config)


def tm(sizes=(), architecture="vit_tiny_patch16_224", **arguments):
    defaults = dict(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=len(LABELS)
    )
    return dict(kind="timm", sizes=sizes, architecture=architecture, arguments=defaults | arguments)


CASES = {
    "hf_patch8": hf(sizes=[(40, 40), (40, 24), (16, 16), (37, 44)]),
    "hf_patch16_no_qkv_bias": hf(
        image_size=48, patch_size=16, qkv_bias=False, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-2
    ),
    "hf_bfloat16": hf(dtype=torch.bfloat16, num_hidden_layers=3, num_attention_heads=4, sizes=[(40, 40)]),
    "timm_token": tm(sizes=[(48, 40), (24, 16), (24, 72)]),
    "timm_avg": tm(global_pool="avg", qkv_bias=False, mlp_ratio=1.5, num_heads=2),
    "timm_avg_prenormed": tm(
        global_pool="avg", fc_norm=False, no_embed_class=True, sizes=[(40, 40)], mlp_ratio=1.0, act_layer="quick_gelu"
    ),
    "timm_no_class_token": tm(global_pool="avg", class_token=False, mlp_ratio=1.0, sizes=[(24, 40)], proj_bias=False),
}

# Pixel values of images: what is in the file that the pipeline is read from.
HF = {"do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
SQUARE = {"size": {"height": 32, "width": 32}}
EDGE = {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 24}}
TIMM = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7]}
PIPELINES = {
    **{
        f"hf_{name}": HF | SQUARE | {"resample": number}
        for number, name in enumerate(["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"])
    },
    "hf_edge_crop": HF | EDGE | {"resample": 3},
    "hf_no_normalize": HF | SQUARE | {"resample": 2, "do_normalize": False, "rescale_factor": 0.5},
    "hf_crop_pads_torchvision": HF | {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 52, "width": 41}},
    "hf_enlarge": HF | {"size": {"height": 50, "width": 64}, "resample": 3},
    "hf_torchvision": HF | SQUARE | {"resample": 2},
    "timm_bicubic": TIMM | {"interpolation": "bicubic", "crop_pct": 0.9},
    "timm_bilinear": TIMM | {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"},
    "timm_squash": TIMM | {"interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "squash"},
    "timm_oblong": TIMM | {"input_size": [3, 40, 24], "interpolation": "bicubic", "crop_pct": 0.9},
}
WITH_JPEG = ["hf_bilinear", "timm_bicubic"]


def randomise(model, generator):
    """Draws every parameter, biases and norms too: a zero or a one would hide a swapped or lost tensor."""
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 0.3 * noise
        elif "embeddings" in name and parameter.ndim == 3 or "pos_embed" in name or "cls_token" in name:
            values = noise
        elif parameter.ndim == 1:
            values = 0.3 * noise
        else:
            values = 1.5 * noise * parameter[0].numel() ** -0.5
        with torch.no_grad():
            parameter.copy_(values)


def expected(run, settings, size, generator):
    """Logits at the size of the model and at the others; `run(pixels, other)`, where `other` says which."""
    tensors = {}
    for n, (height, width) in enumerate([(size, size), *settings["sizes"]]):
        batch = 2 if n == 0 else 1
        pixels = torch.randn(batch, 3, height, width, generator=generator)
        with torch.no_grad():
            logits = run(pixels.double(), n > 0)
        suffix = f".{height}x{width}" if n else ""
        tensors[f"pixel_values{suffix}"] = pixels
        tensors[f"logits{suffix}"] = logits.float().contiguous()
        assert 0.1 < logits.std() < 5, f"logits are not of order one: {logits.std()}"
    return tensors


def make_hf(folder, settings, generator):
    model = ViTForImageClassification(ViTConfig(**settings["config"]))
    randomise(model, generator)
    model.to(settings["dtype"]).save_pretrained(folder)
    size = settings["config"]["image_size"]
    ViTImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    model = ViTForImageClassification.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
    run = lambda pixels, other: model(pixels, interpolate_pos_encoding=other).logits
    return expected(run, settings, size, generator)


def make_timm(folder, settings, generator):
    arguments = settings["arguments"]
    model = timm.create_model(settings["architecture"], dynamic_img_size=True, **arguments)
    randomise(model, generator)
    # What else the model was made with, timm writes itself.
    timm.models.save_for_hf(
        model,
        folder,
        model_config={"label_names": LABELS},
        data_config={"input_size": (3, 32, 32)},
        safe_serialization=True,
    )
    model = model.double().eval()
    return expected(lambda pixels, other: model(pixels), settings, arguments["img_size"], generator)


def image():
    """A picture of 61 x 47 pixels with slopes, edges and noise."""
    generator = numpy.random.default_rng(SEED)
    y, x = numpy.mgrid[0:47, 0:61]
    channels = [128 + 90 * numpy.sin(x / 9 + y / 14), 40 + 3 * x, 255 * ((x // 8 + y // 6) % 2)]
    pixels = numpy.stack(channels, axis=-1) + generator.normal(0, 12, (47, 61, 3))
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


def pixel_values(name, settings, picture):
    if name.startswith("timm"):
        data = timm.data.resolve_data_config(pretrained_cfg=settings)
        data["img_size"] = data.pop("input_size")[1:]
        return timm.data.transforms_factory.transforms_imagenet_eval(**data)(picture).float()
    kind = ViTImageProcessor if name.endswith("torchvision") else ViTImageProcessorPil
    return torch.as_tensor(kind(**settings)(picture, return_tensors="pt").pixel_values[0]).float()


def make_pipelines(out):
    picture = image()
    picture.save(out / "image.png")
    picture.save(out / "image.jpg", quality=92)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture.save(out / "turned.jpg", quality=92, subsampling=0, exif=exif)
    tensors = {}
    listed = {}
    for name, settings in PIPELINES.items():
        tensors[name] = pixel_values(name, settings, picture)
        if name in WITH_JPEG:
            tensors[f"{name}.jpg"] = pixel_values(name, settings, PIL.Image.open(out / "image.jpg"))
            turned = PIL.ImageOps.exif_transpose(PIL.Image.open(out / "turned.jpg"))
            tensors[f"{name}.turned"] = pixel_values(name, settings, turned)
        if name.startswith("timm"):
            listed[name] = {"architecture": "vit_tiny_patch16_224", "num_classes": 7, "pretrained_cfg": settings}
        else:
            listed[name] = settings
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, out / "pipelines.safetensors")
    (out / "pipelines.safetensors").chmod(0o644)
    (out / "pipelines.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    apart = (tensors["hf_torchvision"] - tensors["hf_bilinear"]).abs().max().item()
    print(f"torchvision and PIL are {apart / (1 / 255 / 0.5):.2f} levels apart")


def main():
    here = pathlib.Path(__file__).resolve().parent
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "vit"
    out.mkdir(exist_ok=True)
    summary = {}
    for name, settings in sorted(CASES.items()):
        seed = SEED + zlib.crc32(name.encode())
        generator = torch.Generator().manual_seed(seed)
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        make = {"hf": make_hf, "timm": make_timm}[settings["kind"]]
        tensors = make(folder, settings, generator)
        safetensors.torch.save_file(tensors, folder / "expected.safetensors")
        for path in folder.iterdir():
            path.chmod(0o644)
        summary[name] = {"seed": seed, "tensors": {k: list(v.shape) for k, v in tensors.items()}}
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(name, f"{size >> 10} KB, std {tensors['logits'].std():.3f}", tensors["logits"].flatten()[:3].tolist())
    make_pipelines(out)
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "transformers": transformers.__version__,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
        "safetensors": safetensors.__version__,
        "numpy": numpy.__version__,
    }
    text = json.dumps({"versions": versions, "cases": summary}, indent=1) + "\n"
    (out / "versions.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
