"""The last layer of a network, separated from the layers below it (the body).

Frozen layers that draw nothing at random give the same activations for a row in every epoch. So they are computed
once for each row, and training the last layer means training a one-layer model on these activations.

`last_layer_model` and `penultimate_activations` work for our linen models, whose last dense layer makes the logits.
"""

import functools
from collections.abc import Mapping
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from mi_jax.types import Array, Model, Params

_BATCH = 512  # rows in one forward pass


def flatten(params: Params) -> dict[str, Any]:
    """Returns path -> leaf for every parameter of a linen model."""
    return cast(dict[str, Any], traverse_util.flatten_dict(params, sep="/"))


def param_shapes(model: Model, example_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape for every parameter of a linen model."""
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *example_shape)))
    if not isinstance(params, Mapping):
        raise ValueError(f"model {model.name}: parameters in a {type(params).__name__}, expected a linen dictionary")
    return {path: leaf.shape for path, leaf in flatten(params).items()}


def last_layer_name(model: Model, example_shape: tuple[int, ...]) -> str:
    """Returns the name of the last dense layer, the one with the highest number."""
    names = {path.split("/")[0] for path in param_shapes(model, example_shape)}
    dense = [name for name in names if name.startswith("Dense_")]
    if not dense:
        raise ValueError(f"model {model.name}: no layer Dense_0, Dense_1, ..., expected one that makes the logits")
    return max(dense, key=lambda name: int(name.rpartition("_")[2]))


def penultimate_activations(model: Model, params: Params, x: Array) -> np.ndarray:
    """Returns the inputs [P D] of the model's last dense layer for examples x [P *x]."""
    last = last_layer_name(model, x.shape[1:])
    starts = range(0, len(x), _BATCH)
    return np.concatenate([_last_layer_inputs(params, x[i : i + _BATCH], model=model, last=last) for i in starts])


@functools.partial(jax.jit, static_argnames=("model", "last"))
def _last_layer_inputs(params: Params, x: Array, *, model: Model, last: str) -> jax.Array:
    chex.assert_type(x, float)
    inputs = []

    def record_input(call, args, kwargs, context):
        if context.module.path == (last,):
            inputs.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(record_input):
        model.apply(params, x)
    return inputs[0]


@functools.cache
def last_layer_model(model: Model, example_shape: tuple[int, ...]) -> Model:
    """Returns the last layer as a Model of `penultimate_activations`.

    It is initialised as it is in the whole network. The same arguments return the identical object.
    """
    last = last_layer_name(model, example_shape)

    def init(key: jax.Array, activations: Array) -> Params:
        return model.init(key, jnp.zeros((1, *example_shape)))[last]

    def apply(params: Params, activations: Array, key: jax.Array | None = None) -> jax.Array:
        chex.assert_rank(activations, 2)  # [B D]
        layer = nn.Dense(params["kernel"].shape[-1], use_bias="bias" in params)
        return cast(jax.Array, layer.apply({"params": params}, activations))

    return Model(init, apply, f"the last layer of {model.name}")


def describe_mismatch(model: Model, example_shape: tuple[int, ...], body: Params) -> str | None:
    """Returns how `body` differs from the layers below the last one, or None. A last layer in `body` is ignored."""
    last, expected = last_layer_name(model, example_shape), param_shapes(model, example_shape)
    shapes = {path: leaf.shape for path, leaf in flatten(body).items()}
    for path in sorted(expected | shapes):
        if not path.startswith(f"{last}/") and shapes.get(path) != expected.get(path):
            expected_shape = expected.get(path, f"no such layer in {model.name}")
            return f"{path} has shape {shapes.get(path)}, expected {expected_shape}"
    return None


def check_body(model: Model, body: Params, example_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `body` is all layers but the last dense one, and that layer alone makes the logits."""
    mismatch, last = describe_mismatch(model, example_shape, body), last_layer_name(model, example_shape)
    if mismatch is not None:
        raise ValueError(f"frozen: {mismatch}")
    random = np.random.default_rng(0)
    x = random.random((2, *example_shape), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), params)
    try:
        activations = penultimate_activations(model, params, x)
        logits = last_layer_model(model, example_shape).apply(params[last], activations)
        same = np.allclose(logits, jax.jit(model.apply)(params, x), rtol=1e-4, atol=1e-5)
    except (ValueError, IndexError, AssertionError):  # the layer's inputs are not [B D], or it is not a linen layer
        same = False
    if not same:
        raise ValueError(f"frozen: {last} of {model.name} does not make the logits alone, expected a last dense layer")


def frozen_features(model: Model, body: Params, x: Array) -> np.ndarray:
    """Returns `penultimate_activations` [P D] of examples x [P *x], with `body` as all layers but the last."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x[:1])
    unused = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)  # the last layer
    return penultimate_activations(model, unused | body, x)


def attach_last_layers(model: Model, example_shape: tuple[int, ...], body: Params, last_layers: Params) -> Params:
    """Returns the networks with one body and each of the `last_layers` (leaves [... *leaf], as in the result)."""
    leading_shape = last_layers["kernel"].shape[:-2]
    body = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*leading_shape, *leaf.shape)), body)
    return {**body, last_layer_name(model, example_shape): last_layers}
