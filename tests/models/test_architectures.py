"""The models have the paper's layers, and their convolution trains fast and correctly inside a loop."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mi_jax import models
from mi_jax.models import architectures
from mi_jax.training import steps
from mi_jax.types import Defense, Recipe

NHWC = lax.conv_dimension_numbers((1, 8, 8, 1), (3, 3, 1, 1), ("NHWC", "HWIO", "NHWC"))


def number_of_parameters(model, example_shape):
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *example_shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "name, example_shape, num_classes, expected",
    [
        ("cnn", (32, 32, 3), 10, 1_250_858),
        ("cnn", (32, 32, 3), 100, 1_297_028),
        ("cnn", (28, 28, 1), 10, 889_834),
        ("mlp", (600,), 100, 89_828),
        ("mlp2", (446,), 30, 77_598),
        ("mlp:128,128", (446,), 30, 77_598),
        ("mlp2", (6168,), 100, 819_044),
        ("mlp:5", (2, 3, 1), 4, 6 * 5 + 5 + 5 * 4 + 4),
    ],
)
def test_parameters_are_as_many_as_in_the_paper(name, example_shape, num_classes, expected):
    assert number_of_parameters(models.build(name, example_shape, num_classes), example_shape) == expected


@pytest.mark.parametrize("name, shape", [("cnn", (10, 11, 2)), ("mlp", (4, 3, 1)), ("mlp:7,5", (12,))])
def test_both_modes_give_the_same_logits_of_the_right_shape(name, shape):
    model = models.build(name, shape, 5)
    x = jax.random.uniform(jax.random.key(1), (6, *shape))
    params = jax.jit(model.init)(jax.random.key(2), x[:1])  # op by op it would compile dozens of programs
    apply = jax.jit(model.apply)
    asked, trained = apply(params, x), apply(params, x, jax.random.key(3))
    assert asked.shape == (6, 5)
    np.testing.assert_allclose(asked, trained, rtol=0, atol=1e-6)  # the same sums, possibly fused differently


def test_weights_are_glorot_uniform_and_biases_zero():
    model = models.build("cnn", (32, 32, 3), 10)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    for name, layer in params.items():
        *receptive, fan_in, fan_out = layer["kernel"].shape
        bound = np.sqrt(6 / (np.prod(receptive, dtype=int) * (fan_in + fan_out)))
        largest = jnp.max(jnp.abs(layer["kernel"]))
        # The largest of 864 or more uniform draws falls short of its bound by 2 % with probability 0.98^864 < 1e-7.
        assert 0.98 * bound <= largest <= bound * (1 + 1e-6), name
        assert not jnp.any(layer["bias"])


def test_layers_have_the_names_of_saved_networks():
    """Flax draws the first weights by these names too: with others all records would be of other networks."""
    params = jax.eval_shape(models.build("cnn", (32, 32, 3), 10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sorted(params) == ["Dense_0", "Dense_1", *(f"_Conv3x3_{i}" for i in range(4))]


def test_tanh_lies_between_the_layers_of_the_mlp():
    model = models.build("mlp:3", (2,), 2)
    x = jnp.array([[0.3, -4.0]])
    params = model.init(jax.random.key(0), x)
    hidden = np.tanh(np.asarray(x) @ params["Dense_0"]["kernel"])
    np.testing.assert_allclose(model.apply(params, x), hidden @ params["Dense_1"]["kernel"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training_mode", [False, True])
@pytest.mark.parametrize("height, width", [(4, 6), (5, 7)])
def test_pooling_takes_the_maximum_of_each_square(training_mode, height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    squares = x[:, : height // 2 * 2, : width // 2 * 2].reshape(2, height // 2, 2, width // 2, 2, 3)
    np.testing.assert_array_equal(models.max_pool(jnp.asarray(x), training_mode), squares.max((2, 4)))


@pytest.mark.parametrize("channels, features, padding", [(3, 32, 1), (32, 16, 0)])
def test_own_gradient_of_the_convolution_equals_that_of_autodiff(channels, features, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (4, 9, 8, channels))
    w = jax.random.normal(keys[1], (3, 3, channels, features))
    g = jax.random.normal(keys[2], (4, 7 + 2 * padding, 6 + 2 * padding, features))
    ours, back = jax.vjp(lambda x, w: models.conv3x3(x, w, padding), x, w)
    plain, plain_back = jax.vjp(lambda x, w: architectures._convolve(x, w, padding), x, w)
    np.testing.assert_array_equal(ours, plain)
    for own, autodiff in zip(back(g), plain_back(g), strict=True):
        # Sums of up to 288 products in another order: float32 rounding, relative to the largest entry.
        np.testing.assert_allclose(own, autodiff, rtol=0, atol=3e-6 * float(jnp.max(jnp.abs(autodiff))))


def convolutions(jaxpr, in_loop=False):
    """Returns (equation, whether a scan or while holds it) for each convolution in a jaxpr, however deep."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            found.append((equation, in_loop))
        inside = in_loop or equation.primitive.name in ("scan", "while")
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            found += convolutions(getattr(inner, "jaxpr", inner), inside) if is_jaxpr(inner) else []
    return found


