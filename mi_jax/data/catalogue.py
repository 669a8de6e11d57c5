"""The data sets: `load(name)` returns a checked `Dataset`; `python -m mi_jax.data NAME` prints its card.

`digits` comes with scikit-learn, `npz:FILE` holds arrays of the user's own, the others are made from originals
that the user has. An original is read once, by its TFDS builder in `datasets/`, and kept as plain arrays in the
cache folder ($MI_JAX_CACHE, else ~/.cache/mi_jax) under its checksum; folders of originals are never written to.
`synthetic:purchase` and `synthetic:texas` are drawn, not collected, and say so.

A new data set is one file in `datasets/` and one line in `datasets/originals.py`.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Original, listed, raw, synthetic
from mi_jax.data.sources.cache import cache_folder, read_npz, write
from mi_jax.data.sources.fetch import fetch
from mi_jax.data.sources.originals import ORIGINALS
from mi_jax.types import Dataset

Loader = Callable[[str | None], Dataset]  # data_dir -> Dataset


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Returns the data set called `name`, checked.

    Args:
      name: a name in `DATASETS`, `npz:FILE` with arrays `x` and `y` (see `from_npz`), or `synthetic:KIND` or
        `synthetic:KIND:ROWS` (see `datasets/synthetic.py`).
      data_dir: the folder that holds the original; None means $MI_JAX_DATA/NAME. Only data sets made from
        originals use it.

    Raises ValueError, in one line, for an unknown name and for data that are missing or not as they should be.
    """
    kind, colon, file = name.partition(":")
    if kind == "npz" and colon:
        return from_npz(file)
    if kind == "synthetic" and colon:
        return from_generator(file)
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(known_names())}")
    return check_dataset(DATASETS[name](data_dir or _default_dir(name)))


def _default_dir(name: str) -> str | None:
    root = os.environ.get("MI_JAX_DATA")
    return str(Path(root) / name) if root else None


def check_dataset(dataset: Dataset) -> Dataset:
    """Returns the data set with x as float32 and y as int32, once all that `Dataset` promises has been verified.

    Raises ValueError unless x is numeric, a table [N features] or images [N H W C], finite and in [0, 1], with
    at least one row; y is integer, [N], in 0..num_classes-1; num_classes >= 2; and `binary` names, for a table
    and only for a table, columns that hold nothing but 0 and 1.
    """
    name, classes = dataset.name, dataset.num_classes
    x, y = np.asarray(dataset.x), np.asarray(dataset.y)
    _check_shape(name, x)
    _check_labels(name, y, len(x))
    if not isinstance(classes, int | np.integer) or isinstance(classes, bool) or classes < 2:
        raise ValueError(f"{name}: num_classes is {classes!r}; expected an integer of at least 2")
    if y.max() >= classes:
        raise ValueError(f"{name}: label {y.max()} in row {y.argmax()}; expected labels in 0..{classes - 1}")
    x = _as_float32(x)
    _check_values(name, x)
    _check_binary(name, x, dataset.binary)
    return dataset._replace(x=x, y=np.ascontiguousarray(y, np.int32), num_classes=int(classes))


def _as_float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the check of values names
        return np.ascontiguousarray(x, np.float32)


def _check_shape(name: str, x: np.ndarray) -> None:
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name}: x has dtype {x.dtype}; expected numbers")
    if x.ndim not in (2, 4):
        raise ValueError(f"{name}: x has shape {list(x.shape)}; expected a table [N features] or images [N H W C]")
    if x.size == 0:
        raise ValueError(f"{name}: x has shape {list(x.shape)}; expected at least one row and one value in it")


def _check_labels(name: str, y: np.ndarray, rows: int) -> None:
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name}: y has dtype {y.dtype}; expected integer labels 0..C-1")
    if y.shape != (rows,):
        raise ValueError(f"{name}: y has shape {list(y.shape)}; expected [{rows}], a label for each row of x")
    if y.min() < 0:
        raise ValueError(f"{name}: label {y.min()} in row {y.argmin()}; expected labels from 0 on")


