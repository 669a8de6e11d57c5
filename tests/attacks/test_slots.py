import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.attacks import slots


@pytest.mark.parametrize("num_slots, count", [(4, 1), (4, 4), (4, 23), (32, 23)])
def test_every_point_is_put_through_as_many_turns_as_it_needs(num_slots, count):
    turns_needed = np.arange(24) * 5 % 7 + 1

    def advance(rows, busy, turns):
        turns = turns + 1
        return turns, turns >= jnp.asarray(turns_needed)[rows], jnp.stack([rows, turns], 1)

    def begin(rows):
        return jnp.zeros(num_slots, jnp.int32)

    found = np.asarray(slots.work(num_slots, jnp.int32(count), begin, advance, jnp.full((24, 2), -1)))
    assert (found[:count] == np.stack([np.arange(count), turns_needed[:count]], 1)).all()
    assert (found[count:] == -1).all()


def test_a_free_slot_takes_the_next_point_at_once():
    """Two slots and points of 6, 1, 1, 1, 1, 1 turns: one slot does the first, the other all the rest."""
    turns_needed, total = jnp.array([6, 1, 1, 1, 1, 1]), []

    def advance(rows, busy, turns):
        jax.debug.callback(lambda _: total.append(1), rows)
        return turns + 1, turns + 1 >= turns_needed[rows], rows

    slots.work(2, jnp.int32(6), lambda rows: jnp.zeros(2, jnp.int32), advance, jnp.zeros(6, jnp.int32))
    jax.effects_barrier()
    assert len(total) == 6


def losses(weights, rows, x):
    return jnp.sin(x @ weights)


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_gradients_are_those_of_the_models_that_a_row_needs(share):
    rng = np.random.default_rng(0)
    x, models = rng.random((24, 3), np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    needed = rng.random((5, 24)) < share

    def total(x):
        each = jnp.where(needed, jnp.sin(models @ x.T), 0)  # [C B]
        return each.sum(), each.sum(0)

    (_, expected), expected_gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(x))
    found, gradient = jax.jit(slots.summed_gradients, static_argnums=(0, 1))(8, losses, models, needed, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # sums of at most 5 numbers below 1
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


def test_a_model_that_no_row_needs_is_not_run():
    models = np.array([[1.0, 2.0], [np.nan, np.nan]], np.float32)
    needed = np.array([[True] * 8, [False] * 8])
    found, gradient = slots.summed_gradients(4, losses, models, needed, jnp.ones((8, 2)))
    assert np.isfinite(found).all() and np.isfinite(gradient).all()


def test_rows_are_padded_with_zeros_to_whole_blocks():
    ones, numbers = slots.padded((np.ones((5, 2)), np.arange(5)), 4)
    assert ones.shape == (8, 2) and ones.sum() == 10 and numbers.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert slots.padded((np.ones((8, 2)),), 4)[0].shape == (8, 2)
