"""Rows and labels from a file: .csv, .parquet or .npz, or a folder of images with a folder for each class."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax.data.sources import prepare, raw
from mi_jax.data.sources.images import read_folder

EXPECTED = ".csv, .parquet, .npz, or a folder of images with a folder for each class"


def read_rows(path: Path | str, label: str | None) -> tuple[Any, np.ndarray]:
    """(rows, labels) of a file.

    Of .csv and .parquet, `label` names the column of labels, and the other columns are the rows, a pandas data frame.
    An .npz file has the arrays x and y. A folder has a folder for each class, named like it, with images of one size,
    read as uint8 [N H W C]. Raises ValueError, which names the file and what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file, expected {EXPECTED}")
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".npz":
        arrays = prepare.read_npz(path)
        return arrays["x"], arrays["y"]
    if path.suffix in (".csv", ".parquet"):
        return _read_table(path, label)
    raise ValueError(f"{path}: a file of type {path.suffix or 'none'}, expected {EXPECTED}")


def _read_table(path: Path, label: str | None) -> tuple[Any, np.ndarray]:
    try:
        pd: Any = importlib.import_module("pandas")
    except ImportError:
        raise ValueError(f"{path}: reading it needs pandas, expected pip install 'mi_jax[tables]'") from None
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except Exception as error:  # parsers raise many kinds
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    columns = ", ".join(map(str, frame.columns[:8])) + (", ..." if len(frame.columns) > 8 else "")
    if label is None:
        raise ValueError(f"{path}: expected --label=COLUMN, which of its columns are the labels ({columns})")
    if label not in frame.columns:
        raise ValueError(f"{path}: no column {label!r} of labels, expected one of {columns}")
    if frame[label].isna().any():
        raise ValueError(f"{path}: {int(frame[label].isna().sum())} rows have no label, expected a label in each")
    return frame.drop(columns=label), frame[label].to_numpy()


def file_digest(path: Path | str) -> str:
    """16 hex digits that change with the content of a file, or of any file in a folder."""
    path = Path(path)
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return raw.sha256(*found)[:16]
