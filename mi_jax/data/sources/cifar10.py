"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in 10 classes; training batches 1 to 5, then the test batch.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), the "python version",
`cifar-10-python.tar.gz`, with its published MD5. The MD5s of the batches are those of the files in that archive. No
licence is stated.
"""

from pathlib import Path

from mi_jax.data.sources import Files, Original, Rows, cifar, raw

ARCHIVE, CLASSES = "cifar-10-python.tar.gz", 10
BATCHES = (
    "cifar-10-batches-py/data_batch_1",
    "cifar-10-batches-py/data_batch_2",
    "cifar-10-batches-py/data_batch_3",
    "cifar-10-batches-py/data_batch_4",
    "cifar-10-batches-py/data_batch_5",
    "cifar-10-batches-py/test_batch",
)
MD5 = {
    ARCHIVE: "c58f30108f718f92721af3b95e74349a",
    BATCHES[0]: "c99cafc152244af753f735de768cd75f",
    BATCHES[1]: "d4bba439e000b95fd0a9bffe97cbabec",
    BATCHES[2]: "54ebc095f3ab1f0389bbae665268c751",
    BATCHES[3]: "634d18415352ddfa80567beed471001a",
    BATCHES[4]: "482c414d41f54cd18b22e5b47cb7c3cb",
    BATCHES[5]: "40351d587109b95175f43aff81a1287e",
}


def read_rows(folder: Path, files: Files) -> Rows:
    """Returns the rows (label, image) of the archive or of the batches; ValueError names an invalid file."""
    for file in files:
        raw.check_md5(folder / file, MD5[file])
    return cifar.read_batches(folder, files, BATCHES, b"labels", CLASSES)


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
