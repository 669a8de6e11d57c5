"""One column of a table, or one-hot columns of one category, as numbers in [0, 1] and back."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

_DECIMALS = 9  # places that are tried; a column with more is of real numbers
_RELATIVE = 2.0**-22  # what float32 keeps of a range, with a margin


class Column(NamedTuple):
    """A column, or several that change together: their values <-> features [N f] in [0, 1]."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]  # of the features: "real", "bit" or "category"
    encode: Callable[[Sequence[np.ndarray]], np.ndarray]  # values [N] of each name -> [N f] float32
    decode: Callable[[np.ndarray], list[np.ndarray]]
    described: dict  # "kind" and what else is to be known, for a record


def column_of(names: tuple[str, ...], values: Sequence[np.ndarray]) -> Column:
    """The column of these names with these values, which are all that is known of it.

    Two values are a bit; text and objects a category, of which nothing, None, is one; dates and other numbers are real,
    with a bit for what is missing. Raises ValueError for a value that cannot be compared, and for infinite numbers.
    """
    if len(names) != 1:
        return _one_hot(names, values)
    name, known = names[0], values[0]
    kind = known.dtype.kind
    if kind == "M":
        return _date(name, known)
    if kind not in "biuf":
        known = _objects(name, known)
    distinct = set(known[:1000].tolist())
    if len(distinct) <= 2:
        distinct = set(known.tolist())
    if len(distinct) == 2 and not any(value is None or value != value for value in distinct):
        return _bit(name, distinct)
    return _number(name, known) if kind in "biuf" else _category(name, known)


