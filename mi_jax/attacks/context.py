"""What an attack knows of the data before the first query, and the units in which it therefore searches."""

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mi_jax.perturbations import column_noise
from mi_jax.types import Dataset, Measure, Repeat, Round

_SMALLEST_RANGE = 1e-30  # of values that differ: the reciprocal of less may be infinite in float32


class AttackContext(NamedTuple):
    """What an attack knows of the data before the first query. The last three are numbers, or arrays [features]."""

    example_shape: tuple[int, ...]
    num_classes: int
    binary: np.ndarray | None  # [features] bool; None: an image
    budget: int  # queries per example, for attacks that can use any number
    spread: np.ndarray | float = 1.0  # the unit of noise: the range of all pixels; of each column the deviation
    low: np.ndarray | float = 0.0  # the lowest value, where queries begin
    high: np.ndarray | float = 1.0  # the highest value, above `low`
    categorical: np.ndarray | None = None  # [features] bool, as in a Dataset

    @property
    def num_discrete(self) -> int:
        """The number of columns that flip or are drawn anew: bits and categories."""
        return sum(0 if mask is None else int(mask.sum()) for mask in (self.binary, self.categorical))

    @property
    def num_real(self) -> int:
        """The number of pixels, or of other columns."""
        return int(np.prod(self.example_shape)) - self.num_discrete


def context_of(dataset: Dataset, budget: int, rows: ArrayLike | None = None) -> AttackContext:
    """The AttackContext of an attacker who has these rows of the data set (None: all of them).

    `rows` are their numbers, or a bool for each row of the data set. `budget` is the number of queries per example.

    All pixels of images share one unit and one range. Each real column of a table has its own: its standard deviation,
    0 where all rows are equal, and its lowest and highest value. Bits and constant columns keep the range [0, 1];
    a range below 1e-30 counts as constant.

    Raises ValueError for something else than a Dataset, for rows that it does not have, for none, and for a budget that
    is not a whole number of at least 1.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"dataset is of type {type(dataset).__qualname__}, expected a types.Dataset")
    x, binary, budget = dataset.x, dataset.binary, _check_budget(budget)
    rows = np.arange(len(x)) if rows is None else _check_rows(rows, len(x))
    context = AttackContext(x.shape[1:], dataset.num_classes, binary, budget, categorical=dataset.categorical)
    if binary is None:
        flat = x.reshape(len(x), -1)
        low, high = float(flat.min(1)[rows].min()), float(flat.max(1)[rows].max())
        return context._replace(spread=high - low, low=low, high=high) if high - low >= _SMALLEST_RANGE else context
    spread, low, high = (np.full(binary.shape, value) for value in (0.0, 0.0, 1.0))
    categorical = np.zeros_like(binary) if dataset.categorical is None else dataset.categorical
    for column in np.flatnonzero(~binary & ~categorical):
        values = x[rows, column].astype(np.float64)
        if np.ptp(values) >= _SMALLEST_RANGE:
            spread[column], low[column], high[column] = values.std(), values.min(), values.max()
    return context._replace(spread=spread, low=low, high=high)


def _check_budget(budget: Any) -> int:
    try:
        count = operator.index(budget)
    except TypeError:
        count = 0
    if count < 1 or isinstance(budget, bool | np.bool_):
        raise ValueError(f"budget={budget!r}: expected a whole number of at least 1")
    return count


def _check_rows(rows: Any, num_rows: int) -> np.ndarray:
    """The numbers of the rows [n], of numbers or of a mask."""
    expected = f"expected numbers of rows in 0..{num_rows - 1}, or a bool for each of the {num_rows} rows"
    try:
        found = np.asarray(rows)
    except (TypeError, ValueError, OverflowError):  # lists of unequal lengths
        found = np.asarray(None)
    if found.ndim == 1 and found.dtype == bool and len(found) == num_rows:
        found = np.flatnonzero(found)
    if found.ndim == 1 and not len(found):
        raise ValueError("rows: none, expected at least one that the attacker has")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"rows={' '.join(repr(rows).split())[:60]}: {expected}")
    if (wrong := found[(found < 0) | (found >= num_rows)]).size:
        raise ValueError(f"rows: {wrong[0]}, {expected}")
    return found


class _State(NamedTuple):
    """The state of a measure in units of the data: value = origin + unit coordinate * span."""

    origin: jax.Array  # [*x]
    span: jax.Array  # [] or [*x]
    inner: Any  # the state of the measure itself, whose box is [0, 1]


def in_units(measure: Measure, context: AttackContext) -> Measure:
    """The measure with [0, 1] stretched over the attacker's range: it searches data of any scale alike.

    Its distances are in units of the range, too. Where a value of x lies outside of the range, the range is shifted by
    as much; queries stay in [0, 1]. The same measure is returned where the range is [0, 1]. Raises ValueError for a
    range that is empty or not in [0, 1].
    """
    low, high = (np.asarray(bound, np.float32) for bound in (context.low, context.high))
    if not ((low >= 0) & (low < high) & (high <= 1)).all():
        raise ValueError(
            f"low={low.min()}..{low.max()}, high={high.min()}..{high.max()}: expected 0 <= low < high <= 1"
        )
    if not low.any() and (high == 1).all():
        return measure
    scaled = _in_units(measure._replace(strength=()))
    # The reciprocal is taken here, once: XLA divides a lone point otherwise than a batch.
    units = {"low": low, "span": high - low, "per_span": 1 / (high - low)}
    return scaled._replace(strength=units | {"inner": measure.strength})


@lru_cache  # one object for equal arguments: the driver finds compiled programs by the identity of functions
def _in_units(measure: Measure) -> Measure:
    def init(strength, key, x, y):
        span, inside = strength["span"], jnp.clip((x - strength["low"]) * strength["per_span"], 0, 1)
        return _State(x - inside * span, span, measure.init(strength["inner"], key, inside, y))

    read = measure.read
    return measure._replace(
        init=init, rounds=tuple(map(_round_in_units, measure.rounds)), read=lambda state: read(state.inner)
    )


@lru_cache
def _round_in_units(item: Round | Repeat) -> Round | Repeat:
    if isinstance(item, Repeat):
        return Repeat(item.times, tuple(map(_round_in_units, item.rounds)))

    def ask(key, state):
        return jnp.clip(state.origin + item.ask(key, state.inner) * state.span, 0, 1)

    return item._replace(ask=ask, tell=lambda state, answers: state._replace(inner=item.tell(state.inner, answers)))


def noise_in_units(context: AttackContext, settings: dict) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """The noise (key, x [*x], count) -> [count *x] of these strengths: `p`, and `sigma` in units of the spread.

    As in `in_units`, values stay within the attacker's range, which is shifted where x lies outside of it.
    """
    low, high = (np.asarray(bound, np.float32) for bound in (context.low, context.high))
    units = {"p": 1.0, "sigma": context.spread / (high - low)}
    strength = {name: np.asarray(value * units[name], np.float32) for name, value in settings.items()}
    noise = column_noise(context.binary, context.categorical)

    def noisy(key: jax.Array, x: jax.Array, count: int) -> jax.Array:
        inside = jnp.clip((x - low) / (high - low), 0, 1)
        return jnp.clip(x - inside * (high - low) + noise(strength, key, inside, count) * (high - low), 0, 1)

    return noisy
