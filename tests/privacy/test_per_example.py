"""Sums of clipped gradients are those of a loop over examples, whichever way; padding and NaN contribute nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from mi_jax import models, privacy
from mi_jax.models import architectures
from mi_jax.privacy import per_example
from mi_jax.types import Model

KEY = jax.random.key(11)
MLP = models.build("mlp:12", (9,), 4)


class SmallCnn(nn.Module):
    """Both kinds of convolution, a pooling and a dense layer; compiles in a fraction of the time of the whole cnn."""

    @nn.compact
    def __call__(self, x, training, drop):
        x = nn.relu(architectures.Conv3x3(3, padding=1)(x))
        x = models.max_pool(nn.relu(architectures.Conv3x3(4, padding=0)(x)), training)
        return nn.Dense(4)(x.reshape(len(x), -1))


SMALL_CNN = architectures._as_model(SmallCnn(), "small cnn")
WHOLE_CNN = pytest.param(models.build("cnn", (10, 10, 2), 4), (10, 10, 2), marks=pytest.mark.slow)
# Two float32 sums of the same few dozen terms, relative to the largest entry of the leaf.
ROUNDING = 1e-6


def losses_of(model):
    def losses(params, batch):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x, KEY), y)

    return losses


def loss_of_one(model):
    return lambda params, example: losses_of(model)(params, jax.tree.map(lambda leaf: leaf[None], example))[0]


@functools.cache
def reference(model, microbatch=5):
    return jax.jit(functools.partial(per_example.clipped_sum, loss_of_one(model), microbatch=microbatch))


@functools.cache
def fast(model, microbatch=5):
    return jax.jit(functools.partial(per_example.bookkeeping_sum, losses_of(model), microbatch=microbatch))


@functools.cache
def gradient_of_one(model):
    return jax.jit(jax.grad(loss_of_one(model)))


def a_batch(shape, size=13, classes=4, seed=0):
    random = np.random.default_rng(seed)
    scale = random.uniform(0.1, 3, (size, *[1] * len(shape)))  # so that the gradients' norms differ
    x = (scale * random.normal(size=(size, *shape))).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(random.integers(0, classes, size), jnp.int32)


def start(model, batch):
    """Parameters without a zero among them, so that no gradient vanishes by accident."""
    random = np.random.default_rng(3)

    def filled(leaf):
        inputs = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
        return jnp.asarray(random.normal(size=leaf.shape) / np.sqrt(inputs), jnp.float32)

    return jax.tree.map(filled, jax.eval_shape(model.init, KEY, batch[0]))


def one(model, batch, params, i):
    """The gradient of one example alone, in float64."""
    grads = gradient_of_one(model)(params, jax.tree.map(lambda leaf: leaf[i], batch))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), grads)


def norm_of(tree):
    return np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(tree)))


def assert_close(a, b, relative):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.abs(left - right).max() <= relative * np.abs(right).max()


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


both_paths = pytest.mark.parametrize("path", [reference, fast])


@both_paths
def test_without_clip_and_noise_the_gradient_is_the_plain_one(path):
    batch = a_batch((9,))
    params = start(MLP, batch)
    plain = jax.grad(lambda params: losses_of(MLP)(params, batch).mean())(params)
    found = path(MLP)(params, batch, jnp.ones(13), jnp.inf)
    private = privacy.noisy_mean(KEY, found.total, clip=jnp.inf, noise=0.0, expected=13)
    assert_close(private, plain, ROUNDING)
    np.testing.assert_allclose(found.loss, losses_of(MLP)(params, batch), rtol=0, atol=1e-6)


@both_paths
@pytest.mark.parametrize("microbatch", [5, 64])
def test_sum_equals_a_loop_over_examples_clipped_jointly_over_all_parameters(path, microbatch):
    batch = a_batch((9,))
    params = start(MLP, batch)
    grads = [one(MLP, batch, params, i) for i in range(13)]
    norms = np.array([norm_of(grad) for grad in grads])
    clip = float(np.median(norms))
    weight = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0])  # what weighs nothing need not stand last
    scales = weight * np.minimum(1, clip / norms)
    expected = jax.tree.map(lambda *leaves: sum(s * leaf for s, leaf in zip(scales, leaves, strict=True)), *grads)
    found = path(MLP, microbatch)(params, batch, jnp.asarray(weight, jnp.float32), clip)
    assert_close(found.total, expected, ROUNDING)
    np.testing.assert_allclose(found.norm, weight * norms, rtol=1e-6)
    assert found.dropped == 0


@both_paths
def test_every_clipped_gradient_is_at_most_as_long_as_the_clip_and_short_ones_are_kept(path):
    batch = a_batch((9,))
    params = start(MLP, batch)
    norms = np.array([norm_of(one(MLP, batch, params, i)) for i in range(13)])
    clip = float(np.median(norms))
    found = np.array([norm_of(path(MLP)(params, batch, jnp.eye(13)[i], clip).total) for i in range(13)])
    assert np.all(found <= clip * (1 + ROUNDING))
    np.testing.assert_allclose(found, np.minimum(norms, clip), rtol=1e-6)
    assert (norms > 1.1 * clip).any() and (norms < clip / 1.1).any()


@both_paths
def test_padding_contributes_exactly_nothing_whatever_it_holds(path):
    x, y = a_batch((9,))
    params = start(MLP, (x, y))
    weight = (jnp.arange(13) < 8).astype(jnp.float32)  # the second microbatch of 5 mixes rows and padding
    found = path(MLP)(params, (x, y), weight, 0.5)
    for garbage in (0.0, 1e30, jnp.inf, jnp.nan):
        assert_identical(path(MLP)(params, (x.at[8:].set(garbage), y), weight, 0.5), found)
    assert found.norm[8:].tolist() == found.loss[8:].tolist() == [0] * 5
    nothing = path(MLP)(params, (x, y), jnp.zeros(13), 0.5)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(nothing))


@both_paths
@pytest.mark.parametrize("model, shape", [(MLP, (9,)), (SMALL_CNN, (6, 7, 2))])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_example_without_a_finite_gradient_is_dropped_and_counted_and_spreads_nowhere(path, model, shape, value):
    x, y = a_batch(shape, size=4)
    params, run = start(model, (x, y)), path(model)
    expected = run(params, (x, y), jnp.array([1.0, 0, 1, 1]), 0.5)
    found = run(params, (x.at[1].set(value), y), jnp.ones(4), 0.5)
    assert found.dropped == 1 and expected.dropped == 0
    assert not np.isfinite(found.norm[1])
    assert_close(found.total, expected.total, ROUNDING)


@pytest.mark.parametrize("model, shape", [(MLP, (9,)), (SMALL_CNN, (6, 7, 2)), WHOLE_CNN])
def test_bookkeeping_sum_equals_the_reference(model, shape):
    batch = a_batch(shape, size=7)  # the second microbatch of 5 is filled up
    params = start(model, batch)
    weight = jnp.array([1.0, 1, 1, 0, 1, 1, 0])
    clip = 0.8 * float(norm_of(one(model, batch, params, 0)))
    expected = reference(model)(params, batch, weight, clip)
    found = fast(model)(params, batch, weight, clip)
    np.testing.assert_allclose(found.norm, expected.norm, rtol=1e-5)  # sums over pixels in another order
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    assert_close(found.total, expected.total, 1e-5)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.LayerNorm()(x))


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(4)
        return layer(layer(x))


class PerPixel(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x[:, None])[:, 0]


class Patches(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x.reshape(-1, 2)).reshape(len(x), -1)


@pytest.mark.parametrize(
    "net, message",
    [
        (Normalised(), "LayerNorm_0/bias, LayerNorm_0/scale: expected kernel and bias of dense layers"),
        (Shared(), "Dense_0 is used twice"),
        (PerPixel(), "Dense_0/bias, Dense_0/kernel: expected"),
        (Patches(), "Dense_0 has 4 input rows for 2 examples"),
        (nn.Conv(4, (3, 3)), "parameters bias, kernel: expected"),
    ],
)
def test_book_keeping_refuses_what_it_does_not_know(net, message):
    x = jnp.ones((2, 3, 3, 4)) if isinstance(net, nn.Conv) else jnp.ones((2, 4))
    params = net.init(KEY, x)["params"]
    with pytest.raises(ValueError, match=message):
        per_example.bookkeeping_sum(
            lambda p, x: net.apply({"params": p}, x).reshape(2, -1).sum(1), params, x, jnp.ones(2), 1
        )


def test_layers_that_stand_still_are_passed_over_by_both_ways():
    model, batch = models.build("mlp:6,5", (9,), 4), a_batch((9,))
    params = start(model, batch)
    still, own = {"Dense_0": params["Dense_0"]}, {name: params[name] for name in ("Dense_1", "Dense_2")}

    def losses(own, batch):
        return losses_of(model)({**still, **own}, batch)

    def loss(own, example):
        return losses(own, jax.tree.map(lambda leaf: leaf[None], example))[0]

    clip = 0.8 * float(norm_of(one(model, batch, params, 0)))
    fast_one = per_example.bookkeeping_sum(losses, own, batch, jnp.ones(13), clip)
    slow_one = per_example.clipped_sum(loss, own, batch, jnp.ones(13), clip)
    assert set(fast_one.total) == {"Dense_1", "Dense_2"}
    np.testing.assert_allclose(fast_one.norm, slow_one.norm, rtol=1e-5)
    assert_close(fast_one.total, slow_one.total, 1e-5)


@pytest.mark.parametrize("name, shape, known", [("mlp", (9,), True), ("cnn", (10, 10, 1), True),
                                                ("wide_resnet:10,1", (8, 8, 1), False)])  # fmt: skip
def test_a_model_that_book_keeping_cannot_take_falls_back_to_the_reference(name, shape, known):
    model, batch = models.build(name, shape, 4), a_batch(shape, size=3)
    params = jax.eval_shape(model.init, KEY, batch[0])
    assert (per_example.unsupported_reason(model, params, batch[0]) is None) == known
    assert (per_example.choose_clipped_sum(model, params, batch[0]) is per_example.bookkeeping_sum) == known


def test_what_stands_in_the_way_of_book_keeping_is_named():
    model, x = models.build("wide_resnet:10,1", (8, 8, 1), 4), jnp.zeros((1, 8, 8, 1))
    assert "GroupNorm_0/scale" in per_example.unsupported_reason(model, jax.eval_shape(model.init, KEY, x), x)
    patches = Model(lambda key, x: Patches().init(key, x)["params"],
                           lambda params, x, key=None: Patches().apply({"params": params}, x), "patches")  # fmt: skip
    shapes = jax.eval_shape(patches.init, KEY, jnp.zeros((1, 4)))
    assert per_example.unsupported_reason(patches, shapes, jnp.zeros((1, 4))).startswith(
        "layer Dense_0 has 4 input rows"
    )
    other = model._replace(apply=lambda params, x, key=None: x.reshape(len(x), -1) @ params[0])
    assert per_example.unsupported_reason(other, (jnp.zeros((64, 4)),), x).startswith("parameters in a tuple, expected")


def test_the_fallback_takes_the_losses_of_a_batch_and_gives_the_sum_of_the_reference(monkeypatch):
    batch = a_batch((9,), size=3)
    params = start(MLP, batch)
    monkeypatch.setattr(per_example, "unsupported_reason", lambda *_: "a test")
    found = per_example.choose_clipped_sum(MLP, params, batch[0])(losses_of(MLP), params, batch, jnp.ones(3), 0.1)
    assert_close(found.total, reference(MLP)(params, batch, jnp.ones(3), 0.1).total, 1e-5)


@both_paths
def test_clipped_sum_agrees_with_jax_privacy(path):
    jax_privacy = pytest.importorskip("jax_privacy", reason="needs jax-privacy 2.0.0, a test oracle of the benchmarks")
    batch = a_batch((9,))
    params = start(MLP, batch)
    weight = (jnp.arange(13) < 9).astype(jnp.float32)
    clip = 0.9 * float(norm_of(one(MLP, batch, params, 0)))
    loss = lambda params, batch: losses_of(MLP)(params, batch).sum()  # noqa: E731
    theirs = jax_privacy.clipped_grad(loss, l2_clip_norm=clip, batch_argnums=(1,), keep_batch_dim=True)
    expected = theirs(params, batch, is_padding_example=weight == 0)
    assert_close(path(MLP)(params, batch, weight, clip).total, expected, ROUNDING)
