"""The last layer apart from the others: trained on what they make of a row, it is what training in place would make."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util

from mi_jax import data, defenses, models, study, training
from mi_jax.models import heads, pretrained
from mi_jax.privacy import per_example
from mi_jax.study.config import Config
from mi_jax.types import Defense, Model, Recipe

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
    params = jax.jit(model.init)(jax.random.key(0), x[:1])
    seen, last = heads.penultimate_activations(model, params, x), heads.last_layer_path(model, shape)
    logits = np.asarray(jax.jit(model.apply)(params, x))
    np.testing.assert_allclose(seen @ params[last]["kernel"] + params[last]["bias"], logits, atol=1e-5)
    head = heads.last_layer_model(model, shape)
    np.testing.assert_allclose(head.apply(params[last], seen), logits, atol=1e-5)
    assert head is heads.last_layer_model(model, shape)
    assert per_example.unsupported_reason(head, params[last], seen) is None


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
    digits, members = data.load("digits"), np.stack([np.arange(700, 800), np.arange(750, 850)[::-1]])
    recipe = FIVE._replace(batch_size=100)  # one batch, so that no order of rows matters
    defense = Defense(strength=body, frozen=_itself)
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
    with pytest.raises(ValueError, match="frozen: layers depend on the strength"):
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


@pytest.mark.parametrize("text, named", [("augmentation:1", "no new neighbours each epoch"),
                                         ("dropout:0.5", "nothing random in a step"),
                                         ("transfer_full", "both say with which layers")])  # fmt: skip
def test_what_would_show_frozen_layers_more_than_a_row_once_is_refused(body, text, named):
    digits = data.load("digits")
    place = defenses.build(text) if ":" in text else Defense(init_params=lambda body, fresh: fresh | body)
    with pytest.raises(ValueError, match=named):
        training.train(jax.random.key(0), MLP, FIVE, digits.x[:50], digits.y[:50],
                       defense=place._replace(strength=body, frozen=_itself))  # fmt: skip


def of(net: nn.Module) -> Model:
    def apply(params, x, key=None):
        return net.apply({"params": params}, x)

    return Model(lambda key, x: net.init(key, x)["params"], apply, "own")


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return -4 * nn.Dense(10)(nn.tanh(nn.Dense(16)(x.reshape(len(x), -1))))


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, name="logits")(x)


class Nested(nn.Module):
    """The mlp:16 with other names: the numbers of its layers run backwards, and the last one lies deeper."""

    @nn.compact
    def __call__(self, x):
        return Head()(nn.tanh(nn.Dense(16, name="Dense_9")(x.reshape(len(x), -1))))


def within_params(net: nn.Module) -> Model:
    """A user's pair that keeps the whole dictionary of linen."""
    return Model(net.init, lambda params, x, key=None: net.apply(params, x), "own")


@pytest.mark.parametrize(
    "model, path",
    [
        (of(Nested()), "Head_0/logits"),
        (models.from_flax(Nested()), "Head_0/logits"),
        (within_params(Nested()), "params/Head_0/logits"),
        (models.build("wide_resnet:10,1", (8, 8, 1), 4), "Dense_0"),
    ],
)
def test_the_last_layer_is_found_by_what_it_does(model, path):
    assert heads.last_layer_path(model, SHAPE) == path


def test_frozen_layers_of_other_names_keep_every_bit_and_the_last_one_learns(body):
    digits, frozen = data.load("digits"), {"Dense_9": body["Dense_0"]}
    params, _ = training.train_ensemble(jax.random.key(3), Nested(), FIVE, digits.x, digits.y, np.arange(50)[None],
                                        defense=Defense(strength=frozen, frozen=_itself))  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), params["Dense_9"], body["Dense_0"])
    key = jax.random.split(jax.random.fold_in(jax.random.key(3), 0))[0]
    begun = models.from_flax(Nested()).init(key, digits.x[:1])["Head_0"]["logits"]["kernel"]
    assert params["Head_0"]["logits"]["kernel"].shape == (1, 16, 10)
    assert np.abs(params["Head_0"]["logits"]["kernel"][0] - begun).max() > 1e-2


