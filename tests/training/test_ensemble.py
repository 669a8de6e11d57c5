"""An ensemble is its members trained one by one; each sees its own rows only and stops for itself, as in Keras."""

import contextlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mi_jax import models, perturbations, store, training
from mi_jax.training import ensemble, steps
from mi_jax.training.ensemble import train, train_ensemble
from mi_jax.types import AdversarialRegularizer, Defense, Model, Recipe

KEY = jax.random.key(7)
RECIPE = Recipe(batch_size=16, max_epochs=6)
# Rounding of float32 sums in another order, a few dozen Adam steps of at most 1e-3 each later.
ROUNDING = {"rtol": 0, "atol": 1e-5}


def blobs(num_rows=120, features=9, classes=4, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, num_rows)
    centres = random.random((classes, features))
    x = np.clip(centres[y] + 0.3 * random.normal(size=(num_rows, features)), 0, 1)
    return x.astype(np.float32), y


def some_members(num_models, n, num_rows=120, seed=1):
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(num_rows)[:n] for _ in range(num_models)])


def member(params, k):
    return jax.tree.map(lambda leaf: leaf[k], params)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, **tolerance), a, b)


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


MLP = models.build("mlp:12", (9,), 4)
CNN = models.build("cnn", (10, 10, 1), 4)


def small_conv_init(key, x):
    return {"kernel": jax.random.normal(key, (3, 3, 1, 4)) / 3, "dense": jnp.zeros((4 * 2 * 2, 4))}


def small_conv_apply(params, x, key=None):
    x = jnp.maximum(models.conv3x3(x, params["kernel"], 0), 0)
    return models.max_pool(x, key is not None).reshape(len(x), -1) @ params["dense"]


SMALL_CONV = Model(small_conv_init, small_conv_apply)  # compiles in a tenth of the time of the whole cnn


def linear_init(key, x):
    return jnp.zeros((x.shape[1], 2))


def linear_apply(params, x, key=None):
    return x @ params


LINEAR = Model(linear_init, linear_apply)


def and_negative(key, x):
    return jnp.stack([x, 1 - x])


def and_noisy(key, x):
    return jnp.stack([x, jnp.clip(x + 0.1 * jax.random.normal(key, x.shape), 0, 1)])


@pytest.mark.parametrize("models_at_once", [None, 2, 3])
def test_ensemble_equals_single_runs(models_at_once):
    (x, y), members = blobs(), some_members(3, 25)  # the last batch of 16 is partial
    params, history = train_ensemble(KEY, MLP, RECIPE, x, y, members, models_at_once=models_at_once)
    assert history.epochs.tolist() == [6, 6, 6] and history.loss.shape == (3,)
    for k, rows in enumerate(members):
        alone, single = train(jax.random.fold_in(KEY, k), MLP, RECIPE, x[rows], y[rows])
        assert_close(member(params, k), alone, **ROUNDING)
        np.testing.assert_allclose(history.loss[k], single.loss, **ROUNDING)


@pytest.mark.parametrize("models_at_once", [None, 2])
def test_convolutional_ensemble_equals_single_runs(models_at_once):
    _, y = blobs(20)
    x = np.random.default_rng(2).random((20, 6, 6, 1), np.float32)
    members, recipe = some_members(2, 12, 20), Recipe(batch_size=8, max_epochs=3)
    params, _ = train_ensemble(KEY, SMALL_CONV, recipe, x, y, members, models_at_once=models_at_once)
    for k, rows in enumerate(members):
        alone, _ = train(jax.random.fold_in(KEY, k), SMALL_CONV, recipe, x[rows], y[rows])
        assert_close(member(params, k), alone, **ROUNDING)


@pytest.mark.slow
def test_cnn_learns_its_rows_by_heart():
    x, y = np.random.default_rng(2).random((40, 10, 10, 1), np.float32), np.arange(40) % 4
    params, history = train(KEY, CNN, Recipe(batch_size=16, max_epochs=120), x, y)
    assert np.array_equal(jnp.argmax(CNN.apply(params, x), 1), y) and history.loss < 0.1


def test_same_arguments_train_the_same_bits():
    (x, y), members = blobs(), some_members(3, 25)
    first = train_ensemble(KEY, MLP, RECIPE, x, y, members)
    assert_identical(first, train_ensemble(KEY, MLP, RECIPE, x, y, members))


