"""CIFAR-100: 60,000 colour photographs of 32 x 32 pixels in 100 classes; the training rows, then the test rows.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), the "python version",
`cifar-100-python.tar.gz`, with its published MD5. The labels are the fine ones. No licence is stated.

The MD5s of the extracted files `train` and `test` are not checked, because copies with another order of rows exist.
The order of rows is not random; a split must permute them.
"""

from pathlib import Path

from mi_jax.data.sources import Files, Original, Rows, cifar, raw

ARCHIVE, CLASSES = "cifar-100-python.tar.gz", 100
BATCHES = ("cifar-100-python/train", "cifar-100-python/test")
MD5 = {ARCHIVE: "eb9058c3a382ffc7106e4002c42a8d85"}


def read_rows(folder: Path, files: Files) -> Rows:
    """Returns the rows (label, image) of the archive or of the batches; ValueError names an invalid file."""
    for file in set(files) & set(MD5):
        raw.check_md5(folder / file, MD5[file])
    return cifar.read_batches(folder, files, BATCHES, b"fine_labels", CLASSES)


ORIGINAL = Original(
    alternatives=((ARCHIVE,), BATCHES),
    read_rows=read_rows,
    shape=cifar.SHAPE,
    num_classes=CLASSES,
    rows=60_000,
    description=__doc__,
    upstream="A. Krizhevsky, University of Toronto, www.cs.toronto.edu/~kriz/cifar.html",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    terms="no licence stated; cite Krizhevsky 2009",
    urls={ARCHIVE: f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"},
)
