"""The last layer apart from the others: trained on what they make of a row, it is what training in place would make."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mi_jax import data, defenses, heads, models, per_example, training
from mi_jax.types import Defense, Recipe

SHAPE = (8, 8, 1)
MLP = models.build("mlp:16", SHAPE, 10)
FIVE = Recipe(20, 0.5, 3, patience=None, optimizer="sgd")  # five steps an epoch on 100 rows


@pytest.fixture(scope="module")
def body():
    return {"Dense_0": MLP.init(jax.random.key(99), jnp.zeros((1, *SHAPE)))["Dense_0"]}


@pytest.mark.parametrize("name", ["mlp:6,5", "cnn", "wide_resnet:10,1"])
def test_penultimate_activations_are_what_the_last_layer_sees(name):
    shape = (16, 16, 1)
    model = models.build(name, shape, 3)
    x = np.random.default_rng(0).random((600, *shape), np.float32)  # two forward passes
    params = model.init(jax.random.key(0), x[:1])
    seen, last = heads.penultimate(model, params, x), heads.last_layer(model, shape)
    logits = np.asarray(model.apply(params, x))
    np.testing.assert_allclose(seen @ params[last]["kernel"] + params[last]["bias"], logits, atol=1e-5)
    head = heads.head_of(model, shape)
    np.testing.assert_allclose(head.apply(params[last], seen), logits, atol=1e-5)
    assert head is heads.head_of(model, shape) and per_example.obstacle(head, params[last], seen) is None


def in_place(params, rows, epochs):
    """The last layer after gradient descent on all these rows at once, each gradient through the whole network."""
    digits = data.load("digits")

    def loss_of(last, batch):
        logits = MLP.apply(params | {"Dense_1": last}, digits.x[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, digits.y[batch]).mean()

    last = params["Dense_1"]
    for _ in range(epochs):
        last = jax.tree.map(lambda w, g: w - 0.5 * g, last, jax.grad(loss_of)(last, rows))
    return last


@pytest.mark.parametrize("alone", [True, False])
def test_training_the_last_layer_is_gradient_descent_in_place(body, alone):
    digits, members = data.load("digits"), np.arange(200).reshape(2, 100)[:, ::-1]
    recipe = FIVE._replace(batch_size=100)  # one batch, so that no order of rows matters
    defense = Defense(strength=body, frozen=lambda body: body)
    if alone:
        key, rows = jax.random.fold_in(jax.random.key(3), 1), members[1]
        params, history = training.train(key, MLP, recipe, digits.x[rows], digits.y[rows], defense=defense)
    else:
        params, history = training.train_ensemble(
            jax.random.key(3), MLP, recipe, digits.x, digits.y, members, defense=defense
        )
        assert history.epochs.tolist() == [3, 3]
        params = jax.tree.map(lambda leaf: leaf[1], params)
    first = jax.random.split(jax.random.fold_in(jax.random.key(3), 1))[0]
    begun = MLP.init(first, digits.x[:1]) | body
    expected = in_place(begun, members[1], 3)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), params["Dense_1"], expected)
    jax.tree.map(np.testing.assert_array_equal, params["Dense_0"], body["Dense_0"])
    assert np.abs(expected["kernel"] - begun["Dense_1"]["kernel"]).max() > 1e-2


def test_strengths_beside_frozen_layers_train_as_one_ensemble(body):
    digits, members = data.load("digits"), np.arange(100).reshape(2, 50)
    both = [defenses.compose(Defense(strength=body, frozen=_itself), defenses.build(f"l2:{s}")) for s in (0.0, 0.1)]
    strengths = jax.tree.map(lambda *leaves: np.stack(leaves), *(one.strength for one in both))
    train = functools.partial(training.train_ensemble, jax.random.key(0), MLP, FIVE, digits.x, digits.y, members)
    together, history = train(defense=both[0], strengths=strengths)
    assert history.epochs.shape == (2, 2)
    for g, one in enumerate(both):
        jax.tree.map(lambda a, b, g=g: np.testing.assert_allclose(a[g], b, atol=1e-5), together, train(defense=one)[0])
    strengths[0]["Dense_0"]["kernel"][1] += 1
    with pytest.raises(ValueError, match="frozen: other layers with another strength"):
        train(defense=both[0], strengths=strengths)


def _itself(body):
    return body


def test_rows_that_an_opponent_compares_with_are_seen_by_the_frozen_layers_too(body):
    digits, reference = data.load("digits"), np.arange(300, 350)
    defense = defenses.compose(Defense(strength=body, frozen=_itself), defenses.build("adversarial:1"))
    recipe, key = FIVE._replace(max_epochs=6), jax.random.fold_in(jax.random.key(0), 0)
    many, _ = training.train_ensemble(jax.random.key(0), MLP, recipe, digits.x, digits.y, np.arange(50)[None],
                                      defense=defense, reference=reference[None])  # fmt: skip
    beside = digits.x[reference], digits.y[reference]
    one, _ = training.train(key, MLP, recipe, digits.x[:50], digits.y[:50], defense=defense, reference=beside)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-4), many, one)


def test_new_neighbours_each_epoch_are_refused_beside_frozen_layers(body):
    digits = data.load("digits")
    defense = defenses.build("augmentation:1")._replace(strength=body, frozen=_itself)
    with pytest.raises(ValueError, match="expand: new neighbours each epoch, expected none beside frozen layers"):
        training.train(jax.random.key(0), MLP, FIVE, digits.x[:50], digits.y[:50], defense=defense)


def test_dropout_drops_what_frozen_layers_make_of_a_row():
    head, features = heads.head_of(MLP, SHAPE), np.ones((2000, 16), np.float32)
    params = {"kernel": jnp.eye(16)[:, :10], "bias": jnp.zeros(10)}
    seen = np.asarray(head.apply(params, features, jax.random.key(0), dropout=0.75))
    assert set(np.unique(seen)) == {0.0, 4.0} and abs((seen == 0).mean() - 0.75) < 0.02
    np.testing.assert_array_equal(head.apply(params, features, dropout=0.75), 1.0)
