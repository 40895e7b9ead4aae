"""Runs the experiments with real data through the command `blr` and writes their tables.

Usage: run.py --blr target/release/blr --out DIR [--device cuda] [--dtype bf16] [--corpus DIR] [--only gpt2,vit,dit] [--steps SHARE]
       [--markdown docs/experiments.md]

Three models (the demo's GPT-2; a vision transformer and a pixel DiT on scikit-learn's digits, trained dense first), kept at 0.7, 0.5 and
0.3 of the parameters of their blocks' layers, as low-rank, Monarch, BLAST by the published method (`--solver gd`) and BLAST by ours: compressed,
compressed with samples, fine-tuned with the dense model as teacher, and trained from scratch. Fine-tuning has the same budget for every
method. Needs Python's standard library alone. What was done before is kept in DIR and not done again; `--steps 0.01` tries the way
out in a minute or two. `--corpus` is what demo/corpus.py writes: train.txt, valid.txt, heldout.txt.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time

import png

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
KEEPS = ("0.7", "0.5", "0.3")
METHODS = {
    "low-rank": ["--method", "low-rank"],
    "Monarch": ["--method", "monarch"],
    "BLAST, published": ["--method", "blast", "--solver", "gd", "--steps", "300", "--tolerance", "0"],
    "BLAST, ours": ["--method", "blast"],
}
# From scratch there is no solver.
SCRATCH = {"low-rank": "low-rank", "Monarch": "monarch", "BLAST, ours": "blast"}
SPLITS = 5  # every fifth digit is for the test


def digits(out):
    """Writes the digits as files, a folder for each label, for training and for the test."""
    root = out / "digits"
    if not (root / "done").exists():
        picture, labels = png.read(HERE / "digits.png"), (HERE / "digits.txt").read_text().strip()
        across = len(picture[0]) // 8
        for n, label in enumerate(labels):
            folder = root / ("test" if n % SPLITS == 0 else "train") / label
            folder.mkdir(parents=True, exist_ok=True)
            top, left = 8 * (n // across), 8 * (n % across)
            png.write(folder / f"{n:04}.png", [row[left : left + 8] for row in picture[top : top + 8]])
        (root / "done").write_text("")
    return root / "train", root / "test"


def pixels(folder):
    """The images of a folder, by label, as lists of values from 0 to 1."""
    return {
        label.name: [[value / 255 for row in png.read(file) for value in row] for file in sorted(label.glob("*.png"))]
        for label in sorted(folder.iterdir())
    }


class Command:
    """The command, and what it said before."""

    def __init__(self, arguments):
        self.arguments, self.out = arguments, pathlib.Path(arguments.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "results.json"
        self.results = json.loads(self.path.read_text()) if self.path.exists() else {}

    def steps(self, count):
        return ["--steps", str(max(2, round(count * self.arguments.steps)))]

    def run(self, words):
        report = self.out / "report.json"
        report.unlink(missing_ok=True)
        line = [self.arguments.blr, *map(str, words), "--device", self.arguments.device, "--json", str(report)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(line)}\n{done.stderr}")
        return json.loads(report.read_text())

    def make(self, out, words):
        """Makes a checkpoint unless it is there."""
        if not out.exists():
            began = time.time()
            resumes = words[0] != "import" and out.with_name(out.name + ".partial").exists()
            self.run([*words, "--out", out, *(["--resume"] if resumes else [])])
            print(f"{out.name}: {time.time() - began:.0f} s", flush=True)
        return out

    def keep(self, key, value):
        """What `value` gives, once."""
        if key not in self.results:
            self.results[key] = value()
            self.path.write_text(json.dumps(self.results, indent=1))
            print(f"{key}: {self.results[key]}", flush=True)
        return self.results[key]

    def trained(self, out, words):
        return self.make(out, [*words, "--dtype", self.arguments.dtype])


class Gpt2:
    """The demo's model; perplexity on its held-out text."""

    name, title, measure, digits = "gpt2", "GPT-2 of the demo", "perplexity on held-out text (lower is better)", 2
    samples = True

    def __init__(self, command):
        self.command, self.corpus = command, pathlib.Path(command.arguments.corpus)
        self.dense = ROOT / "demo/checkpoint"
        self.finetune = ["--data", self.corpus / "train.txt", "--valid", self.corpus / "valid.txt", "--window", "256", "--batch", "32"]
        self.finetune += ["--lr", "1e-3", *command.steps(2000)]
        self.scratch = ["--data", self.corpus / "train.txt", "--valid", self.corpus / "valid.txt", "--window", "256", "--batch", "64"]
        self.scratch += ["--lr", "2e-3", "--weight-decay", "0.1", *command.steps(6000)]
        self.scratch += ["--family", "gpt2", "--config", ROOT / "configs/gpt2-demo/config.json", "--tokenizer", self.dense]
        self.calibration = self.corpus / "valid.txt"

    def measured(self, checkpoint):
        return self.command.run(["eval", checkpoint, "--data", ROOT / "demo/heldout.txt"])["perplexity"]


