"""Subgroups of the rows of a data set, by a column of a table or by an array beside the data."""

import numpy as np

from mi_jax.types import Dataset

MOST = 20  # distinct values that are groups of their own; more are grouped by quartiles


def groups_of(dataset: Dataset, column: str) -> np.ndarray:
    """Returns the group [N] (text) of every row.

    `column` is the number of a column of a table, from 0, or the name of an array [N] in the file of `npz:FILE`. Its
    values are the groups, or the quartile of a number with more than MOST values. ValueError, in one line, for a column
    or an array that there is not, and for text with more than MOST values.
    """
    values = _values(dataset, column)
    distinct = np.unique(values)
    if len(distinct) <= MOST:
        return np.array([f"{value:g}" if isinstance(value, float) else str(value) for value in values.tolist()])
    if not np.issubdtype(values.dtype, np.number):
        raise ValueError(f"group={column}: {len(distinct)} different texts, expected at most {MOST}")
    edges = np.quantile(values, (0.25, 0.5, 0.75))
    bounds = [f"{value:.4g}" for value in (values.min(), *edges, values.max())]
    names = np.array([f"{low} to {high}" for low, high in zip(bounds, bounds[1:], strict=False)])
    return names[np.searchsorted(edges, values, side="left")]


def _values(dataset: Dataset, column: str) -> np.ndarray:
    if column.isascii() and column.isdigit():
        if dataset.x.ndim != 2 or int(column) >= dataset.x.shape[1]:
            columns = f"columns 0..{dataset.x.shape[1] - 1}" if dataset.x.ndim == 2 else "images"
            raise ValueError(f"group={column}: {dataset.name} has {columns}, expected the number of a table's column")
        return dataset.x[:, int(column)]
    prefix, _, file = dataset.name.partition(":")
    if prefix != "npz":
        raise ValueError(f"group={column}: expected the number of a column, {dataset.name} has no arrays with names")
    try:
        with np.load(file, allow_pickle=False) as stored:
            values = stored[column] if column in stored.files else None
    except ValueError:  # an array of objects
        values = None
    if values is None or values.shape != (len(dataset.x),) or values.dtype.kind not in "biufU":
        found = "no such array of plain values" if values is None else f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"group={column}: {found} in {file}, expected text or numbers of shape ({len(dataset.x)},)")
    return values
