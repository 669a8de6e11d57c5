"""The sizes of an attack, inferred from its functions without a query: features, queries, memory."""

import math
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mi_jax.types import Attack, Measure, Perturbation, Repeat

POINTS = 256  # measured together, at most
ROUND_BYTES = 160 * 2**20  # of the queries of a round and the states of its points; a step holds about four times that
SMALL_BYTES = 16 * 2**20  # a round below this is padded to POINTS however few points there are, and compiles once


class AttackSize(NamedTuple):
    """What one point of an attack takes."""

    neighbours: int  # M
    features: int  # F
    queries: int  # of the measure for each copy, the gate's not included
    bytes: int  # of the queries of the largest round and of the state, for one point


def max_queries(attack: Attack, example_shape: tuple[int, ...], num_classes: int) -> int:
    """The largest query count of one example, reached where all of its copies are labelled correctly."""
    size = attack_size(attack, example_shape, num_classes)
    return size.neighbours * (measure_of(attack).gated + size.queries)


def measure_of(attack: Attack) -> Measure:
    """The measure of an attack; ValueError where it has none."""
    if attack.measure is None:
        raise ValueError(f"attack {attack.name} makes no queries, expected an attack with a measure")
    return attack.measure


def attack_size(attack: Attack, example_shape: tuple[int, ...], num_classes: int) -> AttackSize:
    """The size of an attack on examples of this shape; ValueError for a perturbation that breaks its contract."""
    example = jax.ShapeDtypeStruct(example_shape, jnp.float32)
    M = _num_neighbours(attack.name, attack.neighbours, example)
    answer = ((), jnp.int32) if attack.access == "label" else ((num_classes,), jnp.float32)
    measure = measure_of(attack)
    strength, tree = jax.tree.flatten(jax.eval_shape(lambda strength: strength, measure.strength))
    F, queries, largest, state = _infer_shapes(measure._replace(strength=tree), tuple(strength), example, answer)
    return AttackSize(M, F, queries, max(M, largest) * _bytes(example) + state)


def _bytes(tree) -> int:
    """The size of a pytree of shapes; keys count as nothing."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


@lru_cache(maxsize=64)  # the candidates of a grid are one entry: strengths differ in value, not in shape
def _infer_shapes(
    measure: Measure, strength: tuple, example: jax.ShapeDtypeStruct, answer: tuple
) -> tuple[int, int, int, int]:
    """(F, queries per copy, those of the largest round, bytes of the state) of a measure."""
    key, label, (answer_shape, dtype) = jax.random.key(0), jax.ShapeDtypeStruct((), jnp.int32), answer
    largest = 0

    def run(rounds, state):
        nonlocal largest
        queries = 0
        for item in rounds:
            if isinstance(item, Repeat):
                per_repeat, state = run(item.rounds, state)
                queries += item.times * per_repeat
            else:
                Q = jax.eval_shape(item.ask, key, state).shape[0]
                state = jax.eval_shape(item.tell, state, jax.ShapeDtypeStruct((Q, *answer_shape), dtype))
                queries, largest = queries + Q, max(largest, Q)
        return queries, state

    state = jax.eval_shape(measure.init, jax.tree.unflatten(measure.strength, strength), key, example, label)
    queries, state = run(measure.rounds, state)
    return jax.eval_shape(measure.read, state).shape[0], queries, largest, _bytes(state)


def default_points(size: AttackSize, points: int) -> int:
    """The number of points measured together: POINTS, halved while a round is too large or mostly padding."""
    count = POINTS
    while count > 1 and (
        count * size.bytes > ROUND_BYTES or (count // 2 >= points and count * size.bytes > SMALL_BYTES)
    ):
        count //= 2
    return count


def _num_neighbours(name: str, neighbours: Perturbation, example: jax.ShapeDtypeStruct) -> int:
    try:
        copies = jax.eval_shape(neighbours, jax.random.key(0), example)
    except ValueError:  # the perturbation's own message
        raise
    except Exception as error:  # a plugged-in function may raise anything
        message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ValueError(f"the perturbation of {name} failed when traced: {message}") from error
    shape, expected = getattr(copies, "shape", None), f"(M, {', '.join(map(str, example.shape))}) with M >= 1"
    if shape is None or shape[1:] != example.shape or len(shape) != len(example.shape) + 1 or shape[0] < 1:
        raise ValueError(f"the perturbation of {name} returned shape {shape}, expected {expected}")
    if copies.dtype != example.dtype:
        raise ValueError(f"the perturbation of {name} returned dtype {copies.dtype}, expected {example.dtype}")
    return shape[0]
