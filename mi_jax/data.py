"""The data sets: `load(name)` returns a checked `Dataset`; `python -m mi_jax.data NAME` prints its card.

`digits` comes with scikit-learn, `npz:FILE` holds arrays of the user's own, the others are made from originals
that the user has. An original is read once, by its TFDS builder in `datasets/`, and kept as plain arrays in the
cache folder ($MI_JAX_CACHE, else ~/.cache/mi_jax) under its checksum; folders of originals are never written to.

A new data set is one builder file and one line in `DATASETS`.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mi_jax.types import Dataset

Loader = Callable[[str | None], Dataset]  # data_dir -> Dataset
SHOKRI = "privacytrustlab/datasets on GitHub"


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Returns the data set called `name`, checked.

    Args:
      name: a name in `DATASETS`, or `npz:FILE` with arrays `x` and `y` (see `from_npz`).
      data_dir: the folder that holds the original; None means $MI_JAX_DATA/NAME. Only data sets made from
        originals use it.

    Raises ValueError, in one line, for an unknown name and for data that are missing or not as they should be.
    """
    kind, colon, file = name.partition(":")
    if kind == "npz" and colon:
        return from_npz(file)
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(DATASETS))}, npz:FILE")
    root = os.environ.get("MI_JAX_DATA")
    if data_dir is None and root:
        data_dir = str(Path(root) / name)
    return check(DATASETS[name](data_dir))


def check(dataset: Dataset) -> Dataset:
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
    return ((x == 0) | (x == 1)).all(axis=0)  # [N features] -> [features]


def from_arrays(
    name: str, x: np.ndarray, y: np.ndarray, *, num_classes: int | None = None, source: str = ""
) -> Dataset:
    """Returns arrays as a checked `Dataset`.

    Args:
      name: what errors and records call it.
      x: images [N H W C] or [N H W], or a table [N features]. uint8 images are divided by 255, everything else
        must already lie in [0, 1]; bool is 0/1. Columns of a table that hold only 0 and 1 count as binary.
      y: integer labels [N].
      num_classes: None means the highest label + 1.
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
        x = _as_float32(x) / 255
    x = _as_float32(x)
    binary = _binary_columns(x) if x.ndim == 2 else None
    return check(Dataset(name, x, y, int(y.max()) + 1 if num_classes is None else num_classes, binary, source))


def from_npz(file: str) -> Dataset:
    """Returns the data set in an .npz file: arrays `x` and `y`, perhaps an integer `num_classes`.

    Shapes and dtypes as for `from_arrays`. Pickled objects are refused (they could run code).
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"npz:{file}: no such file; expected npz:FILE, an .npz with arrays x and y")
    x, y, num_classes = _read_npz(path)
    return from_arrays(f"npz:{file}", x, y, num_classes=num_classes, source=f"{path.name}, sha256 {_sha256(path)}")


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, int | None]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            damaged = stored.zip.testzip()  # NumPy may stop short of the end of a member, where its checksum is
            if damaged:
                raise ValueError(f"checksum of {damaged} does not match")
            arrays = {key: stored[key] for key in ("x", "y", "num_classes") if key in stored}
            held = ", ".join(stored.files) or "none"
    except Exception as error:  # a damaged file makes zipfile and NumPy raise whatever they come across
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected an .npz of plain arrays, cannot read this ({reason})") from error
    if "x" not in arrays or "y" not in arrays:
        raise ValueError(f"{path}: expected arrays x and y, found {held}")
    classes = arrays.get("num_classes")
    if classes is not None and (classes.ndim != 0 or classes.dtype.kind not in "iu"):
        raise ValueError(f"{path}: num_classes is {classes.dtype} {list(classes.shape)}; expected one integer")
    return arrays["x"], arrays["y"], None if classes is None else int(classes)


def digits(data_dir: str | None = None) -> Dataset:
    """Returns the 1,797 handwritten digits, 8x8, that come with scikit-learn; `data_dir` is not used."""
    from sklearn.datasets import load_digits  # takes half a second

    bunch = load_digits()
    source = "digits of scikit-learn (test part of the UCI optical recognition of handwritten digits)"
    return from_arrays("digits", bunch.images[..., None] / 16, bunch.target, num_classes=10, source=source)