@pytest.mark.parametrize("models_at_once, augmentation", [(1, None), (3, None), (3, and_noisy)])
def test_rows_of_others_leave_a_model_identical_to_the_bit(models_at_once, augmentation):
    (x, y), members, options = (
        blobs(),
        some_members(3, 25),
        {"models_at_once": models_at_once, "defense": Defense(augmentation=augmentation)},
    )
    clean, _ = train_ensemble(KEY, MLP, RECIPE, x, y, members, **options)
    for k in range(3):
        own = np.isin(np.arange(len(x)), members[k])
        poisoned = np.where(own[:, None], x, np.nan).astype(np.float32)
        same = np.tile(members[k], (3, 1))  # the other members train on clean rows too, or their loss would raise
        params, _ = train_ensemble(KEY, MLP, RECIPE, poisoned, y, same, **options)
        assert_identical(member(params, k), member(clean, k))


@pytest.mark.parametrize("models_at_once", [1, 5])
def test_each_member_stops_for_itself_in_the_middle_of_a_block(models_at_once):
    (x, y), members = blobs(), some_members(5, 40)
    recipe = Recipe(batch_size=16, learning_rate=0.05, max_epochs=60, min_delta=0.02, patience=3)
    params, history = train_ensemble(KEY, MLP, recipe, x, y, members, models_at_once=models_at_once)
    assert len(set(history.epochs.tolist())) > 1 and np.any(history.epochs % 10)
    for k, rows in enumerate(members):
        alone, single = train(jax.random.fold_in(KEY, k), MLP, recipe, x[rows], y[rows])
        assert history.epochs[k] == single.epochs
        # Some hundred steps of up to 0.05 each let rounding grow; weights one epoch further on are 1e-2 away.
        assert_close(member(params, k), alone, rtol=0, atol=1e-3)


def test_large_epochs_make_short_blocks_and_the_same_weights(monkeypatch):
    (x, y), members, recipe, found = blobs(), some_members(1, 40), RECIPE._replace(max_epochs=12), {}
    for pairs in (400, 199, 1):
        monkeypatch.setattr(steps, "_BLOCK_PAIRS", pairs)
        ensemble._run_group_block.clear_cache()
        epochs = []
        trained = train_ensemble(
            KEY, MLP, recipe, x, y, members, progress=lambda *at, message=epochs: message.append(at[2])
        )
        found[pairs] = trained, epochs
    ensemble._run_group_block.clear_cache()
    assert [epochs for _, epochs in found.values()] == [[10, 12], [4, 8, 12], list(range(1, 13))]
    assert_identical(found[199][0], found[400][0])
    assert_identical(found[1][0], found[400][0])


def epochs_until_keras_stops(losses, min_delta, patience):
    best, waited = np.inf, 0
    for epoch, loss in enumerate(losses, 1):
        if loss + min_delta < best:
            best, waited = loss, 0
            continue
        waited += 1
        if waited >= patience:
            return epoch
    return len(losses)


@pytest.mark.parametrize("seed", range(5))
def test_stopping_rule_is_that_of_keras(seed):
    losses = np.abs(np.random.default_rng(seed).normal(size=40)).cumsum()[::-1] / 8  # falls, by steps near min_delta
    recipe = Recipe(max_epochs=40, min_delta=0.15, patience=3)
    inputs, spec = steps.MemberInputs(jnp.arange(9), jnp.arange(0), ()), steps.TrainSpec(MLP, recipe, Defense())
    state = steps.init_state(KEY, inputs, jnp.zeros((1, 9)), jnp.zeros(1, jnp.int32), spec)
    while state.running:
        state = steps._check_stop(state, jnp.float32(losses[state.epoch]), recipe)
    assert state.epoch == epochs_until_keras_stops(losses.astype(np.float32), 0.15, 3)


def adam_epoch(batches, x, y, rate):
    """Returns the weights [features 2] of a softmax regression after one Adam step for each batch of rows."""
    w, m, v = np.zeros((3, x.shape[1], 2))
    for t, rows in enumerate(batches, 1):
        odds = np.exp(x[rows] @ w)
        error = odds / odds.sum(1, keepdims=True) - np.eye(2)[y[rows]]
        g = x[rows].T @ error / len(rows)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
    return w


