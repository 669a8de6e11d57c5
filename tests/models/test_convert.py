"""A flax module works where a model is expected, whatever its flags and names; what does not is refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from mi_jax import data, models, study, training
from mi_jax.querying import oracle
from mi_jax.types import Model, Recipe

SHAPE = (3, 2)
X = np.random.default_rng(0).random((2, *SHAPE), np.float32)
KEY = jax.random.key(0)


def drop(x, training):
    return nn.Dense(4, name="out")(nn.Dropout(0.5)(x.reshape(len(x), -1), deterministic=not training))


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        return drop(x, train)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, *, deterministic=True):
        return drop(x, not deterministic)


class Field(nn.Module):
    training: bool = True

    @nn.compact
    def __call__(self, x):
        return drop(x, self.training)


class Plain(nn.Module):
    features: int = 4
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, dtype=self.dtype)(x.reshape(len(x), -1))


class BatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average):
        return nn.Dense(4)(nn.BatchNorm(use_running_average)(x.reshape(len(x), -1)))


class Mask(nn.Module):
    @nn.compact
    def __call__(self, x, mask, train=False):
        return x


class Silent(nn.Module):
    pass


class EachRow(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x)


class Whole(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x.reshape(len(x), -1) + self.param("shift", lambda key: jnp.zeros(6, int))


@pytest.mark.parametrize("module", [Train(), Deterministic(), Field(True), Field(False)])
def test_flags_turn_dropout_on_in_training_alone(module):
    model = models.as_model(module)
    assert models.check_model(model, SHAPE, 4) == 4 and model.name == type(module).__name__
    params = model.init(KEY, X)
    plain, again = model.apply(params, X), model.apply(params, X)
    np.testing.assert_array_equal(plain, again)
    first, second = (model.apply(params, X, jax.random.key(seed)) for seed in (1, 2))
    assert not np.allclose(first, plain) and not np.allclose(first, second)


def test_equal_modules_are_one_model_and_a_model_stays_itself():
    model = models.as_model(Plain(4))
    assert models.as_model(Plain(4)) is model is models.as_model(model) and models.as_model(Plain(5)) is not model
    listed = models.as_model(nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(4)]), "listed")
    assert models.check_model(listed, SHAPE) == 4 and listed.name == "listed"  # its list of layers has no hash


@pytest.mark.parametrize(
    "model, message",
    [
        (Plain, r"model: the class Plain, expected an instance, as Plain\(...\) makes"),
        (nnx.Linear(3, 4, rngs=nnx.Rngs(0)), "model: flax.nnx.*Linear, expected a flax.linen module or types.Model"),
        (len, "model: a function, expected a flax.linen module or types.Model"),
        (Mask(), "model Mask: its __call__ needs mask, expected defaults for all but the examples and train, training"),
        (Silent(), "model Silent: no method __call__, expected one from examples to logits"),
        (BatchNorm(), "model BatchNorm: collection batch_stats, expected parameters alone, .*; with BatchNorm"),
        (EachRow(), r"model EachRow: in queries, float32 of shape \(2, 3, 4\) for 2 examples, expected float32 logits"),
        (Plain(4, jnp.bfloat16), r"model Plain: in queries, bfloat16 of shape \(2, 4\) for 2 examples"),
        (Plain(5), "model Plain: logits of 5 classes, expected 4, those of the data set"),
        (Whole(), "model Whole: parameters of dtype int32, expected floating-point numbers"),
        (Model(lambda key, x: {}, lambda params, x, key=None: x), "model custom: parameters of dtype none"),
        (Model(lambda key, x: x, lambda params, x: x), r"model custom: examples of shape \(3, 2\): TypeError"),
        (Model(lambda key, x: x[0, 0], lambda params, x, key=None: x[:, 0] if key is None else x[:, 0, :1]),
         r"model custom: in training, float32 of shape \(2,\)|of 1 classes in training, expected 2 as in queries"),
    ],
)  # fmt: skip
def test_what_is_no_model_of_the_data_is_refused_in_one_line(model, message):
    with pytest.raises(ValueError, match=message) as caught:
        models.check_model(models.as_model(model), SHAPE, 4)
    assert "\n" not in str(caught.value)


def test_a_module_is_taken_for_training_and_for_the_oracles():
    digits, module = data.load("digits"), Plain(10)
    recipe, members = Recipe(max_epochs=1), np.arange(40)[None]
    params, _ = training.train_ensemble(KEY, module, recipe, digits.x, digits.y, members)
    answers = study.target_oracles(module, params, digits)(0, "label").answer(digits.x[:8], 8)
    np.testing.assert_array_equal(
        answers, models.as_model(module).apply(jax.tree.map(lambda leaf: leaf[0], params), digits.x[:8]).argmax(-1)
    )
    with pytest.raises(ValueError, match="model: Plain, expected a Model, as models.as_model makes"):
        oracle.model_oracle(module, params, 10)  # type: ignore
    with pytest.raises(ValueError, match="logits of 4 classes, expected 10"):
        study.target_oracles(Plain(4), params, digits)
    with pytest.raises(ValueError, match="model BatchNorm: collection batch_stats"):
        training.train(KEY, BatchNorm(), recipe, digits.x[:40], digits.y[:40])


def test_an_entry_of_models_may_make_a_module_and_may_be_replaced(monkeypatch):
    monkeypatch.setitem(models.MODELS, "own", lambda shape, num_classes: Plain(num_classes))
    model = models.build("own", SHAPE, 4)
    assert model.name == "own" and models.build("own", SHAPE, 4) is model
    monkeypatch.setitem(models.MODELS, "own", lambda shape, num_classes: Train())
    assert models.build("own", SHAPE, 4) is not model
