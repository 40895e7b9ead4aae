"""Runs the experiments with real data through the command `blr` and writes their tables.

Three models (the demo's GPT-2; a vision transformer and a pixel DiT on scikit-learn's digits, trained dense first), kept at 0.7, 0.5 and
0.3 of the parameters of their blocks' layers, as low-rank, Monarch, BLAST by the published method (`--solver gd`) and BLAST by ours: compressed,
compressed with samples, both fine-tuned with the dense model as teacher, and trained from scratch. Fine-tuning has the same budget for
every method; tasks.py has the budgets. The page begins with head.md and ends with notes.md, where there is one. Needs Python's standard library alone.

What was done before is kept in DIR and not done again, and what was killed goes on from its last validation. `--steps 0.01` tries the way out
in a few minutes. `--corpus` is what demo/corpus.py writes: train.txt, valid.txt, heldout.txt. Models are small, so that one GPU has room for a run
on each core: `--jobs 14` on 16 cores.
"""
import argparse
import math
import pathlib
import signal
import sys
import time

import digits
import sheet
import tables
from jobs import Pool, Store, prune
from tasks import ROOT, Dit, Gpt2, Vit

HERE = pathlib.Path(__file__).resolve().parent
NAMES = ("gpt2", "vit", "dit")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blr", default=str(ROOT / "target/release/blr"), help="the command; target/release/blr unless told otherwise")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoints, reports and results.json")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
    parser.add_argument("--dtype", default="f32", choices=("f32", "bf16"), help="of GPT-2's trainings; all else is in f32")
    parser.add_argument("--corpus", metavar="DIR", type=pathlib.Path, help="needed for gpt2")
    parser.add_argument("--only", default=",".join(NAMES), metavar="NAMES", help="some of gpt2, vit and dit")
    parser.add_argument("--steps", type=float, default=1.0, metavar="SHARE", help="share of the steps of every training")
    parser.add_argument("--jobs", type=int, default=1, metavar="COUNT", help="runs at the same time")
    parser.add_argument("--deadline", type=float, default=math.inf, metavar="SECONDS", help="no run starts after so long")
    parser.add_argument("--stop", type=float, default=math.inf, metavar="SECONDS", help="runs are ended after so long, to go on another time")
    parser.add_argument("--prune", action="store_true", help="removes the checkpoints that no run needs any more")
    parser.add_argument("--markdown", metavar="FILE", help="where the tables go, with a picture beside them; standard output if nowhere")
    found = parser.parse_args()
    found.only = found.only.split(",")
    if unknown := [name for name in found.only if name not in NAMES]:
        parser.error(f"--only: there is no {unknown[0]!r}; there are {', '.join(NAMES)}")
    if found.jobs < 1:
        parser.error(f"--jobs: {found.jobs} is not a number of runs")
    if not 0 < found.steps < math.inf:
        parser.error(f"--steps: {found.steps} is not a positive share")
    if not (found.deadline > 0 and found.stop > 0):
        parser.error("--deadline and --stop: seconds have to be positive")
    if not pathlib.Path(found.blr).is_file():
        parser.error(f"--blr: there is no {found.blr}; build it with cargo build --release")
    if "gpt2" in found.only:
        if found.corpus is None:
            parser.error("gpt2 needs --corpus, the output of demo/corpus.py")
        if missing := [name for name in ("train.txt", "valid.txt") if not (found.corpus / name).is_file()]:
            parser.error(f"--corpus: {found.corpus} has no {missing[0]}; demo/corpus.py writes it")
    return parser, found


def tasks(chosen, out):
    """The tasks in the order of the page."""
    make = {
        "gpt2": lambda: Gpt2(out, chosen.steps, chosen.corpus, chosen.dtype),
        "vit": lambda: Vit(out, chosen.steps),
        "dit": lambda: Dit(out, chosen.steps),
    }
    return [make[name]() for name in NAMES if name in chosen.only]


def page(chosen, found, store):
    """Writes what is known."""
    drawing = next((sheet.sheet(task) for task in found if task.name == "dit"), None)
    head, notes = (path.read_text() if path.exists() else "" for path in (HERE / "head.md", HERE / "notes.md"))
    if not chosen.markdown:
        print(tables.document(head, notes, found, store, None))
        return
    path = pathlib.Path(chosen.markdown)
    picture = path.with_name(path.stem + "_digits.svg")
    if drawing:
        picture.write_text(drawing)
    path.write_text(tables.document(head, notes, found, store, picture.name if drawing else None))


def main():
    began = time.time()
    parser, chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out = pathlib.Path(chosen.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        store = Store(out, {"steps": chosen.steps, "dtype": chosen.dtype})
    except (OSError, ValueError) as error:
        parser.error(f"--out: {error}")
    pool = Pool(chosen.blr, chosen.device, store, out, chosen.jobs, began, chosen.deadline, chosen.stop)
    found = tasks(chosen, out)
    # The longest runs first, so that none of them is alone at the end.
    jobs = [job for task in sorted(found, key=lambda task: task.name) for job in task.jobs()]
    left = pool.do(jobs)
    for task in found:
        if task.name == "dit" and store.value("dit-floor") is None:
            store.add("dit-floor", 0, {"dit-floor": {"distance": digits.distance(digits.real(task.train), task.real)}})
    if chosen.prune:
        prune(jobs, left)
    page(chosen, found, store)
    if pool.failed:
        print(f"failed, see above: {', '.join(pool.failed)}", file=sys.stderr)
    print(f"{len(jobs) - len(left)} of {len(jobs)} runs are done" + (f"; left: {tables.left(left)}" if left else ""))
    return 1 if pool.failed else 0


if __name__ == "__main__":
    sys.exit(main())
