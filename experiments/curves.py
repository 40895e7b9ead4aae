"""Draws the error of BLAST factorisations over time from what `blr bench compress --json` writes, and makes a table of it.

Usage: curves.py FILE... [--low-rank 0.255] [--svg FILE] [--seconds 0.5,1,2,5,10,20,30] [--linear] [--labels LABEL,...]

A line for each file: its last run, the first one having compiled kernels on a GPU, with `--repeat`. The table, in Markdown, goes to
standard output. Errors are the lowest that a search had reached by then. All files have to be of the same matrix on the same device.
"""
import argparse
import json
import math
import pathlib
import sys

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 62, 52
ROOM = 0.06  # beyond the lowest and the highest error, as a share of what is between
NAMES = {"gd": "published (gradient steps)", "lbfgs": "ours (quasi-Newton steps)"}
LOOKS = ("one", "two", "three", "four", "five")
STYLE = """text { font: 12px system-ui, 'DejaVu Sans', sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.small { font-size: 11px; }
.page { fill: #ffffff; }
.grid { stroke: #d9dee3; stroke-width: 1; fill: none; }
.level { stroke: #57606a; stroke-width: 1.5; stroke-dasharray: 6 4; fill: none; }
.line { stroke-width: 2.2; fill: none; }
.one { stroke: #0f8a5f; }
.two { stroke: #c2410c; }
.three { stroke: #0969da; }
.four { stroke: #8250df; }
.five { stroke: #9a6700; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.page { fill: #0d1117; }
.grid { stroke: #2b323b; }
.level { stroke: #9aa4af; }
.one { stroke: #3fd6a0; }
.two { stroke: #ffa657; }
.three { stroke: #58a6ff; }
.four { stroke: #d2a8ff; }
.five { stroke: #e3b341; }
}
"""


class Curve:
    """The error of one search over time."""

    def __init__(self, path, label=None):
        try:
            report = json.loads(pathlib.Path(path).read_text())
            run = report["runs"][-1]
            self.matrix = tuple(report[key] for key in ("rows", "columns", "rank", "blocks", "device"))
            self.label = label or NAMES.get(report["solver"], report["solver"])
            self.seconds = run["seconds"]
            points = [(float(seconds), float(error)) for seconds, error in run["curve"]]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            sys.exit(f"curves.py: {path} is not what blr bench compress --json writes: {error!r}")
        self.points, lowest = [], math.inf
        for seconds, error in points:
            # A solver says where it begins before it has a step; an error above 1 is no progress over zero.
            if math.isfinite(error):
                lowest = min(lowest, error)
                self.points.append((seconds, lowest))
        if not self.points:
            sys.exit(f"curves.py: {path}: its last run has no curve")

    def at(self, seconds):
        """The lowest error by then; nothing before the first is known, the last after the end."""
        known = [error for when, error in self.points if when <= seconds]
        return known[-1] if known else None


def table(curves, times):
    """Error by seconds; what a search has after its end is in brackets."""
    text = f"| seconds | {' | '.join(curve.label for curve in curves)} |\n|---:|{'---:|' * len(curves)}\n"
    for seconds in times:
        cells = []
        for curve in curves:
            error = curve.at(seconds)
            over = error is not None and seconds > curve.points[-1][0]
            cells.append("" if error is None else f"({error:.4f})" if over else f"{error:.4f}")
        text += f"| {seconds:g} | {' | '.join(cells)} |\n"
    ends = ", ".join(f"{curve.label}: {curve.points[-1][1]:.4f} after {curve.seconds:.1f} s" for curve in curves)
    return text + f"\nAt the end: {ends}.\n"


