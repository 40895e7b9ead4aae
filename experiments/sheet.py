"""Digits that models drew side by side, as one SVG with labels for a person to judge."""
import base64
import pathlib
import tempfile

import digits
import png
from tasks import METHODS, stem

SHOWN = 4  # of each class
SIZE = 3  # pixels of the picture for one of a digit
PITCH = (digits.SIDE + 1) * SIZE
WIDTH, HEIGHT = digits.CLASSES * PITCH, SHOWN * PITCH
LEFT, TOP, SPACE = 130, 66, 14
LEVELS = 16  # of gray, as the digits of the data have: a picture of a few ten kilobytes
COLUMNS = [(keep, way) for keep in ("0.5", "0.3") for way in ("", "-tuned")]
WAYS = {"": "compressed", "-tuned": "fine-tuned"}
STYLE = """text { font: 12px system-ui, 'DejaVu Sans', sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.page { fill: #ffffff; }
image { image-rendering: pixelated; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.page { fill: #0d1117; }
}
"""


def tiles(found):
    """The first digits of each class, a column for each class, as a PNG in base64."""
    rows = [[128] * WIDTH for _ in range(HEIGHT)]
    for column in range(digits.CLASSES):
        for row, tile in enumerate(found[str(column)][:SHOWN]):
            for n, value in enumerate(tile):
                y, x = row * PITCH + n // digits.SIDE * SIZE, column * PITCH + n % digits.SIDE * SIZE
                for line in rows[y : y + SIZE]:
                    line[x : x + SIZE] = [round(LEVELS * value) * 255 // LEVELS] * SIZE
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tiles.png"
        png.write(path, rows)
        return base64.b64encode(path.read_bytes()).decode()


def sheet(task):
    """The picture, nothing before the dense model has drawn."""

    def drawn(name):
        path = task.out / "drawn" / f"{name}.png"
        return digits.drawn(path, task.drawn_each) if path.exists() else None

    dense = drawn("dit-dense")
    if dense is None:
        return None
    body, y = [], TOP

    def text(x, y, words, look="", anchor="start"):
        body.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{look}">{words}</text>')

    def picture(column, y, found):
        x = LEFT + column * (WIDTH + SPACE)
        body.append(f'<image x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" href="data:image/png;base64,{tiles(found)}"/>')

    def middle(column):
        return LEFT + column * (WIDTH + SPACE) + WIDTH / 2

    text(16, 26, "Digits of 8 x 8 pixels, by class from 0 to 9", "title")
    for column, (words, found) in enumerate([("of the test", task.real), ("drawn by the dense model", dense)]):
        text(middle(column), y - 8, words, anchor="middle")
        picture(column, y, found)
    y += HEIGHT + 40
    for column, (keep, way) in enumerate(COLUMNS):
        text(middle(column), y - 8, f"keep {keep}, {WAYS[way]}", anchor="middle")
    for method in METHODS:
        text(16, y + HEIGHT / 2 + 4, method)
        for column, (keep, way) in enumerate(COLUMNS):
            found = drawn(stem("dit", keep, method) + way)
            if found:
                picture(column, y, found)
        y += HEIGHT + SPACE
    width = LEFT + len(COLUMNS) * (WIDTH + SPACE) + 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img">\n'
        f"<title>Digits that compressed diffusion transformers drew</title>\n<style>\n{STYLE}</style>\n"
        '<rect width="100%" height="100%" class="page"/>\n' + "\n".join(body) + "\n</svg>\n"
    )
