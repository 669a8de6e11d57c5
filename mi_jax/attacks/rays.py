"""The distance to the decision boundary along the shortest of many random rays, by bisection alone."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mi_jax import randomness
from mi_jax.attacks import directions
from mi_jax.types import Measure, Repeat, Round

LONGEST = 2.0  # the length of a ray, in standard deviations of its noise: most of [0, 1] is then clipped


class RayState(NamedTuple):
    """The state of the search about one example. Lengths along a ray are standard deviations of its noise."""

    key: jax.Array
    x: jax.Array  # [*x]
    y: jax.Array
    distances: jax.Array  # [F] L2 distance of the nearest adversarial point, after each query; inf: none yet
    queries: jax.Array  # made so far
    direction: jax.Array  # [*x] of the current ray
    low: jax.Array  # lower end of the bracket on the current ray: labelled y
    shortest: jax.Array  # upper end: labelled otherwise, the shortest such length on any ray so far
    bisections_left: jax.Array  # on the current ray; 0: the ray is new


def ray_distance(queries: int, bisections: int = 3) -> Measure:
    """The L2 distance to the nearest adversarial point on random rays after each query, F = `queries`.

    0 where x is mislabelled. A ray is x + length * N(0, I), clipped to [0, 1]. The first query of a new ray is at the
    shortest adversarial length so far. Most rays are still labelled y there, so they cannot be shorter, and cost this
    one query; the others are bisected `bisections` times. The distances of a longer run begin with those of a shorter
    one. They are never below the true distance, but for rounding, and +inf before anything flips the label
    (`boundary.never_flipped`).

    Clipped Gaussian rays separate members better than rays to uniform noise images (shortest of 32 on digits, n = 100,
    16 networks of one hidden layer: AUC .671 against .637), and a few coarse bisections of a ray leave more queries
    for new rays: with 3, AUC is .650 / .663 / .671 / .672 at 25 / 50 / 100 / 250 queries, where noise at the best of
    four sigmas has .657 / - / .662 / .669. Raises ValueError for counts below 1. Source: ours.
    """
    if queries < 1 or bisections < 1:
        raise ValueError(f"ray_distance({queries}, {bisections}): expected at least 1 query and 1 bisection")
    return _rays(queries, bisections)


@lru_cache
def _rays(queries: int, bisections: int) -> Measure:
    query_round = Round(lambda key, state: next_query(state)[None], partial(tell, bisections), "rays")
    return Measure(partial(init, queries), (Repeat(queries, (query_round,)),), lambda state: state.distances)


def init(F: int, strength, key: jax.Array, x: jax.Array, y: jax.Array) -> RayState:
    """The state before the first of F queries."""
    del strength
    longest = jnp.float32(LONGEST)
    distances, queries = jnp.full(F, jnp.float32(jnp.inf)), jnp.int32(0)
    return RayState(
        key, x, y, distances, queries, _direction(key, queries, x), jnp.float32(0), longest, jnp.int32(0)
    )  # fmt: skip


def _length(state: RayState) -> jax.Array:
    return jnp.where(state.bisections_left > 0, (state.low + state.shortest) / 2, state.shortest)


def next_query(state: RayState) -> jax.Array:
    """The next query [*x]."""
    return jnp.clip(state.x + _length(state) * state.direction, 0, 1)


def tell(bisections: int, state: RayState, labels: jax.Array) -> RayState:
    """The state after the label [1] of `next_query(state)`; it goes on along this ray or a new one."""
    flipped, new_ray, length = labels[0] != state.y, state.bisections_left == 0, _length(state)
    distance = jnp.where(flipped, directions.norm(next_query(state) - state.x), jnp.inf)
    not_yet_read = jnp.arange(len(state.distances)) >= state.queries
    bisections_left = jnp.where(new_ray, jnp.where(flipped, bisections, 0), state.bisections_left - 1)
    queries = state.queries + 1
    return state._replace(
        distances=jnp.where(not_yet_read, jnp.minimum(state.distances, distance), state.distances),
        queries=queries,
        direction=jnp.where(bisections_left == 0, _direction(state.key, queries, state.x), state.direction),
        low=jnp.where(new_ray | flipped, jnp.where(new_ray, 0, state.low), length),
        shortest=jnp.where(flipped, length, state.shortest),
        bisections_left=bisections_left,
    )


def _direction(key: jax.Array, number: jax.Array, x: jax.Array) -> jax.Array:
    return randomness.normal(jax.random.fold_in(key, number), x.shape)
