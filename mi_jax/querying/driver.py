"""The driver that every attack runs through: it asks, packs, counts and caps.

It loops on the host: ask (jitted, vmapped over points), put the questions to the oracle, tell (jitted). Caps and
counts are therefore plain Python and exact, whatever answers. Three dispatches a round cost well under a millisecond
against the forward passes between them (`experiments/benchmarks/queries.py`), which is why there is no second driver
that loops on the device.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax.querying.oracle import Oracle, chunks, refuse_nan
from mi_jax.types import Answers, Attack, Measure, Perturbation, Repeat, Round

POINTS = 256  # in hand at a time


def query(
    oracle: Oracle,
    attack: Attack,
    key: jax.Array,
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    *,
    points_at_once: int = POINTS,
    cap: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """What the oracle answers to an attack about examples x [P *x] with labels y [P]: features [P M F] and the bill.

    The rule of the paper, and the packing it allows: each neighbour's label is asked once, and only copies that
    are labelled rightly go on to the measure, in full chunks of `points_at_once`; the others read 0. `rows` [P]
    are pool rows: a point's key is folded from its row, so its features are the same to the bit alone, in any
    batch, order or chunk (tested). Memory is bounded by the chunk: points_at_once x Q questions at a time.

    `cap` bounds the total number of queries. A chunk that might exceed it is not begun; what was finished is
    kept, the rest is NaN and `finished` says which. `progress` is told the queries put since its last call.

    Raises ValueError, before anything is asked, for examples that are not numbers in [0, 1], labels that are not
    integers, lengths that differ, and a perturbation that fails or returns another shape or dtype; and where an
    answer is not a label or a probability vector.
    """
    if oracle.access != attack.access:
        raise ValueError(f"attack {attack.name} needs {attack.access} access, the oracle grants {oracle.access}")
    _check_points(x, y, rows)
    bill = _Bill(cap, progress or (lambda queries: None))
    point_keys = _point_keys(key, jnp.asarray(rows, jnp.uint32))
    M, F, cost = _plan(attack, x.shape[1:], oracle.num_classes)
    if attack.measure.gated:
        passed, asked, queries = _gate(oracle, attack, point_keys, x, y, M, points_at_once, bill)
    else:
        passed, asked, queries = np.ones((len(x), M), bool), np.ones((len(x), M), bool), np.zeros(len(x), np.int64)
    features = np.where(asked[..., None], 0.0, np.nan).astype(np.float32).repeat(F, 2)  # [P M F]
    if cost:
        _measure(oracle, attack, point_keys, x, y, passed, cost, points_at_once, bill, features, queries)
    else:
        features[passed] = 1.0
    return Answers(features, queries, np.isfinite(features).all((1, 2)), bill.phases)


def _check_points(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> None:
    if not len(x) == len(y) == len(rows):
        raise ValueError(f"x, y and rows: {len(x)}, {len(y)} and {len(rows)} of them, expected as many of each")
    x, y = np.asarray(x), np.asarray(y)
    if not np.issubdtype(x.dtype, np.floating) or (x.size and not (x.min() >= 0 and x.max() <= 1)):  # NaN: neither
        told = f"{x.dtype} {x.min()}..{x.max()}" if x.size else str(x.dtype)
        raise ValueError(f"x: {told}, expected floats in [0, 1], which every question is kept in")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"y: {y.dtype}, expected integers")


class _Bill:
    """Counts what was put to the target and says whether more may be."""

    def __init__(self, cap: int | None, progress: Callable[[int], None]):
        self.left, self.progress, self.phases = np.inf if cap is None else cap, progress, {}

    def covers(self, queries: int) -> bool:
        if queries > self.left:
            self.left = 0  # a capped run ends here; later, smaller chunks do not slip through
            return False
        return True

    def pay(self, queries: int, phase: str) -> None:
        self.left -= queries
        self.phases[phase] = self.phases.get(phase, 0) + queries
        self.progress(queries)


def _gate(oracle, attack, point_keys, x, y, M, points_at_once, bill):
    """Ask each neighbour's label once -> (right [P M], asked [P M], queries [P])."""
    right, asked = np.zeros((len(x), M), bool), np.zeros((len(x), M), bool)
    for start, live, rows in chunks(len(x), points_at_once):
        if not bill.covers(live * M):
            break
        copies = _expand(attack.neighbours, point_keys[rows], x[rows])  # [P M *x]
        answers = np.asarray(oracle.answer(copies.reshape(-1, *x.shape[1:]), live * M))
        bill.pay(live * M, "gate")
        labels = answers.reshape(len(rows), M)[:live]
        refuse_nan(labels)
        right[start : start + live] = labels == y[rows[:live], None]
        asked[start : start + live] = True
    return right, asked, asked.sum(1).astype(np.int64)


def _measure(oracle, attack, point_keys, x, y, passed, cost, points_at_once, bill, features, queries):
    """Measure the copies that passed, filling in `features` [P M F] and adding to `queries` [P]."""
    measure, pairs = attack.measure, np.argwhere(passed)  # [copies 2]: point, neighbour
    for start, live, chosen in chunks(len(pairs), points_at_once):
        if not bill.covers(live * cost):
            features[tuple(pairs[start:].T)] = np.nan
            break
        point, m = pairs[chosen].T
        keys, copies = _pick(attack.neighbours, point_keys[point], x[point], jnp.asarray(m))
        state = _init(measure.init, measure.strength, keys, copies, jnp.asarray(y[point]))
        state = _converse(oracle, measure, keys, state, live, bill)
        read = np.asarray(_read(measure.read, state))[:live]  # [live F]
        refuse_nan(read)
        features[point[:live], m[:live]] = read
        np.add.at(queries, point[:live], cost)


