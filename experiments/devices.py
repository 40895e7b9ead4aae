"""Fine-tunes on one GPU and on several with the same batch of a step, and compares losses and times.

Usage: devices.py --blr target/release/blr --data TEXT --out DIR [--devices 2] [--exchange all-reduce] [--dtype bf16] [--steps 200] [--batch 32]
"""
import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--blr", default=str(ROOT / "target/release/blr"))
parser.add_argument("--data", default=str(ROOT / "demo/heldout.txt"))
parser.add_argument("--out", required=True)
parser.add_argument("--device", default="cuda")
parser.add_argument("--devices", type=int, default=2)
parser.add_argument("--exchange", default="all-reduce")
parser.add_argument("--dtype", default="f32")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--batch", type=int, default=32)
arguments = parser.parse_args()

out, teacher = pathlib.Path(arguments.out), ROOT / "demo/checkpoint"
out.mkdir(parents=True, exist_ok=True)


def run(*words):
    subprocess.run([arguments.blr, *map(str, words), "--device", arguments.device], check=True)


student = out / "student"
if not student.exists():
    run("compress", teacher, "--method", "low-rank", "--keep", "0.5", "--out", student)
reports = {}
for devices in (1, arguments.devices):
    report, made = out / f"{devices}.json", out / f"tuned-{devices}"
    words = ["finetune", student, "--teacher", teacher, "--data", arguments.data, "--out", made, "--json", report, "--dtype", arguments.dtype]
    words += ["--steps", arguments.steps, "--save-every", arguments.steps, "--batch", arguments.batch, "--lr", "1e-3"]
    words += ["--accumulate", arguments.devices // devices, "--devices", devices, "--exchange", arguments.exchange]
    if not made.exists():
        run(*words)
    reports[devices] = json.loads(report.read_text())
one, several = reports[1], reports[arguments.devices]
pairs = [(a["loss"], b["loss"]) for a, b in zip(one["steps"], several["steps"], strict=True)]
print(f"largest relative difference of a step's loss: {max(abs(a - b) / a for a, b in pairs):.2e}")
print(f"last loss {pairs[-1][0]:.4f} and {pairs[-1][1]:.4f}; on the validation", end=" ")
print(f"{one['validations'][-1]['loss']:.4f} and {several['validations'][-1]['loss']:.4f}")
print(f"{one['seconds']:.1f} s on one, {several['seconds']:.1f} s on {arguments.devices}: {one['seconds'] / several['seconds']:.2f} times as fast")
