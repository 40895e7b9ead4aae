"""Compares `blr forward` with the stored numbers of every case of a family, on any device.

Usage: check_forward.py BLR FAMILY [flags of blr ...], for instance
`check_forward.py target/release/blr llama --device cuda --dtype bf16`. Needs numpy and safetensors. Prints the largest
difference of each case, relative to its largest logit, and fails above what the dtype allows: 2e-5 in f32 on the CPU,
4e-3 in f32 on a GPU, where dense products round their operands to tf32, and 16 roundings of the dtype otherwise.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy
from safetensors.numpy import load_file


def allowed(flags):
    text = " ".join(flags)
    if "bf16" in text:
        return 16 * 2**-8
    if "f16" in text:
        return 16 * 2**-11
    return 2e-5 if "cpu" in text else 4e-3


def main():
    blr, family, *flags = sys.argv[1:]
    root = pathlib.Path(__file__).resolve().parent / family
    limit = allowed(flags)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        outputs = pathlib.Path(folder) / "outputs.safetensors"
        for inputs in sorted(root.glob("*/expected.safetensors")):
            command = [blr, "forward", inputs.parent, "--inputs", inputs, "--outputs", outputs, *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            expected = load_file(inputs)["logits"]
            found = load_file(outputs)["logits"]
            assert found.shape == expected.shape, (found.shape, expected.shape)
            error = numpy.abs(found - expected).max() / numpy.abs(expected).max()
            good = bool(error < limit)  # not for NaN
            failed += not good
            print(f"{inputs.parent.name:32} {error:.2e} {'' if good else f'above {limit:.2e}'}", flush=True)
    sys.exit(f"{failed} cases differ" if failed else 0)


if __name__ == "__main__":
    main()