def _check_values(name: str, x: np.ndarray) -> None:
    if x.min() >= 0 and x.max() <= 1:  # a NaN fails both
        return
    place = tuple(map(int, np.argwhere(~((x >= 0) & (x <= 1)))[0]))
    raise ValueError(f"{name}: x{list(place)} is {x[place]:g}; expected finite values in [0, 1] (or uint8 images)")


def _check_binary(name: str, x: np.ndarray, binary: np.ndarray | None) -> None:
    if x.ndim == 4 and binary is None:
        return
    binary = np.asarray(binary)
    if x.ndim == 4 or binary.shape != x.shape[1:] or binary.dtype != bool:
        expected = "None for images" if x.ndim == 4 else f"bool [{x.shape[1]}] for a table"
        raise ValueError(f"{name}: binary is {binary.dtype} {list(binary.shape)}; expected {expected}")
    wrong = np.flatnonzero(binary & ~_binary_columns(x))
    if wrong.size:
        raise ValueError(f"{name}: column {wrong[0]} is called binary; expected nothing but 0 and 1 in it")


def _binary_columns(x: np.ndarray) -> np.ndarray:
    binary = np.ones(x.shape[1:], bool)  # [N features] -> [features]
    for start in range(0, len(x), 4096):  # in parts: Texas-100 is more than a gigabyte
        part = x[start : start + 4096]
        binary &= ((part == 0) | (part == 1)).all(axis=0)
    return binary


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
      name: what errors and records call it.
      x: images [N H W C] or [N H W], or a table [N features]. uint8 images are divided by 255, everything else
        must already lie in [0, 1]; bool is 0/1.
      y: integer labels [N].
      num_classes: None means the highest label + 1.
      binary: bool [features], which columns of a table are 0/1; None means those that hold nothing else.
      source: one line on where the rows come from.

    Raises ValueError as `check` does; also for uint8 images without a value above 1, which are 0/1 rather than
    black, and which the division would make so.
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
    return check_dataset(
        Dataset(name, x, y, int(y.max()) + 1 if num_classes is None else int(num_classes), binary, source)
    )


