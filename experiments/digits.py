"""The digits as files for training and for the test, and how far drawn digits are from real ones."""
import pathlib

import png

HERE = pathlib.Path(__file__).resolve().parent
SPLITS = 5  # every fifth digit is for the test
SIDE = 8
GAP = 2  # black pixels between the tiles of `blr sample`
CLASSES = 10


def written(out):
    """Writes the digits as files, a folder for each label, and returns the folders for training and for the test."""
    root = out / "digits"
    if not (root / "done").exists():
        picture, labels = png.read(HERE / "digits.png"), (HERE / "digits.txt").read_text().strip()
        across = len(picture[0]) // SIDE
        for n, label in enumerate(labels):
            folder = root / ("test" if n % SPLITS == 0 else "train") / label
            folder.mkdir(parents=True, exist_ok=True)
            top, left = SIDE * (n // across), SIDE * (n % across)
            png.write(folder / f"{n:04}.png", [row[left : left + SIDE] for row in picture[top : top + SIDE]])
        (root / "done").write_text("")
    return root / "train", root / "test"


def real(folder):
    """The digits of a folder by label, each a list of values from 0 to 1."""
    return {
        label.name: [[value / 255 for row in png.read(file) for value in row] for file in sorted(label.glob("*.png"))]
        for label in sorted(folder.iterdir())
    }


def drawn(picture, count):
    """The same of a grid of `blr sample` with `count` digits of each class."""
    rows, pitch = png.read(picture), SIDE + GAP
    across, found = (len(rows[0]) - GAP) // pitch, {}
    for n in range(CLASSES * count):
        top, left = GAP + pitch * (n // across), GAP + pitch * (n % across)
        tile = [value / 255 for row in rows[top : top + SIDE] for value in row[left : left + SIDE]]
        found.setdefault(str(n // count), []).append(tile)
    return found


def distance(some, others):
    """Mean over classes of the mean distance to the nearest, both ways; root mean square over pixels."""

    def nearest(these, those):
        each = (min(sum((x - y) ** 2 for x, y in zip(one, other)) for other in those) for one in these)
        return sum((square / SIDE**2) ** 0.5 for square in each) / len(these)

    pairs = [(some[label], others[label]) for label in sorted(others)]
    return sum(nearest(a, b) + nearest(b, a) for a, b in pairs) / 2 / len(pairs)