class Vit:
    """A vision transformer on the digits; accuracy on those that training never saw."""

    name, title, measure, digits = "vit", "Vision transformer on 8 x 8 digits", "errors on 360 images of the test, % (lower is better)", 2
    samples = True

    def __init__(self, command):
        self.command = command
        self.train, self.test = digits(command.out)
        common = ["--data", self.train, "--valid", self.test, "--batch", "128", "--weight-decay", "0.05"]
        self.finetune = [*common, "--lr", "1e-3", *command.steps(300)]
        self.scratch = [*common, "--lr", "2e-3", *command.steps(2000), "--family", "vit", "--config", ROOT / "configs/vit-digits/config.json"]
        self.dense = command.trained(command.out / "vit-dense", ["train", *self.scratch])
        self.calibration = self.train

    def measured(self, checkpoint):
        return 100 * (1 - self.command.run(["eval", checkpoint, "--data", self.test])["accuracy"])


class Dit:
    """A pixel DiT on the digits; how far what it draws is from digits of the test."""

    name, title, digits = "dit", "Pixel DiT on 8 x 8 digits", 3
    measure = (
        "distance of drawn digits: mean of the distance from a drawn digit to the nearest of the test of its class and from one of the "
        "test to the nearest drawn one (lower is better; between the digits of training and of the test it is {floor:.3f})"
    )
    samples = False  # compress takes no samples for a DiT

    def __init__(self, command):
        self.command = command
        self.train, self.test = digits(command.out)
        common = ["--data", self.train, "--valid", self.test, "--batch", "128", "--lr", "1e-3", "--ema", "0.995"]
        self.finetune = [*common, *command.steps(2000)]
        self.scratch = [*common, *command.steps(10000), "--family", "dit", "--config", ROOT / "configs/dit-digits/config.json"]
        self.dense = command.trained(command.out / "dit-dense", ["train", *self.scratch])
        self.real = pixels(self.test)
        self.measure = self.measure.format(floor=command.keep("dit floor", lambda: distance(pixels(self.train), self.real)))

    def measured(self, checkpoint):
        count, picture = 36, self.command.out / f"{checkpoint.name}.png"
        words = ["sample", checkpoint, "--class", ",".join(map(str, range(10))), "--count", count, "--sampler", "ddim"]
        self.command.run([*words, "--steps", "100", "--guidance", "1", "--out", picture])
        return distance(drawn(picture, count), self.real)