def test_an_epoch_is_adam_over_some_order_of_the_rows_with_the_partial_batch_kept():
    x, y = np.random.default_rng(3).random((3, 4)).astype(np.float32), np.array([0, 1, 1])
    recipe = Recipe(batch_size=2, learning_rate=0.1, max_epochs=1)
    expected = [adam_epoch([order[:2], order[2:]], x, y, 0.1) for order in map(list, itertools.permutations(range(3)))]
    seen = set()
    for seed in range(12):
        params, _ = train(jax.random.key(seed), LINEAR, recipe, x, y)
        distances = [np.abs(params - w).max() for w in expected]
        assert min(distances) < 1e-5  # float32 against float64, two steps of 0.1
        seen.add(round(float(expected[int(np.argmin(distances))][0, 0]), 4))
    assert len(seen) == 3  # which row came alone: each of the three within twelve seeds (miss: 3 (2/3)^12 = 2 %)


def test_loss_of_an_epoch_is_the_mean_over_rows_and_not_over_batches():
    x, y = blobs(7, classes=2)
    recipe = Recipe(batch_size=3, learning_rate=1e-30, max_epochs=1)
    fixed = Model(lambda key, x: jnp.zeros(()), lambda params, x, key=None: x[:, :2] + params)
    logits = x[:, :2].astype(float)
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(7), y])
    params, history = train(KEY, fixed, recipe, x, y)
    np.testing.assert_allclose(history.loss, expected, rtol=1e-5)  # float32 against float64
    assert params.shape == ()


def test_fewer_rows_than_a_batch_train_as_one_batch():
    x, y = blobs(5, classes=2)
    params, _ = train(KEY, LINEAR, Recipe(batch_size=100, max_epochs=1), x, y)
    np.testing.assert_allclose(params, adam_epoch([list(range(5))], x, y, 1e-3), rtol=0, atol=1e-6)


def test_order_of_the_rows_is_drawn_from_the_key_of_the_member_and_the_epoch():
    """Pins the draws, so that whoever adds to an epoch finds out that old results change."""
    x, y = np.random.default_rng(3).random((7, 4)).astype(np.float32), np.arange(7) % 2
    epoch_key = jax.random.fold_in(jax.random.split(KEY)[1], 0)
    order = jax.random.permutation(jax.random.split(epoch_key)[0], np.arange(7)).tolist()
    params, _ = train(KEY, LINEAR, Recipe(batch_size=3, learning_rate=0.1, max_epochs=1), x, y)
    expected = adam_epoch([order[:3], order[3:6], order[6:]], x, y, 0.1)
    np.testing.assert_allclose(params, expected, rtol=0, atol=1e-5)  # float32, three steps of 0.1; other orders: 1e-2


FROZEN = Recipe(batch_size=4, learning_rate=1e-30, max_epochs=1)
# The loss of an example is its one feature, exactly from 20 on: log(e^0 + e^x) in float32.
LOSS_IS_X = Model(lambda key, x: jnp.zeros(()), lambda params, x, key=None: jnp.pad(x, ((0, 0), (1, 0))) + params)


def times_one_four_sixteen(key, x):
    return jnp.stack([x, 4 * x, 16 * x])


