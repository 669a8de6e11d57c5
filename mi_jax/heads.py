"""The last layer of a network of ours apart from the others: what it is shown, and it alone as a `Model`.

Layers that stand still make the same of a row in every epoch. So they are asked once, and what is then trained is
one layer on their answers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from mi_jax import models
from mi_jax.types import Array, Model, Params

_ROWS = 512  # a forward pass


def shapes(model: Model, example_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """path -> shape of every parameter of a model."""
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *example_shape)))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def last_layer(model: Model, example_shape: tuple[int, ...]) -> str:
    """The name of the layer that makes the logits: the last dense one."""
    names = {path.split("/")[0] for path in shapes(model, example_shape)}
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
    """The last layer as a Model of what `penultimate` gives: it begins as in the whole network, and of the dropout
    slots it has the one before it. The same arguments return the identical object."""
    last = last_layer(model, example_shape)

    def init(key: jax.Array, features: Array) -> Params:
        return model.init(key, jnp.zeros((1, *example_shape)))[last]

    def apply(params: Params, features: Array, key: jax.Array | None = None, dropout: float | jax.Array = 0.0):
        layer = nn.Dense(params["kernel"].shape[-1], use_bias="bias" in params)
        return layer.apply({"params": params}, models.dropping(key, dropout)(features))

    return Model(init, apply, f"the last layer of {model.name}")


def behind(model: Model, body: Params, x: Array) -> np.ndarray:
    """`penultimate` of examples x [P *x] by the layers `body`, which are all but the last."""
    return penultimate(model, model.init(jax.random.key(0), x[:1]) | body, x)


def joined(model: Model, example_shape: tuple[int, ...], body: Params, heads: Params) -> Params:
    """The networks of the same layers `body` under each of the last layers `heads` [... *leaf]."""
    ahead = jax.tree.leaves(heads)[0].shape[: heads["kernel"].ndim - 2]
    still = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*ahead, *leaf.shape)), body)
    return {**still, last_layer(model, example_shape): heads}
