"""The last layer of a network, separated from the layers below it (the body).

Frozen layers that draw nothing at random give the same activations for a row in every epoch. So they are computed
once for each row, and training the last layer means training a one-layer model on these activations.

The last layer is found by what it does: it is the flax `nn.Dense` whose output is the logits.
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


def last_layer_path(model: Model, example_shape: tuple[int, ...]) -> str:
    """Returns the path of the last dense layer: the `nn.Dense` whose output is the logits, whatever its name.

    Raises ValueError for a model without one, and for one that has no layers below it.
    """
    shapes = param_shapes(model, example_shape)
    x = jax.ShapeDtypeStruct((2, *example_shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    kernels: list[str] = []

    def trace(params, x):
        kernels.extend("/".join(["", *path, "kernel"]) for path, _ in _logit_layers(model, params, x))

    jax.eval_shape(trace, params, x)
    # A layer's parameters may lie deeper than its path says: a user's tree may begin with "params".
    paths = [path.removesuffix("/kernel") for path in shapes if kernels and f"/{path}".endswith(kernels[0])]
    if not paths:
        raise ValueError(f"model {model.name}: no nn.Dense makes the logits alone, expected one as the last layer")
    return min(paths, key=len)


def _logit_layers(model: Model, params: Params, x: Array) -> list[tuple[tuple[str, ...], Any]]:
    """Returns (path of the module, input) of the dense layers whose output is the logits: one or none."""
    calls = []

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if type(context.module) is nn.Dense:  # a subclass may compute anything
            calls.append((context.module.path, args, output))
        return output

    with nn.intercept_methods(record):
        logits = model.apply(params, x)
    return [(path, args[0]) for path, args, output in calls if output is logits and path and args]


def layer(params: Params, path: str) -> Params:
    """Returns the parameters of the layer at this path of a linen model."""
    return functools.reduce(lambda node, name: node[name], path.split("/"), params)


def without_layer(params: Params, path: str) -> dict:
    """Returns all other layers."""
    return _nested({name: leaf for name, leaf in flatten(params).items() if not name.startswith(f"{path}/")})


def joined(params: Params, others: Params) -> dict:
    """Returns the layers of both; where both have one, that of `others`."""
    return _nested(flatten(params) | flatten(others))


def _nested(flat: dict[str, Any]) -> dict:
    return cast(dict, traverse_util.unflatten_dict(flat, sep="/"))


def penultimate_activations(model: Model, params: Params, x: Array) -> np.ndarray:
    """Returns the inputs [P D] of the model's last dense layer for examples x [P *x]."""
    last_layer_path(model, x.shape[1:])  # raises if there is none
    starts = range(0, len(x), _BATCH)
    return np.concatenate([_last_layer_inputs(params, x[i : i + _BATCH], model=model) for i in starts])


@functools.partial(jax.jit, static_argnames="model")
def _last_layer_inputs(params: Params, x: Array, *, model: Model) -> jax.Array:
    chex.assert_type(x, float)
    ((_, inputs),) = _logit_layers(model, params, x)
    return inputs


@functools.cache
def last_layer_model(model: Model, example_shape: tuple[int, ...]) -> Model:
    """Returns the last layer as a Model of `penultimate_activations`.

    It is initialised as it is in the whole network. The same arguments return the identical object.
    """
    path = last_layer_path(model, example_shape)

    def init(key: jax.Array, activations: Array) -> Params:
        return layer(model.init(key, jnp.zeros((1, *example_shape))), path)

    def apply(params: Params, activations: Array, key: jax.Array | None = None) -> jax.Array:
        chex.assert_rank(activations, 2)  # [B D]
        dense = nn.Dense(params["kernel"].shape[-1], use_bias="bias" in params)
        return cast(jax.Array, dense.apply({"params": params}, activations))

    return Model(init, apply, f"the last layer of {model.name}")


def describe_mismatch(model: Model, example_shape: tuple[int, ...], body: Params) -> str | None:
    """Returns how `body` differs from the layers below the last one, or None. A last layer in `body` is ignored."""
    last, expected = last_layer_path(model, example_shape), param_shapes(model, example_shape)
    shapes = {path: leaf.shape for path, leaf in flatten(body).items()}
    for path in sorted(expected | shapes):
        if not path.startswith(f"{last}/") and shapes.get(path) != expected.get(path):
            expected_shape = expected.get(path, f"no such layer in {model.name}")
            return f"{path} has shape {shapes.get(path)}, expected {expected_shape}"
    return None


def check_body(model: Model, body: Params, example_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `body` is all layers but the last dense one, and that layer alone makes the logits."""
    mismatch, last = describe_mismatch(model, example_shape, body), last_layer_path(model, example_shape)
    if mismatch is not None:
        raise ValueError(f"frozen: {mismatch}")
    random = np.random.default_rng(0)
    x = random.random((2, *example_shape), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), params)
    try:
        activations = penultimate_activations(model, params, x)
        logits = last_layer_model(model, example_shape).apply(layer(params, last), activations)
        same = np.allclose(logits, jax.jit(model.apply)(params, x), rtol=1e-4, atol=1e-5)
    except (ValueError, IndexError, AssertionError):  # the layer's inputs are not [B D], or it is not a linen layer
        same = False
    if not same:
        raise ValueError(f"frozen: {last} of {model.name} does not make the logits alone, expected a last dense layer")


def frozen_features(model: Model, body: Params, x: Array) -> np.ndarray:
    """Returns `penultimate_activations` [P D] of examples x [P *x], with `body` as all layers but the last."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x[:1])
    unused = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)  # the last layer
    return penultimate_activations(model, joined(unused, body), x)


def attach_last_layers(model: Model, example_shape: tuple[int, ...], body: Params, last_layers: Params) -> Params:
    """Returns the networks with one body and each of the `last_layers` (leaves [... *leaf], as in the result)."""
    leading_shape = last_layers["kernel"].shape[:-2]
    body = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*leading_shape, *leaf.shape)), body)
    path = last_layer_path(model, example_shape)
    return joined(body, _nested({f"{path}/{name}": leaf for name, leaf in last_layers.items()}))