class OverTime(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.tanh(nn.Dense(16)(x[..., 0]))).mean(1)


@pytest.mark.parametrize("net", [Scaled(), OverTime()])
def test_a_network_whose_last_dense_layer_does_not_make_the_logits_is_refused(body, net):
    digits = data.load("digits")
    with pytest.raises(ValueError, match="^model own: no nn.Dense makes the logits alone, expected one as the last"):
        training.train(jax.random.key(0), of(net), FIVE, digits.x[:50], digits.y[:50],
                       defense=Defense(strength=body, frozen=_itself))  # fmt: skip


@pytest.mark.parametrize("hidden, named", [((16, 8), "Dense_1/bias has shape None"), ((8,), r"has shape \(16,\)")])
def test_layers_of_another_network_are_refused(body, hidden, named):
    digits, model = data.load("digits"), models.mlp(SHAPE, 10, hidden=hidden)
    with pytest.raises(ValueError, match=f"^frozen: .*{named}"):
        training.train(jax.random.key(0), model, FIVE, digits.x[:50], digits.y[:50],
                       defense=Defense(strength=body, frozen=_itself))  # fmt: skip


def test_frozen_layers_that_would_show_rows_to_each_other_are_refused(body):
    def apply(params, x, key=None):
        return MLP.apply(params, x - x.mean(0) if key is None else x)

    digits = data.load("digits")
    with pytest.raises(ValueError, match="frozen: other rows of a batch change a row's logits"):
        training.train(jax.random.key(0), MLP._replace(apply=apply), FIVE, digits.x[:50], digits.y[:50],
                       defense=Defense(strength=body, frozen=_itself))  # fmt: skip


@pytest.mark.parametrize("frozen", [lambda body: FIXED, lambda body: jax.tree.map(lambda w: w * (w == w), body)])
def test_frozen_may_be_any_function_of_one_strength(body, frozen):
    digits, two = data.load("digits"), jax.tree.map(lambda leaf: np.stack([leaf, leaf]), body)
    params, _ = training.train_ensemble(
        jax.random.key(0), MLP, FIVE, digits.x, list(digits.y), np.arange(50, dtype=np.uint64)[None],
        defense=Defense(strength=body, frozen=frozen), strengths=two,
    )  # fmt: skip
    assert params["Dense_1"]["kernel"].shape == (2, 1, 16, 10) and params["Dense_0"]["bias"].shape == (2, 1, 16)


FIXED = {"Dense_0": MLP.init(jax.random.key(98), jnp.zeros((1, *SHAPE)))["Dense_0"]}


@pytest.mark.parametrize("model", ["mlp:16", pytest.param("wide_resnet:10,1", marks=pytest.mark.slow)])
def test_a_study_begins_from_a_checkpoint_and_goes_on_where_it_stopped(tmp_path, capsys, model):
    """The whole way, private: the checkpoint is taken, gradients of one layer are book-kept, parts are found again."""
    whole = models.build(model, SHAPE, 10)
    pretrained.save(tmp_path / "one.npz", whole.init(jax.random.key(0), jnp.zeros((1, *SHAPE))), "nothing")
    config = Config(defense="transfer_last+dp_adam:8", checkpoint=str(tmp_path / "one.npz"), model=model,
                           n_train=40, num_targets=1, num_shadows=1, attacks=("gap",), private_epochs=2)  # fmt: skip
    first, again = (study.prepare(config, out=tmp_path / "out") for _ in range(2))
    assert first.environment["parts_found"] == 0 and again.environment["parts_found"] > 0
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert first.trained["privacy"]["gradients"] == "gradients clipped by one batched backward pass"
    kept = traverse_util.flatten_dict(whole.init(jax.random.key(0), jnp.zeros((1, *SHAPE))), sep="/")
    last = heads.last_layer_path(whole, SHAPE)
    for path, leaf in traverse_util.flatten_dict(first.params, sep="/").items():
        same = np.array_equal(leaf, np.stack([kept[path]] * 2))
        assert same != path.startswith(f"{last}/"), path