def is_jaxpr(value):
    return isinstance(value, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr)


def is_canonical(equation):
    given = equation.params
    undilated = given["lhs_dilation"] == given["rhs_dilation"] == (1, 1)
    ungrouped = given["feature_group_count"] == given["batch_group_count"] == 1
    return undilated and ungrouped and given["dimension_numbers"] == NHWC


def convolutions_in_the_loops_of_training():
    model, recipe = models.cnn((10, 10, 1), 3), Recipe(batch_size=4, max_epochs=2)
    x, y = jnp.zeros((8, 10, 10, 1)), jnp.zeros(8, jnp.int32)
    spec, inputs = steps.TrainSpec(model, recipe, Defense()), steps.MemberInputs(jnp.arange(8), jnp.arange(0), ())
    state = jax.eval_shape(functools.partial(steps.init_state, spec=spec), jax.random.key(0), inputs, x, y)
    jaxpr = jax.make_jaxpr(functools.partial(steps.run_block, spec=spec))(state, inputs, x, y)
    return [equation for equation, in_loop in convolutions(jaxpr.jaxpr) if in_loop]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends keep the gradient of autodiff")
def test_every_convolution_in_the_loops_of_training_has_the_form_that_is_fast_on_cpu():
    found = convolutions_in_the_loops_of_training()
    assert len(found) >= 11  # forward and two gradients of four layers, of which the first input needs none
    assert all(map(is_canonical, found))


def test_a_convolution_with_the_gradient_of_autodiff_would_be_noticed(monkeypatch):
    monkeypatch.setattr(architectures, "conv3x3", architectures._convolve)
    assert not all(map(is_canonical, convolutions_in_the_loops_of_training()))


def test_same_arguments_build_the_identical_model():
    assert models.build("mlp", (600,), 100) is models.build("mlp", (600,), 100)
    assert models.build("mlp", (600,), 100) is not models.build("mlp", (600,), 10)


@pytest.mark.parametrize("name", ["resnet", "mlp:", "mlp:64,", "mlp:-3", "cnn:64", ""])
def test_unknown_model_names_the_known_ones(name):
    with pytest.raises(ValueError, match="mlp, mlp2, cnn, wide_resnet, or mlp:64,64"):
        models.build(name, (32, 32, 3), 10)


@pytest.mark.parametrize(
    "name, shape, num_classes, message",
    [
        ("cnn", (600,), 10, r"shape \(600,\), expected images"),
        ("cnn", (9, 32, 3), 10, "9x32 pixels, expected at least 10"),
        ("cnn", (32, 9, 3), 10, "32x9 pixels, expected at least 10"),
        ("mlp:64,0", (600,), 10, "mlp: a width of 0, expected 1..65536"),
        ("mlp", (600,), 1, "num_classes=1: expected at least 2"),
    ],
)
def test_what_no_model_fits_is_refused(name, shape, num_classes, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, shape, num_classes)


def test_wide_resnet_has_the_layers_of_wrn_28_2():
    params = jax.eval_shape(
        models.build("wide_resnet", (32, 32, 3), 10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    assert len(kernels) == 25  # the first, and three stages of four blocks of two
    shortcuts = {name: layer["kernel"].shape for name, layer in params.items() if name.startswith("shortcut")}
    assert shortcuts == {"shortcut_32": (16, 32), "shortcut_64": (32, 64), "shortcut_128": (64, 128)}
    assert params["Dense_0"]["kernel"].shape == (128, 10)
    assert sum(np.prod(leaf.shape) for leaf in kernels) == 9 * (
        3 * 16 + 16 * 32 + 7 * 32**2 + 32 * 64 + 7 * 64**2 + 64 * 128 + 7 * 128**2
    )


def test_logits_of_a_wide_resnet_do_not_depend_on_the_rest_of_the_batch():
    model = models.build("wide_resnet:10,1", (8, 8, 1), 3)
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    params, apply = jax.jit(model.init)(jax.random.key(0), x), jax.jit(model.apply)
    np.testing.assert_allclose(apply(params, x)[2], apply(params, x[[2, 0, 0, 0]])[0], atol=1e-5)


@pytest.mark.parametrize("name", ["wide_resnet:11,1", "wide_resnet:28,0", "wide_resnet:28", "wide_resnet:a,1"])
def test_a_wide_resnet_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="expected"):
        models.build(name, (32, 32, 3), 10)


@pytest.mark.parametrize(
    "name, value",
    [("mlp:99999999999", "99999999999"), ("mlp:8,65537", "65537"), ("mlp:0", "0"), ("wide_resnet:16,100000", "100000"),
     ("wide_resnet:16,65", "65"), ("wide_resnet:1006,2", "1006")],
)  # fmt: skip
def test_sizes_that_no_machine_holds_are_refused_before_anything_is_made(name, value):
    with pytest.raises(ValueError, match=rf"{value}, .*expected .*1\.\.\d+") as caught:
        models.build(name, (8, 8, 1), 10)
    assert "\n" not in str(caught.value)
