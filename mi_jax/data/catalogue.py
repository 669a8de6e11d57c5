"""The data sets by name: `load(name)` returns a checked `Dataset`; `python -m mi_jax.data NAME` prints its card.

* `digits` ships with scikit-learn.
* `npz:FILE` holds the user's own arrays, `folder:PATH` images in a folder for each class.
* `tfds:NAME` is a set of TensorFlow Datasets that was prepared before.
* `synthetic:purchase` and `synthetic:texas` are generated tables, and their names and sources say so.
* All others are made from original files in a folder of the user's, which is never written to unless `download` is
  called. An original is read once and cached as plain arrays (`sources/prepare.py`).

A new data set is one file in `sources/` that defines `ORIGINAL`, and one line in `ORIGINALS` below.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax.data.arrays import check_dataset, describe, from_arrays
from mi_jax.data.sources import (
    Original,
    adult,
    cifar10,
    cifar100,
    format_files,
    location30,
    mnist,
    prepare,
    prepared,
    purchase100,
    raw,
    synthetic,
    texas100,
)
from mi_jax.data.sources.images import read_folder
from mi_jax.types import Dataset

WITHOUT_FOLDER = ("digits", "npz", "folder", "synthetic")
Loader = Callable[[str | None], Dataset]  # data_dir -> Dataset


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Returns the checked data set of this name.

    Args:
      name: a name in `DATASETS`, `npz:FILE` (see `from_npz`), `folder:PATH` (see `from_folder`), `tfds:NAME` (see
        `sources.prepared`), or `synthetic:TABLE` or `synthetic:TABLE:ROWS` (see `from_synthetic`).
      data_dir: the folder with the original files, None means $MI_JAX_DATA/NAME; or where TensorFlow Datasets prepared.

    Raises ValueError, in one line, for an unknown name, for missing or invalid data, for a `data_dir` with a data set
    that is not made from original files, and where an entry of `DATASETS` raises or returns no `Dataset`.
    """
    prefix, colon, argument = name.partition(":")
    if data_dir is not None and prefix in WITHOUT_FOLDER:
        raise ValueError(f"data_dir={data_dir}: expected none with {name}, which is made from no folder")
    if prefix == "npz" and colon:
        return from_npz(argument)
    if prefix == "folder" and colon:
        return from_folder(argument)
    if prefix == "tfds" and colon:
        return check_dataset(prepared.from_tfds(argument, data_dir))
    if prefix == "synthetic" and colon:
        return from_synthetic(argument)
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(known_names())}")
    try:
        dataset = DATASETS[name](data_dir or _default_dir(name))
    except (ValueError, OSError):
        raise
    except Exception as error:  # the entry may be a user's
        text = " ".join(f"{type(error).__name__}: {error}".split("\n")[0].split())
        raise ValueError(f"dataset {name!r} raised {text}, expected a types.Dataset") from error
    return check_dataset(dataset)


def known_names() -> list[str]:
    """Returns the names that `load` accepts: those in `DATASETS`, then the patterns for tables and files."""
    return [
        *sorted(DATASETS),
        *(f"synthetic:{table}[:ROWS]" for table in synthetic.TABLES),
        "npz:FILE",
        "folder:PATH",
        "tfds:NAME",
    ]


def download(name: str, data_dir: str | None = None) -> list[str]:
    """Returns the original files that were downloaded into the folder, because it lacked them."""
    folder = data_dir or _default_dir(name)
    if name not in ORIGINALS:
        raise ValueError(f"{name}: nothing to download; expected one of {', '.join(ORIGINALS)}")
    if folder is None:
        raise ValueError(f"{name}: no data_dir given and MI_JAX_DATA not set; expected a folder to download to")
    return prepare.download_original(ORIGINALS[name], Path(folder).expanduser())


def _default_dir(name: str) -> str | None:
    root = os.environ.get("MI_JAX_DATA")
    return str(Path(root) / name) if root else None


