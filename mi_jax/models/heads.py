"""The last layer of a network of ours apart from the others: what it is shown, and it alone as a `Model`.

Layers that stand still, and draw nothing at random, make the same of a row in every epoch. So they are asked once,
and what is then trained is one layer on their answers.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from mi_jax.types import Array, Model, Params

_ROWS = 512  # a forward pass


def param_shapes(model: Model, example_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """path -> shape of every parameter of a model."""
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *example_shape)))
    if not isinstance(params, Mapping):
        raise ValueError(f"model {model.name}: parameters in a {type(params).__name__}, expected a linen dictionary")
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def last_layer(model: Model, example_shape: tuple[int, ...]) -> str:
    """The name of the last dense layer, which makes the logits of every model of ours."""
    names = {path.split("/")[0] for path in param_shapes(model, example_shape)}
    dense = [name for name in names if name.startswith("Dense_")]
    if not dense:
        raise ValueError(f"model {model.name}: no layer Dense_0, Dense_1, ..., expected one that makes the logits")
    return max(dense, key=lambda name: int(name.rpartition("_")[2]))


def penultimate(model: Model, params: Params, x: Array) -> np.ndarray:
    """What goes into the last dense layer of a model of ours, [P D], for examples x [P *x]."""
    last = last_layer(model, x.shape[1:])
    parts = [_activations(params, x[i : i + _ROWS], model=model, last=last) for i in range(0, len(x), _ROWS)]
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("model", "last"))
def _activations(params: Params, x: Array, *, model: Model, last: str) -> jax.Array:
    seen = []

    def tap(call, args, kwargs, context):
        if context.module.path == (last,):
            seen.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(tap):
        model.apply(params, x)
    return seen[0]


@functools.cache
def head_of(model: Model, example_shape: tuple[int, ...]) -> Model:
    """The last layer as a Model of what `penultimate` gives; it begins as it does in the whole network. The same
    arguments return the identical object."""
    last = last_layer(model, example_shape)

    def init(key: jax.Array, features: Array) -> Params:
        return model.init(key, jnp.zeros((1, *example_shape)))[last]

    def apply(params: Params, features: Array, key: jax.Array | None = None) -> jax.Array:
        layer = nn.Dense(params["kernel"].shape[-1], use_bias="bias" in params)
        return layer.apply({"params": params}, features)

    return Model(init, apply, f"the last layer of {model.name}")


def mismatch(model: Model, example_shape: tuple[int, ...], body: Params) -> str | None:
    """In what `body` is not the layers of the model below its last one, or None; what it has of that is passed over."""
    last, expected = last_layer(model, example_shape), param_shapes(model, example_shape)
    found = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(body, sep="/").items()}
    for path in sorted(expected | found):
        if not path.startswith(f"{last}/") and found.get(path) != expected.get(path):
            wanted = expected.get(path, f"no such layer in {model.name}")
            return f"{path} has shape {found.get(path)}, expected {wanted}"
    return None


def check_body(model: Model, body: Params, example_shape: tuple[int, ...]) -> None:
    """ValueError unless `body` is all layers of the model but the last dense one, and that makes the logits."""
    wrong, last = mismatch(model, example_shape, body), last_layer(model, example_shape)
    if wrong is not None:
        raise ValueError(f"frozen: {wrong}")
    random = np.random.default_rng(0)
    x = random.random((2, *example_shape), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), params)
    try:
        made = head_of(model, example_shape).apply(params[last], penultimate(model, params, x))
        alike = np.allclose(made, model.apply(params, x), rtol=1e-4, atol=1e-5)
    except (ValueError, IndexError):  # the layer sees no rows [B D], or is none of flax
        alike = False
    if not alike:
        raise ValueError(f"frozen: {last} of {model.name} does not make the logits alone, expected a last dense layer")


def frozen_features(model: Model, body: Params, x: Array) -> np.ndarray:
    """`penultimate` of examples x [P *x] by the layers `body`, which are all but the last."""
    return penultimate(model, model.init(jax.random.key(0), x[:1]) | body, x)


def join(model: Model, example_shape: tuple[int, ...], body: Params, last: Params) -> Params:
    """The networks of the same layers `body` under each of the last layers `last` [... *leaf]."""
    axes = last["kernel"].shape[:-2]
    still = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*axes, *leaf.shape)), body)
    return {**still, last_layer(model, example_shape): last}
