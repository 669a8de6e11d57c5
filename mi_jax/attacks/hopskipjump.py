"""The search of `boundary_distance` about one example: its state, what each round asks, and what the labels change.

A point is adversarial if the target does not label it y. `boundary.py` arranges the rounds and explains the method.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import randomness
from mi_jax.attacks import directions, rays
from mi_jax.attacks.directions import farthest_corner
from mi_jax.attacks.schedules import QUERIES_PER_BLOCK

# Radius of the gradient queries, as a share of the distance to x. On digits 0.04 leaves the median distance at 100
# queries at 1.46 where 0.3 reaches 1.05: the error of the bisection then matters less. It costs 0.002 on spheres.
RADIUS = 0.3
_RIGHT_ANGLE: Any = np.float32(np.pi / 2)
_RAY_BISECTIONS, _RAY_KEY = 3, 2**32 - 1  # keys of the bases count from 1


class SearchState(NamedTuple):
    """What is known about one example between rounds; the basis of directions has dimension D >= d."""

    key: jax.Array
    x: jax.Array  # [*x]
    y: jax.Array
    best: jax.Array  # [*x] the nearest adversarial point so far; until one is found, the farthest corner
    distance: jax.Array  # L2, from x to `best`
    found: jax.Array  # is `best` adversarial?
    distances: jax.Array  # [F] at the checkpoints, after the first line search and each iteration; inf: not found
    checkpoint: jax.Array  # index of the next checkpoint
    path_start: jax.Array  # [*x] adversarial point where the search path begins, at angle 0; x is at the right angle
    tangent: jax.Array  # [*x] direction in which the path leaves the line to x; 0: the path is that line
    tangent_scale: jax.Array  # makes the tangent as long as `path_start` is far from x
    query: jax.Array  # [*x] the next query of a search
    query_angle: jax.Array  # its angle on the path
    adversarial_angle: jax.Array  # end of the bracket of the search that is adversarial
    original_angle: jax.Array  # end of the bracket that is labelled y
    first_angle: jax.Array  # where the next search begins
    gradient: jax.Array  # [*x] the estimate: answers times directions, summed over finished blocks
    answers: jax.Array  # [D] of the current block, +1 adversarial and -1 not, by row of the basis
    line_parts: jax.Array  # [D] of each direction, its component along the line from x to `best`
    signs: jax.Array  # [D] of the coordinates of the basis
    bases_used: jax.Array
    row: jax.Array  # next row of the basis
    centre: jax.Array  # of the gradient queries, on the line from x (0) to `best` (1)
    centre_step: jax.Array  # how far the centre moves for a mean answer of 1
    mean_answer: jax.Array  # of the last gradient round
    ray: rays.RayState  # of the search for a starting point


def init(F: int, strength, key: jax.Array, x: jax.Array, y: jax.Array) -> SearchState:
    """The state before the first query, with F checkpoints."""
    del strength
    zero, infinity, corner = jnp.float32(0), jnp.float32(jnp.inf), farthest_corner(x)
    distance, D = directions.norm(corner - x), int(np.prod(directions.basis_shape(x.size)))
    return SearchState(
        key=key, x=x, y=y, best=corner, distance=distance, found=jnp.bool_(False), distances=jnp.full(F, infinity),
        checkpoint=jnp.int32(0), path_start=corner, tangent=jnp.zeros_like(x), tangent_scale=jnp.float32(1), query=x,
        query_angle=zero, adversarial_angle=zero, original_angle=_RIGHT_ANGLE, first_angle=_RIGHT_ANGLE / 2,
        gradient=jnp.zeros_like(x), answers=jnp.zeros(D), line_parts=jnp.zeros(D),
        signs=directions.signs(jax.random.fold_in(key, 1), D), bases_used=jnp.int32(0), row=jnp.int32(0), centre=zero,
        centre_step=zero, mean_answer=zero, ray=rays.init(1, (), jax.random.fold_in(key, _RAY_KEY), x, y),
    )  # fmt: skip


def ask_starts(count: int, key, state: SearchState) -> jax.Array:
    """Starting points [count *x]: uniform noise (the paper's), and last the farthest corner, most different from x."""
    del key
    words = randomness.bits(jax.random.fold_in(state.key, 0), count * state.x.size).reshape(count, *state.x.shape)
    return ((words >> 8) * np.float32(2**-24)).at[-1].set(farthest_corner(state.x))


def tell_starts(count: int, state: SearchState, labels: jax.Array) -> SearchState:
    """The state that begins the first line search at the nearest adversarial starting point."""
    state = _update_best(state, ask_starts(count, None, state), labels)
    return _query_at(state._replace(path_start=state.best), _RIGHT_ANGLE / 2)


def tell_ray(state: SearchState, labels: jax.Array) -> SearchState:
    """The state after one query along random rays; it begins the first line search at the nearest point so far."""
    state = _update_best(state, rays.next_query(state.ray)[None], labels)
    ray = rays.tell(_RAY_BISECTIONS, state.ray, labels)
    return _query_at(state._replace(ray=ray, path_start=state.best), _RIGHT_ANGLE / 2)


def _update_best(state: SearchState, queries: jax.Array, labels: jax.Array) -> SearchState:
    """The state whose `best` is the nearest adversarial one of `queries` [Q *x], where it is nearer than before."""
    lengths = jnp.where(labels != state.y, jax.vmap(lambda z: directions.norm(z - state.x))(queries), jnp.inf)
    i = lengths.argmin()
    nearer = lengths[i] < state.distance
    best, distance = jnp.where(nearer, queries[i], state.best), jnp.where(nearer, lengths[i], state.distance)
    return state._replace(best=best, distance=distance, found=state.found | jnp.isfinite(lengths[i]))


def _path(state: SearchState, angle: jax.Array) -> jax.Array:
    """The point at an angle on the semicircle from `path_start` (0) to x (a right angle); a line if tangent is 0."""
    # Not a sum of two products: either may be fused with the addition, and a lone point's is not a batch's.
    cos, sin = jnp.cos(angle), jnp.sin(angle) * state.tangent_scale
    return jnp.clip(state.x + (cos * sin) * (state.tangent + (cos / sin) * (state.path_start - state.x)), 0, 1)


def _query_at(state: SearchState, angle: jax.Array) -> SearchState:
    return state._replace(query_angle=angle, query=_path(state, angle))


def tell_search(state: SearchState, labels: jax.Array) -> SearchState:
    """The state after one bisection of the path."""
    adversarial = labels[0] != state.y
    state = _update_best(state, state.query[None], labels)
    adversarial_angle = jnp.where(adversarial, state.query_angle, state.adversarial_angle)
    original_angle = jnp.where(adversarial, state.original_angle, state.query_angle)
    state = state._replace(adversarial_angle=adversarial_angle, original_angle=original_angle)
    return _query_at(state, (adversarial_angle + original_angle) / 2)


def ask_points(angles: tuple[float, ...], key, state: SearchState) -> jax.Array:
    """The points [Q *x] at these angles of the path."""
    del key
    return jax.vmap(partial(_path, state))(jnp.asarray(angles, jnp.float32))


def tell_points(angles: tuple[float, ...], state: SearchState, labels: jax.Array) -> SearchState:
    """The state with the bracket at the adversarial point farthest along the path."""
    state = _update_best(state, ask_points(angles, None, state), labels)
    ends = jnp.asarray((np.pi / 2, *angles, 0), jnp.float32)
    i = jnp.where((labels != state.y).any(), (labels != state.y).argmax(), len(angles))
    state = state._replace(adversarial_angle=ends[i + 1], original_angle=ends[i])
    return _query_at(state, (state.adversarial_angle + state.original_angle) / 2)


def begin_iteration(state: SearchState) -> SearchState:
    """The state that records its distance at a checkpoint and begins a gradient estimate."""
    # Answers depend on the centre within about this distance. Smaller steps as the line nears the normal take flat
    # boundaries from 1.0016 to 1.0009 of the true distance at 2,500 queries, but digits from 1.02 to 1.08: not done.
    centre_step = jnp.float32(RADIUS / np.sqrt(state.x.size))
    return _begin_block(
        state._replace(
            distances=state.distances.at[state.checkpoint].set(jnp.where(state.found, state.distance, jnp.inf)),
            checkpoint=state.checkpoint + 1,
            gradient=jnp.zeros_like(state.x),
            centre=jnp.float32(1),
            centre_step=centre_step,
            mean_answer=jnp.float32(0),
        )
    )


def _begin_block(state: SearchState) -> SearchState:
    """The state that goes on in its basis, or in a new one if the rows left do not fill a block."""
    m, p = directions.basis_shape(state.x.size)
    used_up = state.row + min(QUERIES_PER_BLOCK, m * p) > m * p
    bases_used = state.bases_used + used_up
    new_signs = directions.signs(jax.random.fold_in(state.key, bases_used + 1), m * p)
    signs = jnp.where(used_up, new_signs, state.signs)
    line = jnp.pad(((state.best - state.x) / state.distance).ravel(), (0, m * p - state.x.size))
    return state._replace(
        bases_used=bases_used, row=jnp.where(used_up, 0, state.row), signs=signs,
        line_parts=directions.transform(line * signs, directions.cosines(m)), answers=jnp.zeros(m * p),
    )  # fmt: skip


def _next_rows(Q: int, state: SearchState) -> tuple[jax.Array, jax.Array]:
    """The rows [Q] of the next Q directions, and their signs [Q]: -1 where a block goes through the basis again."""
    D, rows = len(state.signs), state.row + jnp.arange(Q)
    return rows % D, (1 - 2 * (rows // D % 2)).astype(jnp.float32)


def ask_gradient(Q: int, key, state: SearchState) -> jax.Array:
    """Points [Q *x] around the centre, in the next Q directions orthogonal to the line from x to the best point."""
    del key
    shape, d, (rows, row_signs) = state.x.shape, state.x.size, _next_rows(Q, state)
    signs = row_signs[:, None] * state.signs
    offsets = (directions.rows(rows, *directions.basis_shape(d)) * signs)[:, :d].reshape(Q, *shape)
    line_parts = (row_signs * state.line_parts[rows]).reshape(Q, *[1] * len(shape))
    line, radius = state.best - state.x, RADIUS * state.distance
    margin = jnp.minimum(radius * np.float32(1.5 / np.sqrt(d)), 0.5)  # the largest entry of a direction is near 1.4
    centre = jnp.clip(state.x + state.centre * line, margin, 1 - margin)
    return jnp.clip(centre + radius * offsets - (RADIUS * line_parts) * line, 0, 1)


def tell_gradient(Q: int, state: SearchState, labels: jax.Array) -> SearchState:
    """The state with these answers and the centre moved; the mean answer, where it is large, is subtracted."""
    rows, row_signs = _next_rows(Q, state)
    answers = jnp.where(labels != state.y, 1.0, -1.0)
    mean = answers.sum() / Q
    crossed, far_off = mean * state.mean_answer < 0, (mean * state.mean_answer > 0) & (jnp.abs(mean) > 0.6)
    centre_step = state.centre_step * jnp.where(crossed, 0.5, jnp.where(far_off, 2.0, 1.0))
    answers = row_signs * (answers - jnp.where(jnp.abs(mean) > 0.5, mean, 0))
    return state._replace(
        answers=state.answers.at[rows].add(answers), row=state.row + Q, mean_answer=mean, centre_step=centre_step,
        centre=jnp.clip(state.centre - centre_step * mean, 0.05, 1.5),
    )  # fmt: skip


def end_block(state: SearchState) -> SearchState:
    """The state that adds this block to the gradient estimate and begins another."""
    inverse = directions.cosines(directions.basis_shape(state.x.size)[0]).T
    block = directions.transform(state.answers, inverse) * state.signs
    return _begin_block(state._replace(gradient=state.gradient + block[: state.x.size].reshape(state.x.shape)))


def begin_step(state: SearchState) -> SearchState:
    """The state that searches the semicircle towards the estimate, without components that leave the box."""
    line = (state.best - state.x) / state.distance
    leaves_box = ((state.best <= 0) & (state.gradient < 0)) | ((state.best >= 1) & (state.gradient > 0))
    gradient = jnp.where(leaves_box, 0, state.gradient)
    tangent = gradient - directions.pairwise_sum((gradient * line).ravel()) * line
    scale = state.distance / jnp.maximum(directions.norm(tangent), 1e-12)
    state = state._replace(
        path_start=state.best, tangent=tangent, tangent_scale=scale,
        adversarial_angle=jnp.float32(0), original_angle=_RIGHT_ANGLE,
    )  # fmt: skip
    return _query_at(state, state.first_angle)


def end_step(state: SearchState) -> SearchState:
    """The state of the next iteration. Angles shrink from step to step, so the next search begins near this one's."""
    larger = jnp.minimum(1.5 * state.adversarial_angle, _RIGHT_ANGLE / 2)
    first_angle = jnp.where(state.adversarial_angle > 0, larger, state.first_angle / 4)  # 0: no angle was adversarial
    return begin_iteration(state._replace(first_angle=first_angle))