def card(dataset: Dataset) -> str:
    """Returns a few lines that describe the data set: shape, classes, values, duplicates, source and terms."""
    facts, image = describe(dataset), dataset.binary is None
    (fewest, most), empty = facts["rows_per_class"], facts["classes_without_rows"]
    without = f"; without rows: {', '.join(map(str, empty[:10]))}{', ...' * (len(empty) > 10)}" if empty else ""
    repeated = f"{facts['duplicate_rows']} rows repeat an earlier one, {facts['relabelled_rows']} under another label"
    lines = {
        "shape": f"{facts['rows']} rows of {facts['shape']}",
        "classes": f"{facts['classes']}, {fewest} to {most} rows each{without}",
        "values": f"{facts['values'][0]:g} to {facts['values'][1]:g}, mean {facts['mean']:.4f}",
        "binary": "an image" if image else f"{facts['binary_columns']} of {facts['shape'][0]} columns",
        "constant": f"{facts['constant_columns']} {'pixels' if image else 'columns'}",
        "duplicates": repeated if facts["duplicate_rows"] else "none",
        "source": facts["source"],
    }
    if dataset.name in TERMS:
        lines["terms"] = TERMS[dataset.name]
    return "\n".join([dataset.name, *(f"  {title:10} {text}" for title, text in lines.items())])


def from_npz(file: str) -> Dataset:
    """Returns the data set in an .npz file with arrays `x` and `y`, and optionally `num_classes` and `binary`.

    Shapes and dtypes are those of `from_arrays`. Pickled objects are refused, because unpickling can run code.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"npz:{file}: no such file; expected npz:FILE, an .npz with arrays x and y")
    return from_arrays(f"npz:{file}", **prepare.read_npz(path), source=f"{path.name}, sha256 {raw.sha256(path)}")


def from_folder(path: str) -> Dataset:
    """Returns the images in a folder with a folder for each class; the classes are in the order of their names."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"folder:{path}: no such folder; expected folder:PATH, with a folder of images for each class")
    images, names = read_folder(folder)
    classes, y = np.unique(names, return_inverse=True)
    return from_arrays(f"folder:{path}", images, y, source=f"{folder.name}, classes {', '.join(classes)[:200]}")


def from_synthetic(spec: str) -> Dataset:
    """Returns the synthetic data set `TABLE` or `TABLE:ROWS`, the same at every call."""
    table, num_rows = synthetic.parse_spec(spec)
    x, y = synthetic.generate(table, num_rows)
    source = f"SYNTHETIC, not real data: {num_rows} rows drawn by mi_jax in the shape of {table.original}"
    return from_arrays(f"synthetic:{spec}", x, y, num_classes=table.num_classes, source=source)


def digits(data_dir: str | None = None) -> Dataset:
    """Returns the 1,797 handwritten digits, 8x8, that ship with scikit-learn; `data_dir` is not used."""
    from sklearn.datasets import load_digits  # takes half a second

    bunch: Any = load_digits()
    source = "digits of scikit-learn (test part of the UCI optical recognition of handwritten digits)"
    return from_arrays("digits", bunch.images[..., None] / 16, bunch.target, num_classes=10, source=source)


def from_original(name: str, original: Original) -> Loader:
    """Returns the loader of a data set that is made from original files."""
    files = " or ".join(map(format_files, original.alternatives))
    where = f"published by {original.upstream}; python -m mi_jax.data {name} --data_dir=DIR --download downloads it"
    expected = f"expected the original there: {files} ({where})"

    def loader(data_dir: str | None) -> Dataset:
        if data_dir is None:
            raise ValueError(f"{name}: no data_dir given and MI_JAX_DATA not set; {expected}")
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{name}: no folder {data_dir}; {expected}")
        present = prepare.present_alternatives(original, folder)
        if not present:
            raise ValueError(f"{name}: folder {data_dir} lacks the data; {expected}")
        return prepare.load_original(name, original, folder, present)

    return loader


ORIGINALS: dict[str, Original] = {
    "adult": adult.ORIGINAL,
    "cifar10": cifar10.ORIGINAL,
    "cifar100": cifar100.ORIGINAL,
    "location30": location30.ORIGINAL,
    "mnist": mnist.ORIGINAL,
    "purchase100": purchase100.ORIGINAL,
    "texas100": texas100.ORIGINAL,
}
DATASETS: dict[str, Loader] = {
    "digits": digits,
    **{name: from_original(name, original) for name, original in ORIGINALS.items()},
}
TERMS: dict[str, str] = {
    "digits": "CC BY 4.0 (UCI); Alpaydin and Kaynak 1998",
    **{name: original.terms for name, original in ORIGINALS.items()},
}
