"""The driver that runs every attack: it batches queries, counts them and stops at a cap.

It loops on the host: ask (jitted, vmapped over points), query the oracle, tell (jitted). Caps and counts are
therefore plain Python and exact for any target. The three dispatches of a round cost well under a millisecond, little
against the forward passes between them (`experiments/benchmarks/queries.py`), so there is no second driver that loops
on the device.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mi_jax.querying.oracle import NAN_ANSWERED, Oracle, chunks, refuse_nan
from mi_jax.querying.sizes import AttackSize, attack_size, default_points, measure_of
from mi_jax.testing import as_whole
from mi_jax.types import Answers, Array, Attack, Measure, Repeat, Round


class _Call(NamedTuple):
    """The arguments of one call of `query`, and its query count."""

    oracle: Oracle
    attack: Attack
    keys: jax.Array  # [P]
    x: np.ndarray  # [P *x]
    y: np.ndarray  # [P]
    points_at_once: int
    count: "_QueryCount"


def query(
    oracle: Oracle,
    attack: Attack,
    key: jax.Array,
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    *,
    points_at_once: int | None = None,
    cap: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """The features [P M F] of an attack on examples x [P *x] with labels y [P], and the query counts.

    By the paper's rule each neighbour's label is queried once, and only correctly labelled copies go on to the
    measure, in full chunks of `points_at_once`; the features of the others are 0. `rows` [P] are pool rows: a point's
    key is folded from its row, so its features are the same to the bit alone and in any batch, order or chunk
    (tested). Memory is bounded by the chunk: points_at_once x Q queries at a time. By default it is
    `sizes.POINTS`, or fewer where examples are so large that a round would exceed `sizes.ROUND_BYTES`.

    `cap` bounds the total number of queries. A chunk that might exceed it is not begun: the points before it keep
    their features, those of the rest are NaN and `finished` is False. `progress` is called with the queries put
    since its last call, before they are answered: a query counts, whatever becomes of it.

    Raises ValueError, before the first query, for examples that are not numbers in [0, 1], labels that are not
    integers in 0..C-1, lengths that differ, and a perturbation that fails or returns another shape or dtype; and later
    for an answer that is not a label or a probability vector.
    """
    if oracle.access != attack.access:
        raise ValueError(f"attack {attack.name} needs {attack.access} access, the oracle grants {oracle.access}")
    x, y, rows = checked_points(x, y, rows, oracle.num_classes)
    for name, value, least in (("points_at_once", points_at_once, 1), ("cap", cap, 0)):
        whole = least if value is None else as_whole(value)
        if whole is None or whole < least:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}")
    count = _QueryCount(cap, progress or (lambda queries: None))
    measure, shape = measure_of(attack), attack_size(attack, x.shape[1:], oracle.num_classes)
    keys, chunk = _point_keys(key, jnp.asarray(rows, jnp.uint32)), points_at_once or default_points(shape, len(x))
    return _query(_Call(oracle, attack, keys, x, y, chunk, count), measure, shape)


def _query(call: _Call, measure: Measure, shape: AttackSize) -> Answers:
    x, count = call.x, call.count
    if measure.gated:
        correct, queried = _gate(call, shape.neighbours)
        queries = queried.sum(1).astype(np.int64)
    else:
        correct = queried = np.ones((len(x), shape.neighbours), bool)
        queries = np.zeros(len(x), np.int64)
    features = np.where(queried[..., None], 0.0, np.nan).astype(np.float32).repeat(shape.features, 2)  # [P M F]
    features[correct] = _measure(call, np.argwhere(correct), shape) if shape.queries else 1.0
    finished = np.logical_not(np.isnan(features).any(2))  # [P M]
    queries += shape.queries * (correct & finished).sum(1)
    return Answers(features, queries, np.all(finished, axis=1), count.phases)


def _as_array(name: str, values: Any) -> np.ndarray:
    """Returns the values as an array of one axis or more; ValueError for a number, for None and for objects."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # lists of unequal lengths
        array = np.array(None)
    if array.ndim == 0 or array.dtype.kind == "O":
        given = " ".join(repr(values).split())
        raise ValueError(f"{name}: {given:.80}, expected an array of numbers, one or more for each example")
    return array


