"""Arrays as a checked `Dataset`: what every data set goes through before anything is trained on it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mi_jax.testing import as_whole
from mi_jax.types import Dataset

MAX_CLASSES = 100_000  # an output layer of more is no classifier that an attack queries thousands of times
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
RELABEL = " (np.unique(y, return_inverse=True)[1] numbers any labels so)"


def from_arrays(
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_classes: int | None = None,
    binary: ArrayLike | None = None,
    source: str = "",
) -> Dataset:
    """Returns arrays as a checked `Dataset`.

    Args:
      name: the name used in errors and records.
      x: images [N H W C] or [N H W], or a table [N features], as an array or nested lists. uint8 images are divided by
        255. All other values must already lie in [0, 1]; bool is read as 0 and 1.
      y: integer labels [N].
      num_classes: None means the highest label + 1; every class must then have a row.
      binary: bool [features], True for the 0/1 columns of a table. None means the columns that hold only 0 and 1.
      source: one line that says where the rows come from.

    Raises ValueError as `check_dataset` does. Also refuses uint8 images without a value above 1: they are probably
    0/1 images, which the division by 255 would turn black.
    """
    x, y = _as_array(name, "x", x), _as_array(name, "y", y)
    x = x[..., None] if x.ndim == 3 else x  # [N H W] -> [N H W 1]
    _check_shape(name, x)
    _check_labels(name, y, len(x))
    num_classes = _count_classes(name, y) if num_classes is None else num_classes
    _check_num_classes(name, y, num_classes)
    if x.ndim == 4 and x.dtype == np.uint8:
        if x.max() <= 1:
            raise ValueError(f"{name}: x is uint8 up to {x.max()}; expected 0..255 in images, or 0/1 as bool")
        x = _as_float32(x)
        x /= 255
    x = _as_float32(x)
    if binary is not None:
        binary = _as_array(name, "binary", binary)
    elif x.ndim == 2:
        binary = _binary_columns(x)
    return check_dataset(Dataset(name, x, y, num_classes, binary, source))


def check_dataset(dataset: Dataset) -> Dataset:
    """Returns the data set with x as float32, y as int32 and `binary` as bool, after checking all that it promises.

    Raises ValueError unless
    * it is a `Dataset`;
    * x is numeric, a table [N features] or images [N H W C], finite and in [0, 1], with at least one row;
    * y is integer, [N], in 0..num_classes-1, and num_classes is an integer in 2..MAX_CLASSES;
    * `binary` is None for images, and bool [features] for a table, True only for columns of 0 and 1.

    Images with 1, 3 or 4 values on the second axis, and neither on the last nor as much on any other, are refused as
    [N C H W].
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"dataset is of type {type(dataset).__qualname__}; expected a types.Dataset, as load makes it")
    name = dataset.name
    x, y = _as_array(name, "x", dataset.x), _as_array(name, "y", dataset.y)
    _check_shape(name, x)
    _check_labels(name, y, len(x))
    num_classes = _check_num_classes(name, y, dataset.num_classes)
    x = _as_float32(x)
    _check_values(name, x)
    binary, categorical = _check_binary(name, x, dataset.binary), dataset.categorical
    if categorical is not None and (
        binary is None or np.shape(categorical) != binary.shape or (np.asarray(categorical, bool) & binary).any()
    ):
        expected = "expected None, or bool [features] for a table, True for no column that is binary"
        raise ValueError(f"{name}: categorical is {categorical!r:.60}; {expected}")
    categorical = None if categorical is None else np.asarray(categorical, bool)
    y = np.ascontiguousarray(y, np.int32)
    return dataset._replace(x=x, y=y, num_classes=num_classes, binary=binary, categorical=categorical)


def describe(dataset: Dataset) -> dict:
    """Returns what is to be known of a checked data set, as JSON takes it.

    Keys: `rows`; `shape` of one example; `classes`; `rows_per_class`, the fewest and the most; `classes_without_rows`;
    `values`, the lowest and the highest; `mean`; `binary_columns` and `constant_columns`, their numbers (of pixels, in
    images; binary null there); `duplicate_rows`, those whose x an earlier row has; `relabelled_rows`, those of them
    whose label is not that of the first such row; `source`.
    """
    x, y = dataset.x, dataset.y
    per_class, labels = np.bincount(y, minlength=dataset.num_classes), y.tolist()
    first: dict[int, int] = {}  # hash of a row -> the label of the first such row
    differs = [first.setdefault(hash(row.tobytes()), label) != label for row, label in zip(x, labels, strict=True)]
    low, high = x.min(axis=0), x.max(axis=0)
    return {
        "rows": len(x),
        "shape": list(x.shape[1:]),
        "classes": dataset.num_classes,
        "rows_per_class": [int(per_class.min()), int(per_class.max())],
        "classes_without_rows": np.flatnonzero(per_class == 0).tolist(),
        "values": [float(low.min()), float(high.max())],
        "mean": float(x.mean(dtype=np.float64)),
        "binary_columns": None if dataset.binary is None else int(dataset.binary.sum()),
        "constant_columns": int((low == high).sum()),
        "duplicate_rows": len(x) - len(first),
        "relabelled_rows": sum(differs),
        "source": dataset.source,
    }


