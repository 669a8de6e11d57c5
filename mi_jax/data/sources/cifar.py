"""How CIFAR-10 and CIFAR-100 are stored: pickles of Python 2, read here without running anything in them.

A batch is a pickled dictionary: under `data` a NumPy array [n 3072] uint8 (a plane of 32 x 32 for each of red,
green and blue), under `labels`, or `fine_labels` and `coarse_labels`, a list of n integers.
"""

import io
import pickle
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Files, Rows, raw

SHAPE = (32, 32, 3)  # H W C


class _Parts(list):
    """A list of what a pickle says an array or a dtype is made of."""

    def __setstate__(self, state):
        self.extend(state)


class _Unpickler(pickle.Unpickler):
    """Reads plain values and `_Parts`; nothing that a pickle names is imported or called."""

    def find_class(self, module: str, name: str):
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *start: _Parts()
        if module == "numpy" and name in ("ndarray", "dtype"):
            return lambda *start: _Parts(start[:1])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_rows(folder: Path, files: Files, batches: Files, key: bytes, classes: int) -> Rows:
    """Returns the rows (label, image) of `batches`, in this order; `files` is the archive of them, or are they.

    Raises ValueError naming the file at fault.
    """
    packed = raw.contents(folder / files[0], batches) if files != batches else None
    for batch in batches:
        place = f"{folder / files[0]}: {batch}" if packed else f"{folder / batch}"
        content = packed[batch] if packed else raw.content(folder / batch)
        try:
            images, labels = parse_batch(content, key, classes)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        yield from zip(labels.tolist(), images, strict=True)


def parse_batch(content: bytes, key: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images [n 32 32 3] uint8 and the labels [n] of one batch.

    Args:
      content: the bytes of the file.
      key: where its labels are, b"labels" for instance.
      classes: labels must lie in 0..classes-1.

    Raises ValueError for anything but a batch; a pickle that asks for a function or a class is refused unrun.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle makes the module raise whatever it comes across
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"damaged, or not a batch of CIFAR ({reason[:100]})") from error
    if not isinstance(batch, dict) or b"data" not in batch or key not in batch:
        raise ValueError(f"not this batch of CIFAR; expected a dictionary with data and {key.decode()}")
    pixels = _as_pixels(batch[b"data"])
    labels = batch[key]
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise ValueError(f"expected a list of {len(pixels)} {key.decode()}, one for each image")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            raise ValueError(f"image {row}: label {str(label)[:20]}, expected 0..{classes - 1}")
    planes = pixels.reshape(-1, SHAPE[2], *SHAPE[:2])  # [n 3072] -> [n C H W]
    return planes.transpose(0, 2, 3, 1), np.array(labels, np.int32)


def _as_pixels(parts: object) -> np.ndarray:
    if not isinstance(parts, _Parts) or len(parts) != 5:
        raise ValueError("data is no array; expected uint8 [n, 3072]")
    _, shape, dtype, by_columns, content = parts
    plain = isinstance(dtype, _Parts) and dtype[:1] in (["u1"], [b"u1"]) and not by_columns
    right = plain and isinstance(content, bytes) and isinstance(shape, tuple) and len(shape) == 2
    if not right or shape[1] != 3072 or shape[0] == 0 or len(content) != shape[0] * shape[1]:
        raise ValueError("data is another array; expected uint8 [n, 3072], n at least 1")
    return np.frombuffer(content, np.uint8).reshape(shape)