def original(name: str, *alternatives: tuple[str, ...], upstream: str) -> Loader:
    """Returns the loader of a data set that `datasets/NAME.py` makes from files of the user.

    Args:
      name: of the data set and of its module.
      alternatives: each a set of files, relative to data_dir, that together are the original; the first one
        that is there counts. The builder must look for them in the same order.
      upstream: who publishes it, for the message that says what to put where.
    """

    def loader(data_dir: str | None) -> Dataset:
        wanted = " or ".join(" + ".join(files) for files in alternatives)
        expected = f"expected the original there: {wanted} (published by {upstream})"
        if data_dir is None:
            raise ValueError(f"{name}: no data_dir given and MI_JAX_DATA not set; {expected}")
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{name}: no folder {data_dir}; {expected}")
        for files in alternatives:
            if all((folder / file).is_file() for file in files):
                return prepare(name, folder, files, upstream=upstream)
        raise ValueError(f"{name}: folder {data_dir} lacks the data; {expected}")

    return loader


def prepare(name: str, folder: Path, files: tuple[str, ...], *, upstream: str) -> Dataset:
    """Returns the data set made from `files` in `folder`, from the cache if they were prepared before.

    The cache entry appears whole or not at all; one that cannot be read is made anew.
    """
    digest = _sha256(*(folder / file for file in files))
    source = f"{' + '.join(files)} of {upstream}, sha256 {digest}"
    entry = cache_folder() / f"{name}-{digest[:16]}.npz"

    def cached() -> Dataset:
        x, y, num_classes = _read_npz(entry)
        return from_arrays(name, x, y, num_classes=num_classes, source=source)

    with contextlib.suppress(ValueError):
        return cached()
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent, prefix=f".{name}-") as scratch:
            np.savez(Path(scratch) / entry.name, **_build(name, folder, Path(scratch)))
            os.replace(Path(scratch) / entry.name, entry)
    except OSError as error:
        raise ValueError(f"{name}: cannot write to {entry.parent} ({error}); MI_JAX_CACHE names another") from error
    return cached()


def cache_folder() -> Path:
    """Returns the folder of prepared data sets: $MI_JAX_CACHE, else ~/.cache/mi_jax. It need not exist yet."""
    return Path(os.environ.get("MI_JAX_CACHE") or "~/.cache/mi_jax").expanduser()


def _build(name: str, folder: Path, scratch: Path) -> dict[str, np.ndarray]:
    import tensorflow_datasets as tfds  # takes a second or two

    tfds.disable_progress_bar()
    module = importlib.import_module(f"mi_jax.datasets.{name}")
    builder = module.Builder(data_dir=str(scratch / "tfds"), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces itself there
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder)))
    rows, spec = builder.as_data_source(split="pool"), builder.info.features
    x = np.empty((len(rows), *spec["x"].shape), spec["x"].np_dtype)
    y = np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        x[i], y[i] = row["x"], row["y"]
    return {"x": x, "y": y, "num_classes": np.int64(spec["y"].num_classes)}


def _sha256(*files: Path) -> str:
    digests = []
    for path in files:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error})") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


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
    return "\n".join([dataset.name, *(f"  {title:8} {text}" for title, text in lines.items())])


DATASETS: dict[str, Loader] = {
    "digits": digits,
    "location30": original("location30", ("dataset_location.tgz",), ("bangkok",), upstream=SHOKRI),
}


def main() -> None:
    """Prints the card of the data set named on the command line, preparing it if need be."""
    parser = argparse.ArgumentParser(prog="python -m mi_jax.data", description="Prints the card of a data set.")
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(sorted(DATASETS))} or npz:FILE")
    parser.add_argument("--data_dir", help="folder with the original; default $MI_JAX_DATA/NAME")
    arguments = parser.parse_args()
    try:
        print(card(load(arguments.name, arguments.data_dir)))
    except ValueError as error:
        raise SystemExit(f"mi_jax.data: {error}") from None


if __name__ == "__main__":
    main()