def one_hot_groups(names: Sequence[str], values: dict[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    """{first name: names} of columns beside each other of which exactly one is 1 in every row, the others 0."""
    groups: dict[str, tuple[str, ...]] = {}
    start, total = 0, None
    for i, name in enumerate(names):
        column = values[name]
        bits = column.dtype.kind in "biuf" and bool(((column == 0) | (column == 1)).all())
        if total is not None and bits and (total + column).max() <= 1:
            total = total + column
        else:
            start, total = (i, column.astype(np.float64)) if bits else (0, None)
        if total is not None and i - start >= 2 and (total == 1).all():
            groups[names[start]], total = tuple(names[start : i + 1]), None
    return groups


def _objects(name: str, known: np.ndarray) -> np.ndarray:
    try:
        set(known.tolist())
    except TypeError as error:
        raise ValueError(f"column {name!r}: {error}, expected numbers, dates, text or categories") from None
    return known


def _bit(name: str, distinct: set) -> Column:
    try:
        low, high = sorted(distinct)
    except TypeError:
        low, high = sorted(distinct, key=str)

    def encode(values: Sequence[np.ndarray]) -> np.ndarray:
        unknown = (values[0] != low) & (values[0] != high)
        if unknown.any():
            raise ValueError(f"column {name!r}: {values[0][unknown][0]!r}, expected {low!r} or {high!r}")
        return (values[0] == high).astype(np.float32)[:, None]

    pair = np.array([low, high], None if isinstance(low, bool | int | float) else object)
    return Column((name,), ("bit",), encode, lambda x: [pair[(x[:, 0] >= 0.5).astype(int)]],
                  {"kind": "bit", "values": [str(low), str(high)]})  # fmt: skip


def _category(name: str, known: np.ndarray) -> Column:
    counts = Counter(known.tolist())
    values = sorted(counts, key=lambda value: (-counts[value], str(value)))
    middles, find = _shares(np.array([counts[value] for value in values]))
    places = {value: place for place, value in enumerate(values)}
    array = np.empty(len(values), object)
    array[:] = values

    def encode(columns: Sequence[np.ndarray]) -> np.ndarray:
        try:
            return middles[[places[value] for value in columns[0].tolist()]][:, None]
        except KeyError as error:
            expected = f"expected one of {len(values)} known values"
            raise ValueError(f"column {name!r}: {error.args[0]!r}, {expected}") from None

    return Column((name,), ("category",), encode, lambda x: [array[find(x[:, 0])]],
                  {"kind": "category", "values": len(values)})  # fmt: skip


def _one_hot(names: tuple[str, ...], values: Sequence[np.ndarray]) -> Column:
    middles, find = _shares(np.array([np.sum(column == 1) for column in values]))

    def encode(columns: Sequence[np.ndarray]) -> np.ndarray:
        return middles[np.stack(list(columns), axis=1).astype(np.float64).argmax(1)][:, None]

    def decode(x: np.ndarray) -> list[np.ndarray]:
        place = find(x[:, 0])
        return [(place == i).astype(column.dtype) for i, column in enumerate(values)]

    return Column(names, ("category",), encode, decode, {"kind": "one-hot category", "values": len(names)})


def _shares(counts: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(the middle of each category's share of [0, 1], float32; x [B] -> the categories in whose shares they lie)."""
    ends = np.cumsum(counts) / counts.sum()
    middles = (ends - counts / (2 * counts.sum())).astype(np.float32)
    return middles, lambda x: np.searchsorted(ends[:-1], np.asarray(x, np.float64), side="right")


def _date(name: str, known: np.ndarray) -> Column:
    """Dates as numbers of the largest unit that all of them are whole in: days, seconds or the array's own."""
    unit = next(u for u in ("D", "s", np.datetime_data(known.dtype)[0]) if _whole_in(known, u))
    missing, counted = np.isnat(known), known.astype(f"M8[{unit}]").astype(np.int64).astype(np.float64)
    number = _number(name, np.where(missing, np.nan, counted))

    def encode(values: Sequence[np.ndarray]) -> np.ndarray:
        gone, whole = np.isnat(values[0]), values[0].astype(f"M8[{unit}]").astype(np.int64).astype(np.float64)
        return number.encode([np.where(gone, np.nan, whole)])

    def decode(x: np.ndarray) -> list[np.ndarray]:
        (values,) = number.decode(x)
        gone = np.isnan(values)
        dates = np.rint(np.where(gone, 0, values)).astype(np.int64).astype(f"M8[{unit}]").astype(known.dtype)
        return [np.where(gone, np.datetime64("NaT"), dates)]

    ends = [str(np.array(int(end)).astype(f"M8[{unit}]")) for end in number.described["range"]]
    return number._replace(encode=encode, decode=decode, described=number.described | {"kind": "date", "range": ends})


def _whole_in(known: np.ndarray, unit: str) -> bool:
    present = known[~np.isnat(known)]
    return bool((present.astype(f"M8[{unit}]") == present).all())


def _number(name: str, known: np.ndarray) -> Column:
    """A real feature between the lowest and the highest value, and a bit where some values are missing."""
    as_float, dtype = known.astype(np.float64), known.dtype
    missing = np.isnan(as_float)
    present = np.unique(as_float[~missing])
    if not np.isfinite(present).all():
        raise ValueError(f"column {name!r}: an infinite number, expected finite ones (or NaN for what is missing)")
    if not present.size:
        present = np.zeros(1)
    low, width = present[0], present[-1] - present[0]  # a constant stays one
    span = width or 1.0
    settle, places = _settle(present, low, span)
    middle = float((np.median(present) - low) / span)

    def encode(values: Sequence[np.ndarray]) -> np.ndarray:
        scaled = (values[0].astype(np.float64) - low) / span
        gone = np.isnan(scaled)
        if gone.any() and not missing.any():
            raise ValueError(f"column {name!r}: a missing value, expected none, as in the rows that are known")
        features = [np.clip(np.where(gone, middle, scaled), 0, 1), *([gone] if missing.any() else [])]
        return np.stack(features, axis=1).astype(np.float32)

    def decode(x: np.ndarray) -> list[np.ndarray]:
        values = settle(low + x[:, 0].astype(np.float64) * width)
        if missing.any():
            values = np.where(x[:, 1] >= 0.5, np.nan, values)
        return [values.astype(dtype)]

    kinds = ("real", "bit") if missing.any() else ("real",)
    kind, ends = "integer" if places == 0 else "number", [float(low), float(present[-1])]
    described: dict[str, Any] = {"kind": kind, "range": ends}
    described |= {"missing": int(missing.sum())} if missing.any() else {}
    return Column((name,), kinds, encode, decode, described)


def _settle(present: np.ndarray, low: float, span: float) -> tuple[Callable[[np.ndarray], np.ndarray], int | None]:
    """(what takes decoded values to values that the column can have, its decimal places, or None for real numbers).

    Numbers are rounded to the decimal places that all known ones have. Where float32 has no room for as many, a number
    as near to a known one as float32 can tell is that one.
    """
    near = _RELATIVE * span
    room = low + ((present - low) / span).astype(np.float32).astype(np.float64) * span
    places = next((n for n in range(_DECIMALS + 1) if (np.round(present, n) == present).all()), None)
    if places is not None and (np.round(room, places) == present).all():
        return lambda values: np.round(values, places), places

    def snap(values: np.ndarray) -> np.ndarray:
        after = np.minimum(np.searchsorted(present, values), len(present) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(values - present[before] < present[after] - values, present[before], present[after])
        values = np.where(np.abs(values - nearest) <= near, nearest, values)
        return values if places is None else np.round(values, places)

    return snap, places
