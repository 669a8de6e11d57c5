"""Arrays as a checked `Dataset`: what every data set goes through before anything is trained on it."""

import numpy as np

from mi_jax.types import Dataset


def from_arrays(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    num_classes: int | None = None,
    binary: np.ndarray | None = None,
    source: str = "",
) -> Dataset:
    """Returns arrays as a checked `Dataset`.

    Args:
      name: the name used in errors and records.
      x: images [N H W C] or [N H W], or a table [N features]. uint8 images are divided by 255. All other values
        must already lie in [0, 1]; bool is read as 0 and 1.
      y: integer labels [N].
      num_classes: None means the highest label + 1.
      binary: bool [features], True for the 0/1 columns of a table. None means the columns that hold only 0 and 1.
      source: one line that says where the rows come from.

    Raises ValueError as `check_dataset` does. Also refuses uint8 images without a value above 1: they are probably
    0/1 images, which the division by 255 would turn black.
    """
    x, y = np.asarray(x), np.asarray(y)
    x = x[..., None] if x.ndim == 3 else x  # [N H W] -> [N H W 1]
    _check_shape(name, x)
    _check_labels(name, y, len(x))
    if x.ndim == 4 and x.dtype == np.uint8:
        if x.max() <= 1:
            raise ValueError(f"{name}: x is uint8 up to {x.max()}; expected 0..255 in images, or 0/1 as bool")
        x = _as_float32(x)
        x /= 255
    x = _as_float32(x)
    if binary is None and x.ndim == 2:
        binary = _binary_columns(x)
    num_classes = int(y.max()) + 1 if num_classes is None else int(num_classes)
    return check_dataset(Dataset(name, x, y, num_classes, binary, source))


def check_dataset(dataset: Dataset) -> Dataset:
    """Returns the data set with x as float32 and y as int32, after checking everything that `Dataset` promises.

    Raises ValueError unless
    * x is numeric, a table [N features] or images [N H W C], finite and in [0, 1], with at least one row;
    * y is integer, [N], in 0..num_classes-1, and num_classes >= 2;
    * `binary` is None for images, and bool [features] for a table, True only for columns of 0 and 1.
    """
    name, num_classes = dataset.name, dataset.num_classes
    x, y = np.asarray(dataset.x), np.asarray(dataset.y)
    _check_shape(name, x)
    _check_labels(name, y, len(x))
    if not isinstance(num_classes, int | np.integer) or isinstance(num_classes, bool) or num_classes < 2:
        raise ValueError(f"{name}: num_classes is {num_classes!r}; expected an integer of at least 2")
    if y.max() >= num_classes:
        raise ValueError(f"{name}: label {y.max()} in row {y.argmax()}; expected labels in 0..{num_classes - 1}")
    x = _as_float32(x)
    _check_values(name, x)
    _check_binary(name, x, dataset.binary)
    return dataset._replace(x=x, y=np.ascontiguousarray(y, np.int32), num_classes=int(num_classes))


def _as_float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # float64 values beyond float32 become infinite, which _check_values reports
        return np.ascontiguousarray(x, np.float32)


def _check_shape(name: str, x: np.ndarray) -> None:
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name}: x has dtype {x.dtype}; expected numbers")
    if x.ndim not in (2, 4):
        raise ValueError(f"{name}: x has shape {list(x.shape)}; expected a table [N features] or images [N H W C]")
    if x.size == 0:
        raise ValueError(f"{name}: x has shape {list(x.shape)}; expected at least one row and one column or pixel")


def _check_labels(name: str, y: np.ndarray, num_rows: int) -> None:
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name}: y has dtype {y.dtype}; expected integer labels 0..C-1")
    if y.shape != (num_rows,):
        raise ValueError(f"{name}: y has shape {list(y.shape)}; expected [{num_rows}], a label for each row of x")
    if y.min() < 0:
        raise ValueError(f"{name}: label {y.min()} in row {y.argmin()}; expected labels from 0 on")


def _check_values(name: str, x: np.ndarray) -> None:
    if x.min() >= 0 and x.max() <= 1:  # a NaN fails both
        return
    index = tuple(map(int, np.argwhere(~((x >= 0) & (x <= 1)))[0]))
    raise ValueError(f"{name}: x{list(index)} is {x[index]:g}; expected finite values in [0, 1] (or uint8 images)")


def _check_binary(name: str, x: np.ndarray, binary: np.ndarray | None) -> None:
    if x.ndim == 4 and binary is None:
        return
    binary = np.asarray(binary)
    if x.ndim == 4 or binary.shape != x.shape[1:] or binary.dtype != bool:
        expected = "None for images" if x.ndim == 4 else f"bool [{x.shape[1]}] for a table"
        raise ValueError(f"{name}: binary is {binary.dtype} {list(binary.shape)}; expected {expected}")
    wrong = np.flatnonzero(binary & ~_binary_columns(x))
    if wrong.size:
        raise ValueError(f"{name}: column {wrong[0]} is declared binary; expected only 0 and 1 in it")


def _binary_columns(x: np.ndarray) -> np.ndarray:
    binary = np.ones(x.shape[1:], bool)  # [N features] -> [features]
    for start in range(0, len(x), 4096):  # in chunks, because Texas-100 takes more than a gigabyte
        chunk = x[start : start + 4096]
        binary &= ((chunk == 0) | (chunk == 1)).all(axis=0)
    return binary
