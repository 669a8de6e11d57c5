"""The folder of prepared data sets: what TFDS made of an original, kept as plain arrays in one .npz file each."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Files, Original

KEYS = ("x", "y", "num_classes", "binary")


def cache_folder() -> Path:
    """Returns the folder of prepared data sets: $MI_JAX_CACHE, else ~/.cache/mi_jax. It need not exist yet."""
    return Path(os.environ.get("MI_JAX_CACHE") or "~/.cache/mi_jax").expanduser()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file: x, y, and num_classes and binary where it holds them.

    Raises ValueError, in one line, for a damaged file and for one that lacks x or y; pickled objects are refused.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            damaged = stored.zip.testzip()  # NumPy may stop short of the end of a member, where its checksum is
            if damaged:
                raise ValueError(f"checksum of {damaged} does not match")
            arrays = {key: stored[key] for key in KEYS if key in stored}
            held = ", ".join(stored.files) or "none"
    except Exception as error:  # a damaged file makes zipfile and NumPy raise whatever they come across
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected an .npz of plain arrays, cannot read this ({reason})") from error
    if "x" not in arrays or "y" not in arrays:
        raise ValueError(f"{path}: expected arrays x and y, found {held}")
    classes = arrays.get("num_classes")
    if classes is not None and (classes.ndim != 0 or classes.dtype.kind not in "iu"):
        raise ValueError(f"{path}: num_classes is {classes.dtype} {list(classes.shape)}; expected one integer")
    return arrays


def write(entry: Path, name: str, original: Original, folder: Path, files: Files) -> None:
    """Prepares a data set from `files` in `folder` and stores it at `entry`, which appears whole or not at all."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent, prefix=f".{name}-") as scratch:
            np.savez(Path(scratch) / entry.name, **_build(name, original, folder, files, Path(scratch)))
            os.replace(Path(scratch) / entry.name, entry)
    except OSError as error:
        raise ValueError(f"{name}: cannot write to {entry.parent} ({error}); MI_JAX_CACHE names another") from error


def _build(name: str, original: Original, folder: Path, files: Files, scratch: Path) -> dict[str, np.ndarray]:
    import tensorflow_datasets as tfds  # takes a second or two

    from mi_jax.data.sources.builder import pool_builder

    tfds.disable_progress_bar()
    builder = pool_builder(name, original, files)(data_dir=str(scratch / "tfds"), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces itself there
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder)))
    rows = builder.as_data_source(split="pool")
    x = np.empty((len(rows), *rows[0]["x"].shape), original.dtype)
    y = np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        x[i], y[i] = row["x"], row["y"]
    arrays = {"x": x, "y": y, "num_classes": np.int64(original.num_classes)}
    return arrays if original.binary is None else {**arrays, "binary": original.binary}
