"""From original files to a `Dataset`: download, one pass of a TFDS builder, and a cache of plain arrays.

The cache folder holds one .npz for each prepared original, named by the checksum of its files. TFDS runs without
TensorFlow. It is imported only when a data set must be prepared, because the import takes a second or two.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax.data.arrays import from_arrays
from mi_jax.data.sources import Files, Original, format_files, raw
from mi_jax.types import Dataset

KEYS = ("x", "y", "num_classes", "binary")


def cache_folder() -> Path:
    """Returns the folder of prepared data sets: $MI_JAX_CACHE, else ~/.cache/mi_jax. It may not exist yet."""
    return Path(os.environ.get("MI_JAX_CACHE") or "~/.cache/mi_jax").expanduser()


def present_alternatives(original: Original, folder: Path) -> list[Files]:
    """Returns the alternatives of the original whose files are all in `folder`."""
    return [files for files in original.alternatives if all((folder / file).is_file() for file in files)]


def load_original(name: str, original: Original, folder: Path, present: list[Files]) -> Dataset:
    """Returns the data set made from the files in `folder`, or from the cache if these files were prepared before.

    Args:
      name: of the data set.
      original: how to read it.
      folder: of its files.
      present: the alternatives in `folder`. The first is read. The others must agree with it, which is checked when
        the data set is prepared, and again after any of the files has changed.

    The cache entry is written whole or not at all. An unreadable entry is computed again.
    """
    digests = [raw.sha256(*(folder / file for file in files)) for files in present]
    source = f"{format_files(present[0])} of {original.upstream}, sha256 {digests[0]}"
    entry = cache_folder() / f"{name}-{'-'.join(digest[:16] for digest in digests)}.npz"

    def load_entry() -> Dataset:
        arrays = read_npz(entry)
        num_rows, note = len(arrays["y"]), ""
        if num_rows != original.rows:
            note = f"; {num_rows} rows where the published set has {original.rows}"
            print(f"{name}: {format_files(present[0])}:{note[1:]}", file=sys.stderr)
        return from_arrays(name, **arrays, source=source + note)

    with contextlib.suppress(ValueError):
        return load_entry()
    for other in present[1:]:
        raw.check_agreement(folder, present[0], other)
    write_entry(entry, name, original, folder, present[0])
    return load_entry()


def read_npz(path: Path) -> dict[str, Any]:
    """Returns the arrays of an .npz file: x and y, and num_classes and binary where present.

    Raises a one-line ValueError for a damaged file and for a file without x or y. Pickled objects are refused.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive, or cut off")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            damaged = stored.zip.testzip()  # NumPy may stop before the end of a member, where its checksum is
            if damaged:
                raise ValueError(f"checksum of {damaged} does not match")
            arrays: dict[str, Any] = {key: _plain(stored, key) for key in KEYS if key in stored}
            names = ", ".join(stored.files) or "none"
    except Exception as error:  # zipfile and NumPy raise many types of exception for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected an .npz of plain arrays, cannot read this ({reason})") from error
    if "x" not in arrays or "y" not in arrays:
        raise ValueError(f"{path}: expected arrays x and y, found {names}")
    num_classes = arrays.get("num_classes")
    if num_classes is not None and (num_classes.ndim != 0 or num_classes.dtype.kind not in "iu"):
        actual = f"{num_classes.dtype} {list(num_classes.shape)}"
        raise ValueError(f"{path}: num_classes is {actual}; expected one integer")
    return arrays if num_classes is None else arrays | {"num_classes": int(num_classes)}


def _plain(stored: Any, key: str) -> np.ndarray:
    try:
        return stored[key]
    except ValueError as error:
        if "allow_pickle" in str(error):  # which nobody is to be told to set: unpickling can run code
            raise ValueError(f"{key} holds Python objects, not numbers") from None
        raise


def write_entry(entry: Path, name: str, original: Original, folder: Path, files: Files) -> None:
    """Prepares a data set from `files` in `folder` and writes it to `entry`, whole or not at all."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent, prefix=f".{name}-") as scratch:
            np.savez(Path(scratch) / entry.name, **_build_arrays(name, original, folder, files, Path(scratch)))
            os.replace(Path(scratch) / entry.name, entry)
    except OSError as error:
        raise ValueError(f"{name}: cannot write to {entry.parent} ({error}); MI_JAX_CACHE names another") from error


def _build_arrays(name: str, original: Original, folder: Path, files: Files, scratch: Path) -> dict[str, Any]:
    import tensorflow_datasets as tfds  # takes a second or two

    tfds.disable_progress_bar()
    builder = _builder_class(name, original, files)(data_dir=str(scratch / "tfds"), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints messages there
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder)))
    rows = builder.as_data_source(split="pool")
    x = np.empty((len(rows), *rows[0]["x"].shape), original.dtype)
    y = np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        x[i], y[i] = row["x"], row["y"]
    arrays = {"x": x, "y": y, "num_classes": np.int64(original.num_classes)}
    return arrays if original.binary is None else {**arrays, "binary": original.binary}


def _builder_class(dataset: str, original: Original, files: Files) -> type:
    """Returns the TFDS builder class that prepares a data set from `files` in `manual_dir`.

    It has the features `x` and `y` (a 0-based `ClassLabel`) and one split, `pool`, with the rows in the order of the
    original. It is not registered, so that our `mnist` does not collide with that of TFDS.
    """
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {format_files(files)} here (published by {original.upstream})."

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "x": tfds.features.Tensor(shape=original.shape, dtype=original.dtype),
                "y": tfds.features.ClassLabel(num_classes=original.num_classes),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=original.description,
                features=tfds.features.FeaturesDict(features),
                homepage=original.homepage,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
            return {"pool": self._generate_examples(Path(dl_manager.manual_dir))}

        def _generate_examples(self, folder: Path) -> Iterator[tuple[int, dict]]:
            for key, (y, x) in enumerate(original.read_rows(folder, files)):
                yield key, {"x": x, "y": y}

    return Builder


def download_original(original: Original, folder: Path) -> list[str]:
    """Returns the files that were downloaded into `folder`: those of `original.urls` that it lacks.

    Nothing is downloaded if any alternative of the original is present. A file is written whole or not at all. Its
    content is checked later, by the reader. Raises ValueError naming the address of a failed download.
    """
    if present_alternatives(original, folder):
        return []
    missing = {file: url for file, url in original.urls.items() if not (folder / file).is_file()}
    for file, url in missing.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
                _download_file(url, Path(scratch) / file)
                os.replace(Path(scratch) / file, folder / file)
        except OSError as error:  # URLError is one
            raise ValueError(f"{file}: cannot be downloaded from {url} to {folder} ({error})") from error
    return list(missing)


def _download_file(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
        size = response.headers.get("Content-Length")
    if size is not None and path.stat().st_size != int(size):  # a broken connection looks like the end of the file
        raise OSError(f"{path.stat().st_size} bytes of {size}")