def checked_points(x: Array, y: Array, rows: Array, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (x [P *x] floats, y [P] int32, rows [P]) as arrays, after the checks that `query` documents."""
    x, y, rows = (_as_array(name, values) for name, values in (("x", x), ("y", y), ("rows", rows)))
    if y.ndim != 1 or rows.ndim != 1:
        raise ValueError(
            f"y and rows of shapes {y.shape} and {rows.shape}: expected ({len(x)},), one of each for each x"
        )
    if x.ndim < 2 or not len(x) == len(y) == len(rows):
        raise ValueError(f"x, y and rows: {len(x)}, {len(y)} and {len(rows)} of them, expected as many of each")
    if not np.issubdtype(x.dtype, np.floating) or (x.size and not (x.min() >= 0 and x.max() <= 1)):  # NaN: neither
        values = f"{x.dtype} {x.min()}..{x.max()}" if x.size and x.dtype.kind in "iuf" else str(x.dtype)
        raise ValueError(f"x: {values}, expected floats in [0, 1], the range of every query")
    for name, values, limit in (("y", y, num_classes), ("rows", rows, 2**32)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name}: {values.dtype}, expected integers")
        if values.size and not (values.min() >= 0 and values.max() < limit):
            raise ValueError(f"{name}: {values.min()}..{values.max()}, expected integers in 0..{limit - 1}")
    return x, y.astype(np.int32), rows


class _QueryCount:
    """The number of queries to the target by phase, and whether the cap allows more."""

    def __init__(self, cap: int | None, progress: Callable[[int], None]):
        self.left, self.progress, self.phases = np.inf if cap is None else cap, progress, {}

    def allows(self, queries: int) -> bool:
        if queries > self.left:
            self.left = 0  # a capped run ends here: no smaller chunk may follow
            return False
        return True

    def add(self, queries: int, phase: str) -> None:
        self.left -= queries
        self.phases[phase] = self.phases.get(phase, 0) + queries
        self.progress(queries)


def _gate(call: _Call, M: int) -> tuple[np.ndarray, np.ndarray]:
    """(labelled correctly [P M], queried [P M]): each neighbour's label, queried once."""
    oracle, attack, keys, x, y, points_at_once, count = call
    correct, queried = np.zeros((len(x), M), bool), np.zeros((len(x), M), bool)
    for start, live, rows in chunks(len(x), points_at_once):
        if not count.allows(live * M):
            break
        copies = _neighbours(attack.neighbours, keys[rows], x[rows])  # [P M *x]
        count.add(live * M, "gate")
        answers = np.asarray(oracle.answer(copies.reshape(-1, *x.shape[1:]), live * M))
        labels = answers.reshape(len(rows), M)[:live]
        refuse_nan(labels)
        correct[start : start + live] = labels == y[rows[:live], None]
        queried[start : start + live] = True
    return correct, queried


def _measure(call: _Call, copies: np.ndarray, shape: AttackSize) -> np.ndarray:
    """Features [copies F] of copies [copies 2] (point, neighbour); NaN for those beyond the cap."""
    attack, measure, count = call.attack, measure_of(call.attack), call.count
    features = np.full((len(copies), shape.features), np.nan, np.float32)
    for start, live, chosen in chunks(len(copies), call.points_at_once):
        if not count.allows(live * shape.queries):
            break
        point, m = copies[chosen].T
        keys, x = _pick(attack.neighbours, call.keys[point], call.x[point], jnp.asarray(m))
        state = _init(measure.init, measure.strength, keys, x, jnp.asarray(call.y[point]))
        state = _run_rounds(call.oracle, measure, keys, state, live, count)
        values = np.asarray(_read(measure.read, state))[:live]  # [live F]
        refuse_nan(values)
        features[start : start + live] = values
    return features


def _run_rounds(oracle: Oracle, measure: Measure, keys, state, live: int, count: _QueryCount):
    invalid = jnp.array(False)
    for step, query_round in enumerate(_unrolled(measure.rounds)):
        queries = _ask(query_round.ask, keys, step, state)  # [P Q *x]
        P, Q = queries.shape[:2]
        # Padding points come last, so the live queries come first.
        count.add(live * Q, query_round.phase)
        answers = jnp.asarray(oracle.answer(queries.reshape(P * Q, *queries.shape[2:]), live * Q))
        invalid = _any_invalid(invalid, answers)  # looked at in the end: the host need not wait for every round
        state = _tell(query_round.tell, state, answers.reshape(P, Q, *answers.shape[1:]))
    if invalid:
        raise ValueError(NAN_ANSWERED)
    return state


@jax.jit
def _any_invalid(before: jax.Array, answers: jax.Array) -> jax.Array:
    """Whether an answer so far was NaN, or a label below 0, which means NaN logits."""
    return before | (answers < 0).any() if answers.ndim == 1 else before | jnp.isnan(answers).any()


def _unrolled(rounds: tuple[Round | Repeat, ...]) -> Iterator[Round]:
    for item in rounds:
        if isinstance(item, Repeat):
            for _ in range(item.times):
                yield from _unrolled(item.rounds)
        else:
            yield item


@jax.jit
def _point_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


@partial(jax.jit, static_argnums=0)
def _neighbours(neighbours, keys, x):
    chex.assert_equal_shape_prefix((keys, x), 1)
    return jax.vmap(lambda key, example: neighbours(jax.random.split(key)[0], example))(keys, x)


@partial(jax.jit, static_argnums=0)
def _pick(neighbours, keys, x, m):
    """(keys [P], copies [P *x]): neighbour m of each point, and the key of its measure."""
    chex.assert_equal_shape_prefix((keys, x, m), 1)

    def pick(key, x, m):
        neighbours_key, measure_key = jax.random.split(key)
        return jax.random.fold_in(measure_key, m), neighbours(neighbours_key, x)[m]

    return jax.vmap(pick)(keys, x, m)


@partial(jax.jit, static_argnums=0)
def _init(init, strength, keys, x, y):
    chex.assert_equal_shape_prefix((keys, x, y), 1)
    chex.assert_type([x, y], [float, int])
    return jax.vmap(init, (None, 0, 0, 0))(strength, keys, x, y)


@partial(jax.jit, static_argnums=0)
def _ask(ask, keys, step, state):
    return jax.vmap(lambda key, state: ask(jax.random.fold_in(key, step), state))(keys, state)


@partial(jax.jit, static_argnums=0)
def _tell(tell, state, answers):
    chex.assert_type(answers, int if answers.ndim == 2 else float)  # labels [P Q] or log-probabilities [P Q C]
    return jax.vmap(tell)(state, answers)


@partial(jax.jit, static_argnums=0)
def _read(read, state):
    return jax.vmap(read)(state)
