"""Makes digits.png and digits.txt, the data of the experiments, from scikit-learn.

The images are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
Repository, CC BY 4.0), as scikit-learn holds them: 1797 of 8 x 8 pixels with values from 0 to 16, which become 0 to 255 here. They lie
row by row on one picture, 39 of them in a row; the labels are one line of digits in the same order.
"""
import pathlib

import sklearn.datasets

import png

ACROSS = 39

digits = sklearn.datasets.load_digits()
count = len(digits.images)
rows = -(-count // ACROSS)
picture = [[0] * (8 * ACROSS) for _ in range(8 * rows)]
for n, image in enumerate(digits.images):
    top, left = 8 * (n // ACROSS), 8 * (n % ACROSS)
    for y in range(8):
        for x in range(8):
            picture[top + y][left + x] = round(float(image[y][x]) * 255 / 16)
here = pathlib.Path(__file__).parent
png.write(here / "digits.png", picture)
(here / "digits.txt").write_text("".join(str(label) for label in digits.target) + "\n")