def drawn(picture, count):
    """The digits of a grid of `blr sample`, by class; two black pixels lie between tiles."""
    rows = png.read(picture)
    across, found = (len(rows[0]) - 2) // 10, {}
    for n in range(10 * count):
        top, left = 2 + 10 * (n // across), 2 + 10 * (n % across)
        tile = [value / 255 for row in rows[top : top + 8] for value in row[left : left + 8]]
        found.setdefault(str(n // count), []).append(tile)
    return found


def distance(some, others):
    """Mean over classes of the mean distance to the nearest, both ways; root mean square over pixels."""

    def nearest(these, those):
        each = (min(sum((x - y) ** 2 for x, y in zip(one, other)) for other in those) for one in these)
        return sum((square / 64) ** 0.5 for square in each) / len(these)

    pairs = [(some[label], others[label]) for label in sorted(others)]
    return sum(nearest(a, b) + nearest(b, a) for a, b in pairs) / 2 / len(pairs)


def rows(command, task):
    """The numbers of a task: for each kept share and method, those of the ways to get there."""
    name, out = task.name, command.out
    found = {"dense": command.keep(f"{name} dense", lambda: task.measured(task.dense))}
    for keep in KEEPS:
        for method, flags in METHODS.items():
            stem = f"{name}-{keep}-{method.replace(', ', '-')}"
            plain = command.make(out / stem, ["compress", task.dense, "--keep", keep, *flags])
            found[keep, method, "compressed"] = command.keep(stem, lambda: task.measured(plain))
            if task.samples and "gd" not in flags:
                words = ["compress", task.dense, "--keep", keep, *flags, "--calibration", task.calibration]
                sampled = command.make(out / f"{stem}-samples", [*words, "--ranks", "by-error"])
                found[keep, method, "with samples"] = command.keep(f"{stem}-samples", lambda: task.measured(sampled))
            words = ["finetune", plain, "--teacher", task.dense, *task.finetune]
            tuned = command.trained(out / f"{stem}-tuned", words)
            found[keep, method, "fine-tuned"] = command.keep(f"{stem}-tuned", lambda: task.measured(tuned))
            if method in SCRATCH:
                words = ["train", *task.scratch, "--method", SCRATCH[method], "--keep", keep]
                fresh = command.trained(out / f"{stem}-scratch", words)
                found[keep, method, "from scratch"] = command.keep(f"{stem}-scratch", lambda: task.measured(fresh))
    return found


def table(task, found):
    """The numbers as Markdown."""
    ways = ["compressed", "with samples", "fine-tuned", "from scratch"]
    ways = [way for way in ways if any(way in key for key in found if key != "dense")]
    text = f"## {task.title}\n\nDense: {found['dense']:.{task.digits}f}. Numbers are the {task.measure}.\n\n"
    text += f"| keep | method | {' | '.join(ways)} |\n|---:|---|{'---:|' * len(ways)}\n"
    for keep in KEEPS:
        for method in METHODS:
            numbers = [found.get((keep, method, way)) for way in ways]
            cells = ["" if number is None else f"{number:,.{task.digits}f}" for number in numbers]
            text += f"| {keep} | {method} | {' | '.join(cells)} |\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blr", default=str(ROOT / "target/release/blr"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="f32", help="of training; what is measured is measured in f32")
    parser.add_argument("--corpus", help="needed for gpt2")
    parser.add_argument("--only", default="gpt2,vit,dit")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the steps of every training")
    parser.add_argument("--markdown", help="where the tables go, standard output if nowhere")
    arguments = parser.parse_args()
    tasks = {task.name: task for task in (Gpt2, Vit, Dit)}
    chosen = arguments.only.split(",")
    if "gpt2" in chosen and not arguments.corpus:
        parser.error("gpt2 needs --corpus, the output of demo/corpus.py")
    command = Command(arguments)
    texts = []
    for name in chosen:
        task = tasks[name](command)
        texts.append(table(task, rows(command, task)))
        text = (HERE / "head.md").read_text() + "\n" + "\n".join(texts)
        if arguments.markdown:
            pathlib.Path(arguments.markdown).write_text(text)
    if not arguments.markdown:
        print(text)


if __name__ == "__main__":
    main()
