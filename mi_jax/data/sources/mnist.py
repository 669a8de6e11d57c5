"""MNIST: 70,000 greyscale images of handwritten digits, 28 x 28 pixels; the 60,000 training rows, then the test rows.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; four files in the IDX format, as
published (.gz) or decompressed. The MD5s are the commonly used ones.
"""

import math
import struct
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Files, Original, Rows, raw

PLAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
COMPRESSED = tuple(f"{name}.gz" for name in PLAIN)
CLASSES, SIDE = 10, 28
MD5 = {
    COMPRESSED[0]: "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    COMPRESSED[1]: "d53e105ee54ea40749a09fcbcd1e9432",
    COMPRESSED[2]: "9fb629c4189551a2d022fa330f9573f3",
    COMPRESSED[3]: "ec29112dd5afa0611ce80d1b7f02629c",
    PLAIN[0]: "6bbc9ace898e44ae57da46a324031adb",
    PLAIN[1]: "a25bea736e30d166cdddb491f175f624",
    PLAIN[2]: "2646ac647ad5339dbf082846283269ea",
    PLAIN[3]: "27ae3e4e09519cfbb04c329615203637",
}


def parse_idx(content: bytes, ndim: int) -> np.ndarray:
    """Returns the uint8 array with `ndim` axes of an IDX file; ValueError for any other content.

    Format: two zero bytes, the type (8: uint8), the number of axes, their sizes as big-endian uint32, the values.
    """
    start = 4 + 4 * ndim
    if content[:4] != bytes([0, 0, 8, ndim]) or len(content) < start:
        raise ValueError(f"begins with {content[:4].hex() or 'nothing'}, expected 000008{ndim:02x}, an IDX of uint8")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{len(content) - start} values, expected {math.prod(shape)} for the shape {list(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_rows(folder: Path, files: Files) -> Rows:
    """Yields the rows (label, image [28 28 1]) of the original, training rows first.

    Raises ValueError naming a file with another MD5, or one that is not an IDX file of this shape.
    """
    for file in files:
        raw.check_md5(folder / file, MD5[file])
    for images_file, labels_file in (files[:2], files[2:]):
        images, labels = _read_idx(folder / images_file, 3), _read_idx(folder / labels_file, 1)
        if images.shape != (len(labels), SIDE, SIDE):
            expected = [len(labels), SIDE, SIDE]
            raise ValueError(f"{folder / images_file}: images {list(images.shape)}, expected {expected}")
        if labels.max(initial=0) >= CLASSES:
            row = labels.argmax()
            raise ValueError(f"{folder / labels_file}: row {row}: label {labels[row]}, expected 0..{CLASSES - 1}")
        yield from zip(labels.tolist(), images[..., None], strict=True)


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    content = raw.read_file(path)
    try:
        return parse_idx(content, ndim)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


ORIGINAL = Original(
    alternatives=(COMPRESSED, PLAIN),
    read_rows=read_rows,
    shape=(SIDE, SIDE, 1),
    num_classes=CLASSES,
    rows=70_000,
    description=__doc__,
    upstream="LeCun, Cortes and Burges, yann.lecun.com/exdb/mnist",
    homepage="http://yann.lecun.com/exdb/mnist",
    terms="CC BY-SA 3.0 as commonly stated; LeCun, Cortes, Burges",
    urls={file: f"https://storage.googleapis.com/cvdf-datasets/mnist/{file}" for file in COMPRESSED},  # as in TFDS
)