def ticks(low, high, count):
    """Round values between, about `count` of them."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= raw)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high):
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [n * 10.0**power for power in powers for n in (1, 2, 5) if low <= n * 10.0**power <= high]
    return found if len(found) > 2 else ticks(low, high, 6)


def picture(curves, level, linear):
    """The SVG. What is far above the last errors is cut off: a random start would leave no room for all else."""
    ends = [curve.points[-1][1] for curve in curves] + ([level] if level else [])
    low, high = min(ends), min(1.5 * max(ends), max(curve.points[0][1] for curve in curves))
    low, high = low - ROOM * (high - low), high + ROOM * (high - low)
    times = [seconds for curve in curves for seconds, error in curve.points if error <= high]
    start, end = (0.0, max(times)) if linear else (max(min(times), 1e-3) / 1.2, max(times) * 1.1)

    def x(seconds):
        share = (seconds - start) / (end - start) if linear else math.log(max(seconds, start) / start) / math.log(end / start)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(error):
        return TOP + (high - error) / (high - low) * (HEIGHT - TOP - BOTTOM)

    body = []

    def text(at_x, at_y, words, look="", anchor="start", more=""):
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        body.append(f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" class="{look}"{more}>{words}</text>')

    def line(points, look):
        body.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" class="{look}"/>')

    rows, columns, rank, blocks, device = curves[0].matrix
    title = f"{rows:,} x {columns:,}, rank {rank:,}, {blocks} blocks, on {device}"
    text(16, 26, title, "title")
    for value in ticks(low, high, 6):
        line([(LEFT, y(value)), (WIDTH - RIGHT, y(value))], "grid")
        text(LEFT - 7, y(value) + 4, f"{value:.3g}", "small", "end")
    for value in ticks(start, end, 8) if linear else log_ticks(start, end):
        line([(x(value), TOP), (x(value), HEIGHT - BOTTOM)], "grid")
        text(x(value), HEIGHT - BOTTOM + 17, f"{value:g}", "small", "middle")
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "time (s)" if linear else "time (s, logarithmic)", anchor="middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    text(18, middle, "relative error of the matrix", anchor="middle", more=f' transform="rotate(-90 18 {middle:.1f})"')
    at = 16
    for curve, look in zip(curves, LOOKS):
        line([(at, 44), (at + 20, 44)], f"line {look}")
        text(at + 26, 48, curve.label)
        at += 48 + 6.4 * len(curve.label)
    if level:
        line([(LEFT, y(level)), (WIDTH - RIGHT, y(level))], "level")
        line([(at, 44), (at + 20, 44)], "level")
        text(at + 26, 48, f"low-rank with as many parameters, {level:g}")
    for curve, look in zip(curves, LOOKS):
        points = [(x(seconds), error) for seconds, error in curve.points]
        line(clipped([(a, y(error)) for a, error in points], TOP), f"line {look}")
        a, error = points[-1]
        body.append(f'<circle cx="{a:.1f}" cy="{y(error):.1f}" r="2.5" class="line {look}"/>')  # where it ends
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">\n'
        f"<title>Error of BLAST factorisations over time: {title}</title>\n<style>\n{STYLE}</style>\n"
        '<rect width="100%" height="100%" class="page"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def clipped(points, top):
    """A line that falls, without what is above `top`."""
    found = []
    for n, (a, b) in enumerate(points):
        if b >= top:
            if not found and n:
                before_a, before_b = points[n - 1]
                found.append((before_a + (top - before_b) / (b - before_b) * (a - before_a), top))
            found.append((a, b))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="of blr bench compress --json")
    parser.add_argument("--low-rank", type=float, metavar="ERROR", help="error of the best matrix of low rank with as many parameters")
    parser.add_argument("--svg", metavar="FILE", help="where the picture goes")
    parser.add_argument("--seconds", default="0.5,1,2,5,10,20,30", help="rows of the table")
    parser.add_argument("--linear", action="store_true", help="seconds on a linear axis")
    parser.add_argument("--labels", help="of the lines, separated by commas, instead of the names of the solvers")
    found = parser.parse_args()
    labels = found.labels.split(",") if found.labels else [None] * len(found.files)
    if len(labels) != len(found.files):
        parser.error(f"--labels: {len(labels)} of them for {len(found.files)} files")
    if len(found.files) > len(LOOKS):
        parser.error(f"there are colours for {len(LOOKS)} files")
    try:
        times = [float(part) for part in found.seconds.split(",")]
    except ValueError:
        parser.error(f"--seconds: {found.seconds!r} is not a list of numbers")
    curves = [Curve(path, label) for path, label in zip(found.files, labels)]
    for curve, path in zip(curves, found.files):
        if curve.matrix != curves[0].matrix:
            parser.error(f"{path} is of another matrix or device than {found.files[0]}: {curve.matrix} and {curves[0].matrix}")
    print(table(curves, times), end="")
    if found.svg:
        pathlib.Path(found.svg).write_text(picture(curves, found.low_rank, found.linear))


if __name__ == "__main__":
    main()
