"""The batches of an epoch: all rows of a member in random order or, with augmentation, all (row, neighbour) pairs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mi_jax.types import Array, Perturbation


class EpochSizes(NamedTuple):
    """The sizes of an epoch, all known at compile time."""

    num_neighbours: int  # M, of each row
    num_pairs: int  # n M
    batch_size: int  # pairs in a batch
    num_steps: int  # batches


def plan_epoch(n: int, batch_size: int, augmentation: Perturbation | None, x_pool: Array) -> EpochSizes:
    """Returns the sizes of an epoch over n rows. The last batch may hold fewer pairs; padding then fills it up."""
    num_neighbours = 1 if augmentation is None else neighbours_shape(augmentation, x_pool.shape[1:])[0]
    num_pairs = n * num_neighbours
    batch_size = min(batch_size, num_pairs)
    return EpochSizes(num_neighbours, num_pairs, batch_size, -(-num_pairs // batch_size))


def shuffle_pairs(key: jax.Array, sizes: EpochSizes) -> tuple[jax.Array, jax.Array]:
    """Returns (pairs, weights), both [num_steps batch_size]; pair p is neighbour p % M of row p // M.

    Every pair has weight 1. The last batch is filled up with pairs of the same member, of weight 0.
    """
    shape = (sizes.num_steps, sizes.batch_size)
    pairs = jnp.resize(jax.random.permutation(key, sizes.num_pairs), shape)
    weights = (jnp.arange(pairs.size) < sizes.num_pairs).astype(jnp.float32).reshape(shape)
    return pairs, weights


def pair_reader(key: jax.Array, rows: jax.Array, x_pool: jax.Array, y_pool: jax.Array,
                augmentation: Perturbation | None,
                num_neighbours: int) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:  # fmt: skip
    """Returns a function: pairs [B] -> (x [B *x], y [B]) of a member's rows.

    Random neighbours depend on `key` and on the number of the pair only.
    """

    def read_rows(pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch_rows = rows[pairs // num_neighbours]
        return x_pool[batch_rows], y_pool[batch_rows]

    if augmentation is None:
        return read_rows

    def read_neighbour(pair: jax.Array, x: jax.Array) -> jax.Array:
        return augmentation(jax.random.fold_in(key, pair), x)[pair % num_neighbours]

    def read_neighbours(pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, y = read_rows(pairs)
        return jax.vmap(read_neighbour)(pairs, x), y

    return read_neighbours


def shuffle_reference(key: jax.Array, reference: jax.Array, sizes: EpochSizes) -> jax.Array:
    """Returns reference rows [num_steps batch_size] in random order, each of [m] repeated as often as needed."""
    return jnp.resize(jax.random.permutation(key, reference), (sizes.num_steps, sizes.batch_size))


def neighbours_shape(augmentation: Perturbation, example_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns (M, *x), the shape of an example's neighbours under an augmentation."""
    example = jax.ShapeDtypeStruct(example_shape, jnp.float32)
    return jax.eval_shape(augmentation, jax.random.key(0), example).shape
