"""Makes tests/reference/dit/, dit_pt/ and vae/: tiny DiT checkpoints and decoders, and what the official code computes with them.

Usage: make_dit.py DIT [OUT_DIR], where DIT is a checkout of https://github.com/facebookresearch/DiT. Runs on the CPU in under a
minute. Needs torch, timm, diffusers and safetensors.

dit/<case>/ holds config.json (the arguments of the constructor `DiT`), model.safetensors (its state dict) and expected.safetensors:

- `x`, f32 [batch, channels, size, size]; `t`, `y`, i64 [batch]; the last of `y` is the null class
- `sample`, f32 [batch, channels out, size, size]: `DiT.forward`

and in some cases what the official samplers make of given noise, with guidance `guidance` and without clipping:

- `classes`, i64 [n]; `guidance`, f32 [1]; `noise`, f32 [n, channels, size, size]
- `ddim`, f32 like `noise`: 4 steps, eta 0
- `ddpm_noise`, f32 [3, n, channels, size, size], `ddpm`, f32 like `noise`: 3 steps

dit_pt/ holds the same state dict as `plain.pt` (what was published) and `train.pt` (what train.py writes), with
expected.safetensors. vae/<case>/ holds an AutoencoderKL of diffusers as `save_pretrained` writes it, and expected.safetensors
with `latents` and `image`, what `decode` returns.

All numbers are computed in float64 from the saved weights and rounded once to float32, except the sines and cosines of the
timesteps, which the official code computes in float32.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import zlib

import diffusers
import safetensors
import safetensors.torch
import timm
import torch

SEED = 41
GUIDANCE = 2.5
DDIM_STEPS = 4
DDPM_STEPS = 3


def case(dtype=torch.float32, batch=3, trajectory=False, **config):
    defaults = dict(
        input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=3, mlp_ratio=4.0,
        class_dropout_prob=0.1, num_classes=10, learn_sigma=True,
    )  # fmt: skip
    return dict(dtype=dtype, batch=batch, trajectory=trajectory, config=defaults | config)


CASES = {
    "latent": case(trajectory=True),
    "pixel_rgb": case(in_channels=3, patch_size=4, input_size=16, num_heads=4, mlp_ratio=2.0),
    "pixel_gray": case(in_channels=1, depth=3, num_heads=2, dtype=torch.float16),
    "fixed_sigma": case(hidden_size=64, num_heads=4, patch_size=4, mlp_ratio=3.0, learn_sigma=False, dtype=torch.bfloat16, trajectory=True),
}
PT = case(in_channels=3, input_size=8, hidden_size=16, num_heads=2, num_classes=7)
VAES = {
    # Two of three blocks double the size; the last narrows, which takes a shortcut convolution.
    "three_blocks": dict(block_out_channels=(4, 8, 8), norm_num_groups=2, layers_per_block=1),
    "one_channel": dict(block_out_channels=(8, 8), norm_num_groups=2, layers_per_block=2, in_channels=1, out_channels=1),
}


def randomise(model, generator):
    """Draws every parameter but the fixed positions: a zero would hide a lost tensor, and the official start is all zeros."""
    for name, parameter in sorted(model.named_parameters()):
        if name == "pos_embed":
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 0.3 * noise
        elif parameter.ndim == 1:
            values = 0.3 * noise
        elif "embedding_table" in name:
            values = noise
        else:
            values = noise * parameter[0].numel() ** -0.5
        with torch.no_grad():
            parameter.copy_(values)


def build(dit, settings, generator):
    """The model in float64 with weights as they are stored, and those weights."""
    model = dit.DiT(**settings["config"])
    randomise(model, generator)
    stored = {name: tensor.to(settings["dtype"]).contiguous() for name, tensor in model.state_dict().items()}
    model = model.double().eval()
    model.load_state_dict(stored)
    return model, stored


def forward(model, settings, generator):
    config = settings["config"]
    size, classes = config["input_size"], config["num_classes"]
    x = torch.randn(settings["batch"], config["in_channels"], size, size, generator=generator)
    t = torch.randint(1000, (len(x),), generator=generator)
    y = torch.randint(classes, (len(x),), generator=generator)
    t[0], y[-1] = 999, classes
    with torch.no_grad():
        sample = model(x.double(), t, y)
    assert 0.3 < sample.std() < 5, f"not of order one: {sample.std()}"
    return {"x": x, "t": t, "y": y, "sample": sample.float().contiguous()}


def trajectories(create_diffusion, model, settings, generator):
    """The loops of sample.py with noise from outside."""
    config = settings["config"]
    size = config["input_size"]
    shape = (2, config["in_channels"], size, size)
    classes = torch.tensor([3, 8])
    noise = torch.randn(shape, generator=generator)
    steps = torch.randn((DDPM_STEPS, *shape), generator=generator)
    y = torch.cat([classes, torch.full_like(classes, config["num_classes"])])
    kwargs = dict(
        noise=torch.cat([noise, noise]).double(), clip_denoised=False, device="cpu",
        model_kwargs=dict(y=y, cfg_scale=GUIDANCE),
    )  # fmt: skip
    both = (4, *shape[1:])
    variance = dict(learn_sigma=config["learn_sigma"])
    ddim = create_diffusion(str(DDIM_STEPS), **variance).ddim_sample_loop(model.forward_with_cfg, both, eta=0.0, **kwargs)
    given = iter(steps)
    original = torch.randn_like
    torch.randn_like = lambda like: torch.cat([next_noise := next(given), next_noise]).to(like)
    ddpm = create_diffusion(str(DDPM_STEPS), **variance).p_sample_loop(model.forward_with_cfg, both, **kwargs)
    torch.randn_like = original
    return {
        "classes": classes,
        "guidance": torch.tensor([GUIDANCE]),
        "noise": noise,
        "ddim": ddim[:2].float().contiguous(),
        "ddpm_noise": steps,
        "ddpm": ddpm[:2].float().contiguous(),
    }


def write(folder, tensors):
    safetensors.torch.save_file(tensors, folder / "expected.safetensors")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(folder.name, f"{size >> 10} KB", {name: list(tensor.shape) for name, tensor in tensors.items()})
    assert size < 1 << 20


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def seeded(name):
    return torch.Generator().manual_seed(SEED + zlib.crc32(name.encode()))


def make_dit(dit, create_diffusion, folder, name, settings):
    generator = seeded(name)
    model, stored = build(dit, settings, generator)
    safetensors.torch.save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "dit"} | settings["config"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = forward(model, settings, generator)
    if settings["trajectory"]:
        tensors |= trajectories(create_diffusion, model, settings, generator)
    write(folder, tensors)


def make_pt(dit, folder):
    generator = seeded("pt")
    model, stored = build(dit, PT, generator)
    torch.save(stored, folder / "plain.pt")
    # The averaged weights are the ones to use; the others differ.
    other = {name: tensor + 1 for name, tensor in stored.items()}
    args = argparse.Namespace(model="DiT-S/2", image_size=64, num_classes=7)
    torch.save({"model": other, "ema": stored, "opt": {"state": {}, "param_groups": []}, "args": args}, folder / "train.pt")
    write(folder, forward(model, PT, generator))


def make_vae(folder, name, settings):
    generator = seeded(name)
    blocks = len(settings["block_out_channels"])
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4, sample_size=16, **settings,
    )  # fmt: skip
    randomise(vae, generator)
    vae.save_pretrained(folder)
    vae = vae.double().eval()
    latents = torch.randn(2, 4, 4, 4, generator=generator)
    with torch.no_grad():
        image = vae.decode(latents.double()).sample
    assert 0.1 < image.std() < 5, f"not of order one: {image.std()}"
    write(folder, {"latents": latents, "image": image.float().contiguous()})


def main():
    source = pathlib.Path(sys.argv[1])
    here = pathlib.Path(__file__).resolve().parent
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here
    sys.path.insert(0, str(source))
    import models as dit
    from diffusion import create_diffusion

    original = dit.TimestepEmbedder.timestep_embedding
    dit.TimestepEmbedder.timestep_embedding = staticmethod(lambda t, dim: original(t, dim).double())
    for name, settings in sorted(CASES.items()):
        make_dit(dit, create_diffusion, fresh(out / "dit" / name), name, settings)
    make_pt(dit, fresh(out / "dit_pt"))
    for name, settings in sorted(VAES.items()):
        make_vae(fresh(out / "vae" / name), name, settings)
    commit = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = {
        "facebookresearch/DiT": commit,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "diffusers": diffusers.__version__,
        "safetensors": safetensors.__version__,
    }
    text = json.dumps({"seed": SEED, "versions": versions}, indent=1) + "\n"
    (out / "dit" / "versions.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
