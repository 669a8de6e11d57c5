"""Tables as people have them, and images of any scale, as rows in [0, 1] that attacks can change, and back.

An attack changes rows of numbers in [0, 1]; a model is asked in the units and columns it was trained on. A codec
translates. Each column is changed where that makes sense: numbers by their spread, integers and decimals keep their
places, categories become others as often as these occur, columns that code one category one-hot change together, and
what is missing may be known, or the reverse. A row that no attack changed comes back as it was; only where two known
numbers are nearer than float32 can tell, a ten-millionth of the column's range, may one stand for the other.

Data frames of any library that narwhals reads (pandas, Polars, Arrow) are welcome, and so are NumPy arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np

from mi_jax.data.columns import Column, column_of, one_hot_groups

_PLANES = (1, 3, 4)


class Codec(NamedTuple):
    """Rows in the form of their user (N of them) <-> x [N *x], and what the columns of x are."""

    encode: Callable[[Any], np.ndarray]  # rows -> x [N *x] float32 in [0, 1]
    decode: Callable[[np.ndarray], Any]  # x [B *x] -> rows in the user's form, units and columns
    binary: np.ndarray | None  # [features] bool; None: images
    categorical: np.ndarray | None
    columns: list[dict]  # of a table: "column", "kind" and what else is to be known, for the record


def codec_of(rows: Any) -> Codec:
    """Returns the codec of rows: a data frame, columns [N] by name, an array [N features], or images.

    Images are [N H W], [N H W C] or [N C H W].

    It knows the values of these rows: the range of every column and how often each category occurs. So `rows` are all
    that the attacker is asked about. Raises ValueError for other shapes, and for a column of a kind without a codec.
    """
    if is_frame(rows):
        return _frame_codec(nw.from_native(rows, eager_only=True))
    if isinstance(rows, Mapping):
        columns = _columns(list(rows), dict(rows))
        return _table_codec(columns, lambda rows: _encoded(columns, rows), lambda x: _decoded(columns, x))
    if hasattr(rows, "toarray"):
        raise ValueError(f"rows: a {type(rows).__qualname__}, expected a dense array, as its toarray() makes it")
    array = np.asarray(rows)
    if array.ndim in (3, 4) and array.size:
        return _image_codec(array)
    if array.ndim != 2 or not array.size:
        expected = "expected a data frame, a table [N features] or images [N H W C]"
        raise ValueError(f"rows of shape {list(array.shape)}: {expected}")
    return _array_codec(array)


def is_frame(rows: Any) -> bool:
    """Is it a data frame of a library that narwhals reads?"""
    return not isinstance(rows, np.ndarray) and nw.dependencies.is_into_dataframe(rows)


def take(rows: Any, indices: np.ndarray) -> Any:
    """Rows of a data frame or an array, by their numbers."""
    return nw.from_native(rows, eager_only=True)[indices.tolist()].to_native() if is_frame(rows) else rows[indices]


def stack(first: Any, second: Any) -> Any:
    """The rows of both, in this order. ValueError where their columns or shapes differ."""
    if is_frame(first) != is_frame(second):
        raise ValueError(f"a {type(first).__qualname__} and a {type(second).__qualname__}: expected rows of one type")
    if is_frame(first):
        a, b = (nw.from_native(rows, eager_only=True) for rows in (first, second))
        if missing := sorted(set(a.columns) ^ set(b.columns)):
            raise ValueError(f"column {missing[0]!r} is in one of the two tables only: expected the same columns")
        return nw.concat([a, b.select(a.columns)], how="vertical").to_native()
    a, b = np.asarray(first), np.asarray(second)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"rows of shape {list(a.shape[1:])} and {list(b.shape[1:])}: expected the same")
    return np.concatenate([a, b])


def _frame_codec(frame: nw.DataFrame) -> Codec:
    names, native = frame.columns, frame.to_native()
    if not names or not len(frame):
        raise ValueError(f"a table of {len(frame)} rows and {len(names)} columns: expected at least one of each")
    series = {name: _values(frame[name]) for name in names}
    columns = _columns(names, series)
    dtypes = dict(native.dtypes) if frame.implementation.is_pandas() else None

    def encode(rows: Any) -> np.ndarray:
        given = nw.from_native(rows, eager_only=True)
        return _encoded(columns, {name: _values(given[name]) for name in names})

    def decode(x: np.ndarray) -> Any:
        values = _decoded(columns, x)
        if dtypes is not None:
            import pandas as pd

            made = pd.DataFrame({name: values[name] for name in names}, copy=False)
            changed = {name: dtype for name, dtype in dtypes.items() if made[name].dtype != dtype}
            return made.astype(changed) if changed else made
        made = nw.from_dict({name: values[name] for name in names}, backend=frame.implementation)
        return made.with_columns(nw.col(name).cast(frame.schema[name]) for name in names).to_native()

    return _table_codec(columns, encode, decode)


def _array_codec(array: np.ndarray) -> Codec:
    names = [f"column {i}" for i in range(array.shape[1])]
    columns, dtype = _columns(names, dict(zip(names, array.T, strict=True))), array.dtype

    def encode(rows: Any) -> np.ndarray:
        return _encoded(columns, dict(zip(names, np.asarray(rows).T, strict=True)))

    def decode(x: np.ndarray) -> np.ndarray:
        values, made = _decoded(columns, x), np.empty((len(x), len(names)), dtype)
        for i, name in enumerate(names):
            made[:, i] = values[name]
        return made

    return _table_codec(columns, encode, decode)


def _table_codec(columns: Sequence[Column], encode: Callable, decode: Callable) -> Codec:
    kinds = [kind for column in columns for kind in column.kinds]
    binary, categorical = (np.array([kind == name for kind in kinds]) for name in ("bit", "category"))
    described = [{"column": ", ".join(map(str, column.names)), **column.described} for column in columns]
    return Codec(encode, decode, binary, categorical if categorical.any() else None, described)


def _columns(names: Sequence[str], values: dict[str, np.ndarray]) -> list[Column]:
    """The columns in order; those that code one category one-hot are one."""
    groups, columns, done = one_hot_groups(names, values), [], set()
    for name in names:
        if name not in done:
            group = groups.get(name, (name,))
            columns.append(column_of(group, [values[one] for one in group]))
            done.update(group)
    return columns


def _encoded(columns: Sequence[Column], values: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([column.encode([values[name] for name in column.names]) for column in columns], axis=1)


def _decoded(columns: Sequence[Column], x: np.ndarray) -> dict[str, np.ndarray]:
    values, start = {}, 0
    for column in columns:
        end = start + len(column.kinds)
        values.update(zip(column.names, column.decode(np.asarray(x[:, start:end])), strict=True))
        start = end
    return values


def _values(series: nw.Series) -> np.ndarray:
    """The values [N] of a column as NumPy has them; what is missing is None, NaN or NaT."""
    dtype = series.dtype
    if dtype in (nw.Categorical, nw.Enum, nw.String, nw.Object) or not (
        dtype.is_numeric() or dtype.is_temporal() or dtype == nw.Boolean
    ):
        return np.array([None if value is None or value != value else value for value in series.to_list()], object)
    values = series.to_numpy()
    if values.dtype == object:  # numbers of which some are missing
        missing = series.is_null().to_numpy()
        kind = np.float64 if dtype.is_numeric() else object
        return np.array([np.nan if gone else value for value, gone in zip(values, missing, strict=True)], kind)
    return values


def _image_codec(array: np.ndarray) -> Codec:
    """Images [N H W], [N H W C] or [N C H W] of any scale; their range is that of all pixels, 0..255 for bytes."""
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"images of type {array.dtype}: expected finite numbers")
    first = array.ndim == 4 and array.shape[1] in _PLANES and array.shape[3] not in _PLANES
    low, high = (0.0, 255.0) if array.dtype == np.uint8 else (float(array.min()), float(array.max()))
    span, dtype, whole = max(high - low, 1e-30), array.dtype, array.dtype.kind in "iu"

    def encode(rows: Any) -> np.ndarray:
        rows = np.asarray(rows)
        rows = rows[..., None] if rows.ndim == 3 else np.moveaxis(rows, 1, -1) if first else rows
        return np.clip((rows.astype(np.float64) - low) / span, 0, 1).astype(np.float32)

    def decode(x: np.ndarray) -> np.ndarray:
        values = low + np.asarray(x, np.float64) * span
        values = values[..., 0] if array.ndim == 3 else np.moveaxis(values, -1, 1) if first else values
        return np.ascontiguousarray(np.rint(values) if whole else values, dtype)

    shape = list(array.shape[1:])
    return Codec(encode, decode, None, None, [{"column": "pixels", "kind": "image", "shape": shape,
                                               "range": [low, high]}])  # fmt: skip