@pytest.mark.parametrize("batch_size", [1, 2, 4, 16])  # 9 pairs: a last batch of 1, or all of them in one
def test_an_epoch_covers_each_pair_of_a_row_and_a_neighbour_exactly_once(batch_size):
    x, y = np.float32(32 * 64.0 ** np.arange(3))[:, None], np.zeros(3, int)  # pairs: 32 times 4^0 .. 4^8
    _, history = train(
        KEY,
        LOSS_IS_X,
        FROZEN._replace(batch_size=batch_size),
        x,
        y,
        defense=Defense(augmentation=times_one_four_sixteen),
    )
    total = round(9 * float(history.loss) / 32)  # sums of 18 bits are exact; the division by 9 is far from half of 32
    assert [total // 4**pair % 4 for pair in range(9)] == [1] * 9 and total < 4**9


def drawn(key, x):
    return 32 + 1024 * jax.random.uniform(key, (2, *x.shape))


def test_every_pair_draws_for_itself_in_every_epoch():
    x, y = np.zeros((3, 1), np.float32), np.zeros(3, int)
    member_key, losses = jax.random.split(KEY)[1], []
    for epoch in range(2):
        pairs_key = jax.random.fold_in(jax.random.fold_in(member_key, epoch), 2)
        pairs = [drawn(jax.random.fold_in(pairs_key, p), x[p // 2])[p % 2] for p in range(6)]
        assert len({float(value[0]) for value in pairs}) == 6
        _, history = train(
            KEY, LOSS_IS_X, FROZEN._replace(max_epochs=epoch + 1), x, y, defense=Defense(augmentation=drawn)
        )
        np.testing.assert_allclose(history.loss, np.mean(pairs), rtol=1e-6)  # a float32 sum of six
        losses.append(float(history.loss))
    assert losses[0] != losses[1]


def test_an_epoch_over_neighbours_is_adam_over_some_order_of_the_pairs_with_the_partial_batch_kept():
    x, y = np.random.default_rng(3).random((2, 4)).astype(np.float32), np.array([0, 1])
    recipe = Recipe(batch_size=3, learning_rate=0.1, max_epochs=1)
    pairs, labels = np.stack([x, 1 - x], 1).reshape(4, 4), np.repeat(y, 2)
    orders = map(list, itertools.permutations(range(4)))
    expected = [adam_epoch([order[:3], order[3:]], pairs, labels, 0.1) for order in orders]
    seen = set()
    for seed in range(20):
        params, _ = train(jax.random.key(seed), LINEAR, recipe, x, y, defense=Defense(augmentation=and_negative))
        distances = [np.abs(params - w).max() for w in expected]
        assert min(distances) < 1e-5  # float32 against float64, two steps of 0.1
        seen.add(round(float(expected[int(np.argmin(distances))][0, 0]), 4))
    assert len(seen) == 4  # which pair came alone: each of the four within twenty seeds (miss: 4 (3/4)^20 = 1.3 %)


def test_a_row_that_is_its_own_only_neighbour_trains_the_same_bits_as_no_augmentation():
    (x, y), members = blobs(), some_members(3, 25)
    plain = train_ensemble(KEY, MLP, RECIPE, x, y, members)
    assert_identical(
        plain, train_ensemble(KEY, MLP, RECIPE, x, y, members, defense=Defense(augmentation=perturbations.only_itself))
    )


def test_an_ensemble_on_neighbours_equals_single_runs():
    (x, y), members = blobs(), some_members(3, 25)  # 50 pairs: the last batch of 16 holds two
    params, history = train_ensemble(
        KEY, MLP, RECIPE, x, y, members, models_at_once=3, defense=Defense(augmentation=and_noisy)
    )
    for k, rows in enumerate(members):
        alone, single = train(
            jax.random.fold_in(KEY, k), MLP, RECIPE, x[rows], y[rows], defense=Defense(augmentation=and_noisy)
        )
        assert_close(member(params, k), alone, **ROUNDING)
        np.testing.assert_allclose(history.loss[k], single.loss, **ROUNDING)


def test_images_and_their_shifts_train_an_ensemble_as_they_train_one_model():
    _, y = blobs(20)
    x = np.random.default_rng(2).random((20, 6, 6, 1), np.float32)
    members, recipe = some_members(2, 12, 20), Recipe(batch_size=8, max_epochs=2)
    shifts = perturbations.translate(1)
    params, _ = train_ensemble(
        KEY, SMALL_CONV, recipe, x, y, members, models_at_once=2, defense=Defense(augmentation=shifts)
    )
    for k, rows in enumerate(members):
        alone, _ = train(
            jax.random.fold_in(KEY, k), SMALL_CONV, recipe, x[rows], y[rows], defense=Defense(augmentation=shifts)
        )
        assert_close(member(params, k), alone, **ROUNDING)


@pytest.mark.parametrize(
    "augmentation, message",
    [
        (lambda key, x: x, r"augmentation: returned shape \(9,\), expected \(M, 9\) with M >= 1"),
        (lambda key, x: x.sum(), r"augmentation: returned shape \(\), expected \(M, 9\)"),
        (lambda key, x: x[None][:0], r"augmentation: returned shape \(0, 9\), expected \(M, 9\)"),
        (perturbations.translate(1), r"translate\(1\): example of shape \(9,\), expected an image"),
    ],
)
def test_neighbours_that_are_no_examples_are_refused_before_training(augmentation, message):
    (x, y), calls = blobs(), []
    with pytest.raises(ValueError, match=message):
        train_ensemble(
            KEY,
            MLP,
            RECIPE,
            x,
            y,
            some_members(2, 20),
            defense=Defense(augmentation=augmentation),
            progress=lambda *state: calls.append(state),
        )
    with pytest.raises(ValueError, match=message):
        train(KEY, MLP, RECIPE, x, y, defense=Defense(augmentation=augmentation))
    assert not calls


def squared(strength, params):
    return strength * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def test_a_penalty_is_in_the_gradient_and_in_the_loss():
    x, y = blobs()
    recipe = Recipe(batch_size=16, max_epochs=20)
    free, plain = train(KEY, MLP, recipe, x, y)
    held, penalised = train(KEY, MLP, recipe, x, y, defense=Defense(strength=0.1, penalty=squared))
    assert squared(1.0, held) < 0.5 * squared(1.0, free)
    constant, shifted = train(
        KEY, MLP, recipe, x, y, defense=Defense(penalty=lambda strength, params: jnp.float32(3.0))
    )
    np.testing.assert_allclose(shifted.loss, plain.loss + 3, rtol=1e-5)  # float32 sums of another size
    assert_close(constant, free, **ROUNDING)
    assert penalised.loss > plain.loss


def test_averaged_weights_are_the_running_mean_of_those_after_every_step():
    x, y = blobs(20)
    recipe = Recipe(batch_size=20, max_epochs=1, patience=None)
    after = [train(KEY, MLP, recipe._replace(max_epochs=e), x, y)[0] for e in (1, 2, 3)]
    begun = steps.init_state(
        KEY, steps.MemberInputs(jnp.arange(20), jnp.arange(0), ()), x, y, steps.TrainSpec(MLP, recipe, Defense())
    )
    mean = begun.params
    for step, params in enumerate(after):
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, 0.15, 0.15
        mean = jax.tree.map(lambda m, p, decay=decay: decay * m + (1 - decay) * p, mean, params)
    found, _ = train(KEY, MLP, recipe._replace(max_epochs=3, average=0.15), x, y)
    assert_close(found, mean, **ROUNDING)


def test_the_rate_of_nesterov_falls_along_the_cosine_of_fixmatch():
    rate = steps._cosine(0.03, 100)
    np.testing.assert_allclose([rate(0), rate(100)], [0.03, 0.03 * np.cos(7 * np.pi / 16)], rtol=1e-6)


def test_an_unknown_optimizer_is_refused():
    x, y = blobs()
    with pytest.raises(ValueError, match="optimizer='lion', expected one of adam, sgd, nesterov_cosine"):
        train(KEY, MLP, RECIPE._replace(optimizer="lion"), x, y)


def lion(rate, steps):
    return optax.lion(rate)


def test_an_optimizer_may_be_an_object_or_registered_and_trains_the_same_bits(monkeypatch):
    (x, y), recipe = blobs(), RECIPE._replace(max_epochs=2)
    adam = steps.OPTIMIZERS["adam"](1e-3, 1)
    assert_identical(train(KEY, MLP, recipe._replace(optimizer=adam), x, y), train(KEY, MLP, recipe, x, y))
    monkeypatch.setitem(steps.OPTIMIZERS, "lion", lion)
    params, _ = train(KEY, MLP, recipe._replace(optimizer="lion"), x, y)
    assert_identical(params, train(KEY, MLP, recipe._replace(optimizer=optax.lion(1e-3)), x, y)[0])


@pytest.mark.parametrize(
    "optimizer, message",
    [
        (optax.lbfgs(), "recipe: optimizer=an object: TypeError: .*missing .*'value'"),
        (optax.MultiSteps(optax.sgd(0.1), 2), "recipe: optimizer of type MultiSteps, expected one of adam, sgd, nest"),
        (lion, "recipe: optimizer of type function, expected one of adam, .*, or an optax.GradientTransformation"),
        ("none", "recipe: optimizer=none: OPTIMIZERS makes a NoneType, expected"),
        ("slow", r"recipe: optimizer=slow: TypeError: .*takes 1 positional argument"),
    ],
)
def test_what_is_no_optimizer_of_gradients_is_refused(optimizer, message, monkeypatch):
    (x, y), made = blobs(), {"none": lambda rate, steps: None, "slow": lambda rate: optax.sgd(rate)}
    for name, make in made.items():
        monkeypatch.setitem(steps.OPTIMIZERS, name, make)
    with pytest.raises(ValueError, match=message) as caught:
        train(KEY, MLP, RECIPE._replace(optimizer=optimizer), x, y)
    assert "\n" not in str(caught.value)


def test_a_learning_rate_beside_an_optimizer_object_is_refused():
    x, y = blobs()
    with pytest.raises(ValueError, match="recipe: learning_rate=0.5, expected none beside an optimizer object"):
        train(KEY, MLP, RECIPE._replace(optimizer=optax.sgd(0.1), learning_rate=0.5), x, y)


def smoothed(strength, key, predict, x, y):
    logits = predict(x)
    targets = optax.smooth_labels(jax.nn.one_hot(y, logits.shape[-1]), strength)
    return optax.softmax_cross_entropy(logits, targets)


def test_the_loss_of_a_defense_takes_the_place_of_the_cross_entropy():
    (x, y), recipe = blobs(20), Recipe(batch_size=20, max_epochs=1, patience=None, optimizer="sgd", learning_rate=0.1)
    plain, history = train(KEY, MLP, recipe, x, y)
    zero, same = train(KEY, MLP, recipe, x, y, defense=Defense(strength=0.0, loss=smoothed))
    assert_close(zero, plain, **ROUNDING)
    np.testing.assert_allclose(same.loss, history.loss, rtol=1e-6)
    held, reported = train(KEY, MLP, recipe, x, y, defense=Defense(strength=0.4, loss=smoothed))  # the same program
    first = MLP.init(jax.random.split(KEY)[0], x[:1])

    def by_hand(params):
        log_p = jax.nn.log_softmax(MLP.apply(params, x))
        return -(0.6 * log_p[np.arange(20), y] + 0.1 * log_p.sum(1)).mean()

    expected = jax.tree.map(lambda w, g: w - 0.1 * g, first, jax.grad(by_hand)(first))
    assert_close(held, expected, **ROUNDING)
    np.testing.assert_allclose(reported.loss, by_hand(first), rtol=1e-5)


def x_of(strength, key, predict, x, y):
    return strength * x[:, 0] + 0 * predict(x)[:, 0]


def test_rows_that_fill_up_a_batch_do_not_count_in_the_loss_of_a_defense():
    x, y = np.float32([[1], [10], [100]]), np.zeros(3, int)
    defense = Defense(strength=1.0, loss=x_of)
    _, history = train(KEY, LINEAR, FROZEN._replace(batch_size=2), x, y, defense=defense)
    np.testing.assert_allclose(history.loss, 37, rtol=1e-6)


def test_strengths_of_a_loss_are_one_program(monkeypatch):
    limit_traces(monkeypatch, 1)
    (x, y), members, strengths = blobs(), some_members(2, 20), np.float32([0.0, 0.3])
    model, defense = models.mlp((9,), 4, hidden=(6,)), Defense(strength=0.0, loss=smoothed)
    recipe = Recipe(batch_size=16, max_epochs=2)
    together, _ = train_ensemble(
        KEY, model, recipe, x, y, members, defense=defense, strengths=strengths, models_at_once=1
    )
    for g, strength in enumerate(strengths):
        alone, _ = train_ensemble(
            KEY, model, recipe, x, y, members, defense=defense._replace(strength=strength), models_at_once=1
        )
        jax.tree.map(lambda a, b, g=g: np.testing.assert_array_equal(a[g], b), together, alone)


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda *_: 3.0, r"defense loss: float32 of shape \(\) for 3 examples, expected float32 losses of shape"),
        (lambda strength, key, predict, x, y: predict(x), r"defense loss: float32 of shape \(3, 4\) for 3 examples"),
        (lambda strength, key, predict, x, y: y, r"defense loss: int32 of shape \(3,\) for 3 examples"),
        (lambda predict, x, y: predict(x), "defense loss: TypeError: .* takes 3 positional arguments"),
    ],
)  # fmt: skip
def test_a_loss_that_gives_no_losses_is_refused_before_training(loss, message):
    x, y = blobs()
    with pytest.raises(ValueError, match=message):
        train(KEY, MLP, RECIPE, x, y, defense=Defense(loss=loss))


@pytest.mark.parametrize("field", ["adversary", "mechanism", "frozen"])
def test_a_loss_excludes_fields_that_need_plain_rows(field):
    x, y = blobs()
    with pytest.raises(ValueError, match="^defense in training: "):
        train(KEY, MLP, RECIPE, x, y, defense=Defense(loss=smoothed, **{field: lambda *_: None}))


def limit_traces(monkeypatch, n):
    """Lets the training block be traced, and so compiled, at most n times; one time more fails."""
    block = chex.assert_max_traces(ensemble._run_group_block.__wrapped__, n=n)
    block = jax.jit(block, static_argnames=("spec", "vmapped"), donate_argnums=0)
    monkeypatch.setattr(ensemble, "_run_group_block", block)


def test_compilations_do_not_grow_with_members_groups_epochs_or_strengths(monkeypatch):
    limit_traces(monkeypatch, 1)
    (x, y), recipe = blobs(), Recipe(batch_size=16, max_epochs=25, patience=30)
    model = models.mlp((9,), 4, hidden=(5,))
    before = ensemble._init_group._cache_size()
    for strength in (0.1, 0.2):
        for num_models in (3, 4, 7):  # groups of two, the last one filled up
            members = some_members(num_models, 30)
            defense = Defense(strength=strength, penalty=squared)
            train_ensemble(KEY, model, recipe, x, y, members, defense=defense, models_at_once=2)
    assert ensemble._init_group._cache_size() - before == 1


def test_one_program_serves_all_models_that_are_trained_on_the_same_neighbours(monkeypatch):
    limit_traces(monkeypatch, 2)
    x, y = np.random.default_rng(2).random((20, 5, 5, 1), np.float32), np.arange(20) % 4
    model, recipe = models.mlp((5, 5, 1), 4, hidden=(3,)), Recipe(batch_size=8, max_epochs=2)
    for d in (1, 1, 2, 1):
        augmentation = perturbations.translate(d)
        train_ensemble(
            KEY,
            model,
            recipe,
            x,
            y,
            some_members(2, 12, 20),
            defense=Defense(augmentation=augmentation),
            models_at_once=1,
        )


def test_one_trace_too_many_fails(monkeypatch):
    limit_traces(monkeypatch, 1)
    x, y = blobs()
    for width in (3, 4):
        with pytest.raises(AssertionError, match="traced") if width == 4 else contextlib.nullcontext():
            model = models.mlp((9,), 4, hidden=(width,))
            train_ensemble(KEY, model, Recipe(max_epochs=1), x, y, some_members(1, 12), models_at_once=1)


@pytest.mark.parametrize("models_at_once, augmentation", [(1, None), (2, None), (2, and_noisy)])
def test_a_stopped_training_goes_on_where_it_was_to_the_same_bits(models_at_once, augmentation, tmp_path):
    x, y = blobs()
    members, options = (
        some_members(5, 30),
        {"models_at_once": models_at_once, "defense": Defense(augmentation=augmentation)},
    )

    class Stop(Exception):
        pass

    def stop_after_three(done, total, epoch):
        if done >= 3:
            raise Stop

    message = []
    whole = train_ensemble(KEY, MLP, RECIPE, x, y, members, **options)
    keep = store.cache_in(tmp_path)
    with pytest.raises(Stop):
        train_ensemble(KEY, MLP, RECIPE, x, y, members, cache=keep, progress=stop_after_three, **options)
    finished = len(list(tmp_path.iterdir()))
    again = train_ensemble(
        KEY, MLP, RECIPE, x, y, members, cache=keep, progress=lambda *now: message.append(now), **options
    )
    assert_identical(again, whole)
    assert finished == {1: 2, 2: 1}[models_at_once] and min(done for done, *_ in message) > 2  # none trained again


def test_progress_counts_members_and_epochs():
    (x, y), members, message = blobs(), some_members(3, 30), []
    recipe = Recipe(batch_size=16, max_epochs=15)
    train_ensemble(KEY, MLP, recipe, x, y, members, models_at_once=2, progress=lambda *state: message.append(state))
    assert message == [(0, 3, 10), (2, 3, 15), (2, 3, 10), (3, 3, 15)]


def test_default_is_one_model_for_each_cpu_and_all_models_on_an_accelerator(monkeypatch):
    images, table = jnp.zeros((1, 10, 10, 1)), jnp.zeros((1, 9))
    at_once = training.default_models_at_once
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert [at_once(MLP, table, 8), at_once(MLP, table, 1), at_once(CNN, images, 8)] == [3, 1, 1]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [at_once(MLP, table, 8), at_once(MLP, table, 1), at_once(CNN, images, 8)] == [9, 1, 9]


TWO_DEVICES = """
import sys, numpy as np, jax
from mi_jax import training
from mi_jax.training import ensemble, steps
from mi_jax.types import Defense
from tests.training.test_ensemble import KEY, MLP, RECIPE, blobs, some_members
assert jax.device_count() == 2
(x, y), members = blobs(), some_members(3, 25)
spread, _ = training.train_ensemble(KEY, MLP, RECIPE, x, y, members)  # groups of two, the last one filled up
np.savez(sys.argv[1], *jax.tree.leaves(spread))
along, whole = ensemble._shardings(4)
rows = members[[0, 1, 2, 2]]
keys, inputs = jax.device_put((jax.random.split(KEY, 4), steps.MemberInputs(rows, rows[:, :0], ())), along)
x, y = jax.device_put((x, y), whole)
static = {"spec": steps.TrainSpec(MLP, RECIPE, Defense()), "vmapped": True}
state = ensemble._init_group(keys, inputs, x, y, **static)
assert state.params["Dense_0"]["kernel"].sharding.spec[0] == "models"
text = ensemble._run_group_block.lower(state, inputs, x, y, **static).compile().as_text()
assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))
"""


def test_two_devices_give_the_results_of_one_and_do_not_talk(tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    command = [sys.executable, "-c", TWO_DEVICES, str(tmp_path / "two.npz")]
    subprocess.run(command, env=environment, check=True, cwd=root)
    (x, y), members = blobs(), some_members(3, 25)
    params, _ = train_ensemble(KEY, MLP, RECIPE, x, y, members, models_at_once=1)
    assert_close(jax.tree.leaves(params), list(np.load(tmp_path / "two.npz").values()), **ROUNDING)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"members": np.zeros((2, 0), int)}, r"shape \(2, 0\), expected integers \[K n\]"),
        ({"members": np.zeros((0, 5), int)}, r"shape \(0, 5\), expected integers \[K n\]"),
        ({"members": np.arange(5)}, r"shape \(5,\), expected integers \[K n\]"),
        ({"members": np.ones((2, 5))}, "float64 of shape"),
        ({"members": np.array([[0, 120]])}, r"rows 0\.\.120, expected rows of the pool, 0\.\.119"),
        ({"members": np.array([[-1, 3]])}, r"rows -1\.\.3"),
        ({"y_pool": np.zeros(7, int)}, "120 rows and y_pool 7"),
        ({"y_pool": np.full(120, 4)}, r"int64 4\.\.4, expected integers 0\.\.3"),
        ({"y_pool": np.full(120, -1)}, r"-1\.\.-1, expected integers 0\.\.3"),
        ({"y_pool": np.zeros(120)}, "float64"),
        ({"models_at_once": 0}, "models_at_once=0: expected at least 1"),
        ({"recipe": Recipe(batch_size=0)}, "batch_size=0, expected more than 0"),
        ({"recipe": Recipe(max_epochs=0)}, "max_epochs=0, expected more than 0"),
        ({"recipe": Recipe(learning_rate=float("nan"))}, "learning_rate=nan, expected more than 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    x, y = blobs()
    good = {"recipe": RECIPE, "x_pool": x, "y_pool": y, "members": some_members(2, 20)}
    with pytest.raises(ValueError, match=message):
        train_ensemble(KEY, MLP, **good | change)


def test_training_on_no_rows_is_refused():
    with pytest.raises(ValueError, match="at least one model and one row"):
        train(KEY, MLP, RECIPE, np.zeros((0, 9), np.float32), np.zeros(0, int))


@pytest.mark.parametrize("models_at_once", [1, 3])
def test_a_loss_that_is_not_finite_names_the_member(models_at_once):
    (x, y), members = blobs(), np.arange(100).reshape(4, 25)
    x[60] = np.nan  # a row of member 2 alone
    with pytest.raises(ValueError, match="member 2: the training loss is nan after"):
        train_ensemble(KEY, MLP, RECIPE, x, y, members, models_at_once=models_at_once)


def test_an_adversary_takes_a_step_for_each_step_of_the_model_after_its_warm_up():
    adversary = AdversarialRegularizer(
        init=lambda key, classes: jnp.int32(0),
        update=lambda count, members, reference: count + 1,
        loss=lambda strength, count, logits, y: jnp.zeros(len(y)),
        warm_up=2,
    )
    (x, y), inputs = blobs(classes=2), steps.MemberInputs(jnp.arange(25), jnp.arange(30, 40), ())
    spec = steps.TrainSpec(LINEAR, Recipe(batch_size=10), Defense(adversary=adversary))
    state, counts = steps.init_state(KEY, inputs, jnp.asarray(x), jnp.asarray(y), spec), []
    for _ in range(4):
        state = steps.run_epoch(state, inputs, jnp.asarray(x), jnp.asarray(y), spec)
        counts.append(int(state.adversary))
    assert counts == [0, 0, 3, 6]
