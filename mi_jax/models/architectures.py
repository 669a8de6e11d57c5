"""The classifiers of the paper, each as a `Model`: two pure functions over a pytree of parameters.

**Source**: section 5.2 and appendix A.1 of arXiv 2007.14321v2, with the layers of the authors' code. Dropout is a
defense here and off by default. Kernels are Glorot-uniform and biases zero, as in Keras.
"""

import functools
import itertools
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mi_jax import randomness
from mi_jax.models.convert import as_model
from mi_jax.types import Array, Model, Params

_NHWC = ("NHWC", "HWIO", "NHWC")
_SMALLEST_IMAGE = 10  # for the cnn: its second 2x2 pooling sees (10 - 2) / 2 - 2 = 2 pixels
_WIDTH = 128  # of every hidden layer of the paper's fully connected models
_WIDEST, _DEEPEST, _WIDEST_RESNET = 65_536, 1_000, 64  # beyond these, the weights do not fit or nothing compiles


def _convolve(x: jax.Array, w: jax.Array, padding: int) -> jax.Array:
    return lax.conv_general_dilated(x, w, (1, 1), [(padding, padding)] * 2, dimension_numbers=_NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_with_custom_gradient(x: jax.Array, w: jax.Array, padding: int) -> jax.Array:
    return _convolve(x, w, padding)


def _forward(x: jax.Array, w: jax.Array, padding: int):
    return _convolve(x, w, padding), (x, w)


def _backward(padding: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients for x and w, both as plain convolutions.

    The first convolves g with the kernel rotated by 180 degrees. The second convolves x with g as the kernel, after
    exchanging the batch and channel axes.
    """
    x, w = residuals
    dx = _convolve(g, w[::-1, ::-1].transpose(0, 1, 3, 2), 2 - padding)
    dw = _convolve(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), padding)  # [I 3 3 O]
    return dx, dw.transpose(1, 2, 0, 3)


_convolve_with_custom_gradient.defvjp(_forward, _backward)


def conv3x3(x: jax.Array, w: jax.Array, padding: int) -> jax.Array:
    """Returns [B H W O] from x [B H W I] and w [3 3 I O]. Padding 1 keeps the size; 0 loses a pixel on each side.

    On CPU it has a custom gradient. The gradient from autodiff has unusual layouts and dilations, which XLA:CPU
    compiles to a scalar loop inside a scan, 39x slower. Other backends map the ordinary gradient to vendor kernels.
    """
    return _convolve_with_custom_gradient(x, w, padding) if jax.default_backend() == "cpu" else _convolve(x, w, padding)


def max_pool(x: jax.Array, training: bool) -> jax.Array:
    """Returns [B H/2 W/2 C], the maximum of each 2x2 square; an odd last row or column is dropped.

    There are two implementations with the same values. On CPU the gradient of strided slices is an order of
    magnitude faster than that of a window reduction, but the forward pass of the window reduction is faster. They
    split the gradient differently among equal maxima, so training always uses strided slices.
    """
    if not training:
        return nn.max_pool(x, (2, 2), strides=(2, 2))
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))


class _Conv3x3(nn.Module):
    """`conv3x3` with a kernel [3 3 I O] and a bias [O]."""

    features: int
    padding: int
    kernel_init: Callable = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return conv3x3(x, kernel, self.padding) + bias


# Flax names parameters, and draws their first values, by the name of the class: another name makes other networks, and
# saved ones could not be read.
Conv3x3 = _Conv3x3


Drop = Callable[[jax.Array], jax.Array]  # applied at every dropout slot of a model, with a fresh mask each time


class _Cnn(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool, drop: Drop) -> jax.Array:  # [B H W C]
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.glorot_uniform())
        for features in (32, 64):
            x = nn.relu(Conv3x3(features, padding=1)(x))
            x = nn.relu(Conv3x3(features, padding=0)(x))
            x = max_pool(x, training)
        x = drop(nn.relu(dense(512)(drop(x).reshape(len(x), -1))))
        return dense(self.num_classes)(x)


class _Mlp(nn.Module):
    widths: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool, drop: Drop) -> jax.Array:  # [B *x]
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.glorot_uniform())
        x = drop(x.reshape(len(x), -1))
        for width in self.widths:
            x = drop(jnp.tanh(dense(width)(x)))
        return dense(self.num_classes)(x)


class _WideResnet(nn.Module):
    depth: int
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool, drop: Drop) -> jax.Array:  # [B H W C]
        conv = functools.partial(Conv3x3, padding=1, kernel_init=nn.initializers.he_normal())
        x = conv(16)(x)
        for stage in range(3):
            features = 16 * self.width * 2**stage
            for i in range((self.depth - 4) // 6):
                stride = 2 if stage and not i else 1
                x = self.block(conv(features), conv(features), x, features, stride, drop)
        return nn.Dense(self.num_classes)(_norm_and_activate(x).mean((1, 2)))

    def block(self, first: nn.Module, second: nn.Module, x: jax.Array, features: int, stride: int, drop: Drop):
        """Returns x + two convolutions of it.

        A stride takes every second pixel after the first convolution, because the gradient of a strided convolution
        is slow on CPU whatever the compiler flags.
        """
        inner = _norm_and_activate(x)
        if x.shape[-1] != features:
            x = nn.Dense(features, use_bias=False, name=f"shortcut_{features}")(inner[:, ::stride, ::stride])
        return x + second(drop(_norm_and_activate(first(inner)[:, ::stride, ::stride])))


def _norm_and_activate(x: jax.Array) -> jax.Array:
    """Returns x after GroupNorm and leaky ReLU. Unlike BatchNorm, GroupNorm keeps the rows of a batch independent."""
    return nn.leaky_relu(nn.GroupNorm(num_groups=8)(x), 0.1)


def _make_drop(key: jax.Array | None, rate: float | jax.Array) -> Drop:
    """Returns a Drop that sets each unit to 0 with probability `rate` and scales the others by 1 / (1 - rate).

    The k-th call uses the k-th key. `rate` may be traced, which flax's Dropout does not allow.
    """
    if key is None or isinstance(rate, float | int) and rate == 0:
        return lambda x: x
    slots = itertools.count()

    def drop(x: jax.Array) -> jax.Array:
        kept = randomness.flips(jax.random.fold_in(key, next(slots)), 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), 0)

    return drop


def _as_model(net: nn.Module, name: str) -> Model:
    def init(key: jax.Array, x: Array) -> Params:
        return net.init(key, x, training=False, drop=lambda x: x)["params"]

    def apply(params: Params, x: Array, key: jax.Array | None = None, dropout: float | jax.Array = 0.0) -> jax.Array:
        drop = _make_drop(key, dropout)
        return cast(jax.Array, net.apply({"params": params}, x, training=key is not None, drop=drop))

    return Model(init, apply, name)


def mlp(example_shape: tuple[int, ...], num_classes: int, *, hidden: tuple[int, ...] = (_WIDTH,)) -> Model:
    """Returns a Model of fully connected tanh layers of the `hidden` widths; images are flattened."""
    if not hidden:
        raise ValueError(f"hidden={hidden}: expected one or more widths")
    if wrong := [width for width in hidden if not 1 <= width <= _WIDEST]:
        raise ValueError(f"mlp: a width of {wrong[0]}, expected 1..{_WIDEST}")
    return _as_model(_Mlp(tuple(hidden), num_classes), "mlp:" + ",".join(map(str, hidden)))


def cnn(example_shape: tuple[int, ...], num_classes: int) -> Model:
    """Returns the paper's Model for CIFAR and MNIST: four 3x3 convolutions, two poolings, a dense layer of 512."""
    if len(example_shape) != 3:
        raise ValueError(f"cnn: examples of shape {example_shape}, expected images [height width channels]")
    if min(example_shape[:2]) < _SMALLEST_IMAGE:
        expected = f"expected at least {_SMALLEST_IMAGE} pixels a side"
        raise ValueError(f"cnn: images of {example_shape[0]}x{example_shape[1]} pixels, {expected}")
    return _as_model(_Cnn(num_classes), "cnn")


def wide_resnet(example_shape: tuple[int, ...], num_classes: int, *, depth: int = 28, width: int = 2) -> Model:
    """Returns a pre-activation wide residual network, WRN-28-2 by default: three stages of (depth - 4) / 6 blocks.

    Deviations from FixMatch's network:
    * GroupNorm with 8 groups instead of BatchNorm;
    * He initialisation by the number of inputs, not outputs, and flax's default for the last layer;
    * images in [0, 1], not standardised;
    * every widening shortcut takes the activated input, in theirs only the first one.

    Dropout slots are between the two convolutions of a block.
    Source: arXiv 1605.07146; arXiv 2001.07685 for the leaky ReLU.
    """
    if not 10 <= depth <= _DEEPEST or depth % 6 != 4 or not 1 <= width <= _WIDEST_RESNET:
        expected = f"a depth of 10, 16, 22, ... up to {_DEEPEST} and a width of 1..{_WIDEST_RESNET}"
        raise ValueError(f"wide_resnet: depth={depth}, width={width}, expected {expected}")
    if len(example_shape) != 3 or min(example_shape[:2]) < 4:
        raise ValueError(f"wide_resnet: examples of shape {example_shape}, expected images of at least 4 pixels a side")
    return _as_model(_WideResnet(depth, width, num_classes), f"wide_resnet:{depth},{width}")


# name -> (example_shape, num_classes) -> a Model or a linen module
MODELS: dict[str, Callable[[tuple[int, ...], int], Model | nn.Module]] = {
    "mlp": mlp,
    "mlp2": functools.partial(mlp, hidden=(_WIDTH, _WIDTH)),
    "cnn": cnn,
    "wide_resnet": wide_resnet,
}


def build(name: str, example_shape: tuple[int, ...], num_classes: int) -> Model:
    """Returns the Model called `name` for examples of this shape.

    A name is one of MODELS, "mlp:64,64" (hidden widths) or "wide_resnet:28,2" (depth and width). The same arguments
    return the identical object, so functions compiled for it are reused.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: expected at least 2")
    return _build(MODELS.get(name), name, example_shape, num_classes)


@functools.cache  # by the entry too, which a user may replace
def _build(make: Callable | None, name: str, example_shape: tuple[int, ...], num_classes: int) -> Model:
    if make is not None:
        return as_model(make(example_shape, num_classes), name)
    family, _, sizes = name.partition(":")
    numbers = tuple(int(number) for number in sizes.split(",") if number.isdecimal())
    if family == "mlp" and len(numbers) == sizes.count(",") + 1:
        return mlp(example_shape, num_classes, hidden=numbers)
    if family == "wide_resnet" and len(numbers) == 2 and sizes.count(",") == 1:
        return wide_resnet(example_shape, num_classes, depth=numbers[0], width=numbers[1])
    patterns = "mlp:64,64 (hidden widths), wide_resnet:28,2 (depth and width)"
    raise ValueError(f"model {name!r}: expected one of {', '.join(MODELS)}, or {patterns}")