def from_npz(file: str) -> Dataset:
    """Returns the data set in an .npz file: arrays `x` and `y`, perhaps an integer `num_classes` and a bool `binary`.

    Shapes and dtypes as for `from_arrays`. Pickled objects are refused (they could run code).
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"npz:{file}: no such file; expected npz:FILE, an .npz with arrays x and y")
    return from_arrays(f"npz:{file}", **read_npz(path), source=f"{path.name}, sha256 {raw.sha256(path)}")


def from_generator(wanted: str) -> Dataset:
    """Returns the synthetic data set `KIND` or `KIND:ROWS`, the same at every call."""
    kind, rows = synthetic.parse(wanted)
    x, y = synthetic.draw(kind, rows)
    source = f"SYNTHETIC, not real data: {rows} rows drawn by mi_jax in the shape of {kind.shaped_like}"
    return from_arrays(f"synthetic:{wanted}", x, y, num_classes=kind.classes, source=source)


def digits(data_dir: str | None = None) -> Dataset:
    """Returns the 1,797 handwritten digits, 8x8, that come with scikit-learn; `data_dir` is not used."""
    from sklearn.datasets import load_digits  # takes half a second

    bunch = load_digits()
    source = "digits of scikit-learn (test part of the UCI optical recognition of handwritten digits)"
    return from_arrays("digits", bunch.images[..., None] / 16, bunch.target, num_classes=10, source=source)


def from_original(name: str, original: Original) -> Loader:
    """Returns the loader of a data set that is made from files of the user."""
    wanted = " or ".join(map(listed, original.alternatives))
    where = f"published by {original.upstream}; python -m mi_jax.data {name} --data_dir=DIR --download fetches it"
    expected = f"expected the original there: {wanted} ({where})"

    def loader(data_dir: str | None) -> Dataset:
        if data_dir is None:
            raise ValueError(f"{name}: no data_dir given and MI_JAX_DATA not set; {expected}")
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{name}: no folder {data_dir}; {expected}")
        present = [files for files in original.alternatives if all((folder / file).is_file() for file in files)]
        if not present:
            raise ValueError(f"{name}: folder {data_dir} lacks the data; {expected}")
        return prepare(name, original, folder, present)

    return loader


def prepare(name: str, original: Original, folder: Path, present: list[tuple[str, ...]]) -> Dataset:
    """Returns the data set made from `folder`, from the cache if it was prepared before.

    Args:
      name: of the data set.
      original: how it is read.
      folder: of its files.
      present: the alternatives that are there. The first is read; the others must agree with it, which is
        checked when the data set is prepared, and again as soon as any of the files is another one.

    The cache entry appears whole or not at all; one that cannot be read is made anew.
    """
    digests = [raw.sha256(*(folder / file for file in files)) for files in present]
    source = f"{listed(present[0])} of {original.upstream}, sha256 {digests[0]}"
    entry = cache_folder() / f"{name}-{'-'.join(digest[:16] for digest in digests)}.npz"

    def cached() -> Dataset:
        arrays = read_npz(entry)
        found, note = len(arrays["y"]), ""
        if found != original.rows:
            note = f"; {found} rows where the published set has {original.rows}"
            print(f"{name}: {listed(present[0])}:{note[1:]}", file=sys.stderr)
        return from_arrays(name, **arrays, source=source + note)

    with contextlib.suppress(ValueError):
        return cached()
    for other in present[1:]:
        raw.check_agreement(folder, present[0], other)
    write(entry, name, original, folder, present[0])
    return cached()


def card(dataset: Dataset) -> str:
    """Returns a few lines that describe the data set: its shape, classes, values and source."""
    x, binary, per_class = dataset.x, dataset.binary, np.bincount(dataset.y, minlength=dataset.num_classes)
    lines = {
        "shape": f"{len(x)} rows of {list(x.shape[1:])}",
        "classes": f"{dataset.num_classes}, {per_class.min()} to {per_class.max()} rows each",
        "values": f"{x.min():g} to {x.max():g}, mean {x.mean(dtype=np.float64):.4f}",
        "binary": "an image" if binary is None else f"{binary.sum()} of {len(binary)} columns",
        "source": dataset.source,
    }
    if dataset.name in TERMS:
        lines["terms"] = TERMS[dataset.name]
    return "\n".join([dataset.name, *(f"  {title:8} {text}" for title, text in lines.items())])


DATASETS: dict[str, Loader] = {
    "digits": digits,
    **{name: from_original(name, original) for name, original in ORIGINALS.items()},
}
TERMS: dict[str, str] = {
    "digits": "CC BY 4.0 (UCI); Alpaydin and Kaynak 1998",
    **{name: original.terms for name, original in ORIGINALS.items()},
}


def known_names() -> list[str]:
    """Returns what may be given to `load`: the names in `DATASETS`, then what takes a file or a size."""
    return [*sorted(DATASETS), *(f"synthetic:{kind}[:ROWS]" for kind in synthetic.KINDS), "npz:FILE"]


def download(name: str, data_dir: str | None = None) -> list[str]:
    """Returns the files of the original that were fetched into the folder, because it lacked them."""
    folder = data_dir or _default_dir(name)
    if name not in ORIGINALS:
        raise ValueError(f"{name}: nothing to download; expected one of {', '.join(ORIGINALS)}")
    if folder is None:
        raise ValueError(f"{name}: no data_dir given and MI_JAX_DATA not set; expected a folder to download to")
    return fetch(ORIGINALS[name], Path(folder).expanduser())