def _converse(oracle: Oracle, measure: Measure, keys, state, live: int, bill: _Bill):
    for step, turn in enumerate(_unrolled(measure.rounds)):
        questions = _ask(turn.ask, keys, step, state)  # [P Q *x]
        P, Q = questions.shape[:2]
        # Points that are padding stand last, so the live questions come first.
        answers = jnp.asarray(oracle.answer(questions.reshape(P * Q, *questions.shape[2:]), live * Q))
        state = _tell(turn.tell, state, answers.reshape(P, Q, *answers.shape[1:]))
        bill.pay(live * Q, turn.phase)
    return state


def _unrolled(rounds: tuple[Round | Repeat, ...]) -> Iterator[Round]:
    for item in rounds:
        if isinstance(item, Repeat):
            for _ in range(item.times):
                yield from _unrolled(item.rounds)
        else:
            yield item


def price(attack: Attack, example_shape: tuple[int, ...], num_classes: int) -> int:
    """The most queries that one example may cost: what it does cost where all of its copies are labelled rightly."""
    M, _, cost = _plan(attack, example_shape, num_classes)
    return M * (attack.measure.gated + cost)


def _plan(attack: Attack, example_shape: tuple[int, ...], num_classes: int) -> tuple[int, int, int]:
    """(M, F, questions per measured copy), found by shapes alone, before anything is asked."""
    one = jax.ShapeDtypeStruct(example_shape, jnp.float32)
    M = _num_neighbours(attack.name, attack.neighbours, one)
    answer = ((), jnp.int32) if attack.access == "label" else ((num_classes,), jnp.float32)
    strength, tree = jax.tree.flatten(jax.eval_shape(lambda strength: strength, attack.measure.strength))
    return M, *_played(attack.measure._replace(strength=tree), tuple(strength), one, answer)


@lru_cache(maxsize=64)  # the candidates of a grid are one entry: strengths differ in value, not in shape
def _played(measure: Measure, strength: tuple, one: jax.ShapeDtypeStruct, answer: tuple) -> tuple[int, int]:
    key, label, (tail, dtype) = jax.random.key(0), jax.ShapeDtypeStruct((), jnp.int32), answer

    def play(rounds, state):
        cost = 0
        for item in rounds:
            if isinstance(item, Repeat):
                once, state = play(item.rounds, state)
                cost += item.times * once
            else:
                Q = jax.eval_shape(item.ask, key, state).shape[0]
                state = jax.eval_shape(item.tell, state, jax.ShapeDtypeStruct((Q, *tail), dtype))
                cost += Q
        return cost, state

    state = jax.eval_shape(measure.init, jax.tree.unflatten(measure.strength, strength), key, one, label)
    cost, state = play(measure.rounds, state)
    return jax.eval_shape(measure.read, state).shape[0], cost


@jax.jit
def _point_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


@partial(jax.jit, static_argnums=0)
def _expand(neighbours, point_keys, x):
    return jax.vmap(lambda key, one: neighbours(jax.random.split(key)[0], one))(point_keys, x)


@partial(jax.jit, static_argnums=0)
def _pick(neighbours, point_keys, x, m):
    """(keys [P], copies [P *x]): neighbour m of each point, and the key of its measure."""

    def one(key, x, m):
        for_neighbours, for_measure = jax.random.split(key)
        return jax.random.fold_in(for_measure, m), neighbours(for_neighbours, x)[m]

    return jax.vmap(one)(point_keys, x, m)


@partial(jax.jit, static_argnums=0)
def _init(init, strength, keys, x, y):
    return jax.vmap(init, (None, 0, 0, 0))(strength, keys, x, y)


@partial(jax.jit, static_argnums=0)
def _ask(ask, keys, step, state):
    return jax.vmap(lambda key, state: ask(jax.random.fold_in(key, step), state))(keys, state)


@partial(jax.jit, static_argnums=0)
def _tell(tell, state, answers):
    return jax.vmap(tell)(state, answers)


@partial(jax.jit, static_argnums=0)
def _read(read, state):
    return jax.vmap(read)(state)


def _num_neighbours(name: str, neighbours: Perturbation, one: jax.ShapeDtypeStruct) -> int:
    try:
        copies = jax.eval_shape(neighbours, jax.random.key(0), one)
    except ValueError:  # a perturbation's own words
        raise
    except Exception as error:  # a plugged-in function may raise anything
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"the perturbation of {name} failed when traced: {type(error).__name__}: {first}") from error
    shape, expected = getattr(copies, "shape", None), f"(M, {', '.join(map(str, one.shape))}) with M >= 1"
    if shape is None or shape[1:] != one.shape or len(shape) != len(one.shape) + 1 or shape[0] < 1:
        raise ValueError(f"the perturbation of {name} returned shape {shape}, expected {expected}")
    if copies.dtype != one.dtype:
        raise ValueError(f"the perturbation of {name} returned dtype {copies.dtype}, expected {one.dtype}")
    return shape[0]
