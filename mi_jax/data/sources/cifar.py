"""The reader shared by CIFAR-10 and CIFAR-100, whose batches are Python 2 pickles. It runs no code from a pickle.

A batch is a pickled dictionary. `data` is a NumPy array [n 3072] uint8: a plane of 32 x 32 pixels for each of red,
green and blue. `labels`, or `fine_labels` and `coarse_labels`, are lists of n integers.
"""

import io
import pickle
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Files, Rows, raw

SHAPE = (32, 32, 3)  # H W C


class _Fields(list):
    """The arguments and state from which a pickle would make an array or a dtype."""

    def __setstate__(self, state):
        self.extend(state)


class _Unpickler(pickle.Unpickler):
    """Reads plain values and `_Fields`; imports and calls nothing that a pickle names."""

    def find_class(self, module: str, name: str):
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *args: _Fields()
        if module == "numpy" and name in ("ndarray", "dtype"):
            return lambda *args: _Fields(args[:1])
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def read_batches(folder: Path, files: Files, batches: Files, key: bytes, classes: int) -> Rows:
    """Yields the rows (label, image) of `batches`, in this order; `files` is their archive, or equals `batches`.

    Raises ValueError naming the invalid file.
    """
    members = raw.read_members(folder / files[0], batches) if files != batches else None
    for batch in batches:
        path = f"{folder / files[0]}: {batch}" if members else f"{folder / batch}"
        content = members[batch] if members else raw.read_file(folder / batch)
        try:
            images, labels = parse_batch(content, key, classes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        yield from zip(labels.tolist(), images, strict=True)


def parse_batch(content: bytes, key: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images [n 32 32 3] uint8 and the labels [n] of one batch.

    Args:
      content: the bytes of the file.
      key: of its labels, for example b"labels".
      classes: labels must lie in 0..classes-1.

    Raises ValueError for any other content. A pickle that refers to a function or class is refused, and not run.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # unpickling raises many types of exception for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"damaged, or not a batch of CIFAR ({reason[:100]})") from error
    if not isinstance(batch, dict) or b"data" not in batch or key not in batch:
        raise ValueError(f"not this batch of CIFAR; expected a dictionary with data and {key.decode()}")
    pixels = _pixels(batch[b"data"])
    labels = batch[key]
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise ValueError(f"expected a list of {len(pixels)} {key.decode()}, one for each image")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            raise ValueError(f"image {row}: label {str(label)[:20]}, expected 0..{classes - 1}")
    planes = pixels.reshape(-1, SHAPE[2], *SHAPE[:2])  # [n 3072] -> [n C H W]
    return planes.transpose(0, 2, 3, 1), np.array(labels, np.int32)


def _pixels(fields: object) -> np.ndarray:
    if not isinstance(fields, _Fields) or len(fields) != 5:
        raise ValueError("data is not an array; expected uint8 [n, 3072]")
    _, shape, dtype, fortran_order, content = fields
    is_uint8 = isinstance(dtype, _Fields) and dtype[:1] in (["u1"], [b"u1"]) and not fortran_order
    is_matrix = isinstance(content, bytes) and isinstance(shape, tuple) and len(shape) == 2
    if not (is_uint8 and is_matrix) or shape[1] != 3072 or shape[0] == 0 or len(content) != shape[0] * shape[1]:
        raise ValueError("data is a different array; expected uint8 [n, 3072], n at least 1")
    return np.frombuffer(content, np.uint8).reshape(shape)