def _as_array(name: str, which: str, values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:  # lists of unequal lengths, integers beyond 64 bits
        raise ValueError(f"{name}: {which} cannot be read as an array ({error}); expected numbers") from None
    if np.ma.is_masked(values):  # NumPy would forget the mask
        raise ValueError(f"{name}: {which} has masked values; expected an array without a mask")
    return array


def _as_float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # float64 values beyond float32 become infinite, which _check_values reports
        return np.ascontiguousarray(x, np.float32)


def _check_shape(name: str, x: np.ndarray) -> None:
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name}: x has dtype {x.dtype}; expected real numbers")
    if x.ndim not in (2, 4):
        raise ValueError(f"{name}: x has shape {list(x.shape)}; expected a table [N features] or images [N H W C]")
    if x.size == 0:
        raise ValueError(f"{name}: x has shape {list(x.shape)}; expected at least one row and one column or pixel")
    if x.ndim == 4 and x.shape[1] in CHANNELS and x.shape[3] not in CHANNELS and min(x.shape[2:]) > x.shape[1]:
        raise ValueError(f"{name}: x has shape {list(x.shape)}; expected [N H W C], as np.moveaxis(x, 1, -1) makes it")


def _check_labels(name: str, y: np.ndarray, num_rows: int) -> None:
    if y.shape != (num_rows,):
        hint = ""
        if y.shape[:1] == (num_rows,) and y.ndim == 2:
            hint = " (y.ravel())" if y.shape[1] == 1 else " (of one-hot rows: y.argmax(axis=1))"
        expected = f"expected [{num_rows}], a label for each row of x{hint}"
        raise ValueError(f"{name}: y has shape {list(y.shape)}; {expected}")
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name}: y has dtype {y.dtype}; expected integer labels 0..C-1{RELABEL}")
    if y.min() < 0:
        raise ValueError(f"{name}: label {y.min()} in row {y.argmin()}; expected labels from 0 on{RELABEL}")


def _count_classes(name: str, y: np.ndarray) -> int:
    """The highest label + 1. ValueError where a class below it has no row: those are probably not labels 0..C-1."""
    present = np.unique(y)
    classes, gaps = int(present[-1]) + 1, np.flatnonzero(present != np.arange(len(present), dtype=present.dtype))
    if gaps.size:
        others = classes - len(present) - 1
        more = f" and {others} others" if others else ""
        allowed = f", or num_classes={classes}" if classes <= MAX_CLASSES else ""
        labels = f"labels {present[0]}..{present[-1]}, no rows of class {gaps[0]}{more}"
        raise ValueError(f"{name}: {labels}; expected 0..C-1{RELABEL}{allowed}")
    return classes


def _check_num_classes(name: str, y: np.ndarray, num_classes: Any) -> int:
    count = as_whole(num_classes) or 0
    if not 2 <= count <= MAX_CLASSES:
        expected = f"expected an integer in 2..{MAX_CLASSES}"
        raise ValueError(f"{name}: num_classes is {num_classes!r}; {expected}")
    if y.max() >= count:
        raise ValueError(f"{name}: label {y.max()} in row {y.argmax()}; expected labels in 0..{count - 1}")
    return count


def _check_values(name: str, x: np.ndarray) -> None:
    if x.min() >= 0 and x.max() <= 1:  # a NaN fails both
        return
    index = tuple(map(int, np.argwhere(~((x >= 0) & (x <= 1)))[0]))
    raise ValueError(f"{name}: x{list(index)} is {x[index]:g}; expected finite values in [0, 1] (or uint8 images)")


def _check_binary(name: str, x: np.ndarray, binary: ArrayLike | None) -> np.ndarray | None:
    if x.ndim == 4 and binary is None:
        return None
    if binary is None:
        raise ValueError(f"{name}: binary is None; expected bool [{x.shape[1]}] for a table, as from_arrays makes it")
    binary = _as_array(name, "binary", binary)
    if x.ndim == 4 or binary.shape != x.shape[1:] or binary.dtype != bool:
        expected = "None for images" if x.ndim == 4 else f"bool [{x.shape[1]}] for a table"
        raise ValueError(f"{name}: binary is {binary.dtype} {list(binary.shape)}; expected {expected}")
    wrong = np.flatnonzero(binary & ~_binary_columns(x))
    if wrong.size:
        raise ValueError(f"{name}: column {wrong[0]} is declared binary; expected only 0 and 1 in it")
    return binary


def _binary_columns(x: np.ndarray) -> np.ndarray:
    binary = np.ones(x.shape[1:], bool)  # [N features] -> [features]
    for start in range(0, len(x), 4096):  # in chunks, because Texas-100 takes more than a gigabyte
        chunk = x[start : start + 4096]
        binary &= ((chunk == 0) | (chunk == 1)).all(axis=0)
    return binary
