"""Sums of clipped per-example gradients, by one batched backward pass where a model's layers allow it.

`clipped_sum` is the reference: it takes any model and computes one gradient per example. `bookkeeping_sum` gives the
same sum, up to rounding, several times faster. These sums are not private; `dp_sgd` adds the sampler and the noise.

**Source**: arXiv 1607.00133 (clipping), 2210.00038 (book-keeping).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax import lax

from mi_jax.models import architectures
from mi_jax.types import Array, Model, Params

_EXACT = lax.Precision.HIGHEST  # an accelerator's 10-bit products would let a clipped norm exceed the clip

Batch = Any  # a pytree of arrays [B ...], one entry per example


class ClippedSum(NamedTuple):
    """A sum of clipped gradients. Only the `dp_sgd.noisy_mean` of `total` may be published."""

    total: Params  # the sum, shaped like the parameters
    norm: jax.Array  # [B] before clipping; 0 where the weight is 0, not finite where the example was dropped
    loss: jax.Array  # [B] 0 where the weight is 0
    dropped: jax.Array  # [] int32, the number of examples of positive weight whose gradient is not finite


def unsupported_reason(model: Model, params: Params, x: Array) -> str | None:
    """Returns why `bookkeeping_sum` does not support this model, or None. Only shapes of params and x [B *x] count."""
    if not isinstance(params, Mapping):
        return f"parameters in a {type(params).__name__}, expected the dictionary of a linen model"
    try:
        record = functools.partial(_record_layers, lambda params, x: model.apply(params, x).sum(-1))
        two_examples = jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)
        _, inputs, _ = jax.eval_shape(record, params, two_examples, {})
        _check_layers(params, inputs, 2)
    except ValueError as error:
        return str(error)
    return None


def choose_clipped_sum(model: Model, params: Params, x: Array) -> Callable[..., ClippedSum]:
    """Returns `bookkeeping_sum` if it supports this model, else `clipped_sum` with the arguments of the former."""
    if unsupported_reason(model, params, x) is None:
        return bookkeeping_sum

    def reference_sum(losses_fn, params, batch, weight, clip):
        def loss_fn(params, example):
            return losses_fn(params, jax.tree.map(lambda leaf: leaf[None], example))[0]

        return clipped_sum(loss_fn, params, batch, weight, clip)

    return reference_sum


def clipped_sum(loss_fn: Callable[[Params, Batch], jax.Array], params: Params, batch: Batch, weight: jax.Array,
                clip: float | jax.Array, *, microbatch: int = 16) -> ClippedSum:  # fmt: skip
    """Returns the sum over the batch of weight * (the example's gradient, scaled down to L2 norm `clip` if longer).

    Args:
      loss_fn: (params, example) -> scalar; an example is one entry of `batch`, without its first axis.
      params: any pytree. The norm is taken over all parameters together.
      batch: leaves [B ...].
      weight: [B], 0 or 1. An example of weight 0 contributes exactly 0, whatever it holds.
      clip: scalar, more than 0.
      microbatch: how many examples' gradients are in memory at a time. Microbatches after the last positive weight
        are not computed.

    An example whose gradient is not finite is dropped and counted. This is the reference: it takes any model, and is
    about 5 times slower than `bookkeeping_sum`.
    """

    def sum_part(part: Batch, weight: jax.Array) -> ClippedSum:
        losses, grads = jax.vmap(jax.value_and_grad(loss_fn), (None, 0))(params, part)
        scale, statistics = _scale([_squares(leaf) for leaf in jax.tree.leaves(grads)], losses, weight, clip)
        return statistics._replace(total=jax.tree.map(functools.partial(_weighted_sum, scale), grads))

    return _sum_microbatches(sum_part, params, batch, weight, microbatch)


def bookkeeping_sum(losses_fn: Callable[[Params, Batch], jax.Array], params: Params, batch: Batch, weight: jax.Array,
                    clip: float | jax.Array, *, microbatch: int = 16) -> ClippedSum:  # fmt: skip
    """Returns what `clipped_sum` does, up to rounding, from one backward pass of each whole microbatch.

    `losses_fn(params, batch)` -> [B], one loss per example, of a linen model whose rows are independent. Its trained
    parameters must be the kernels and biases of `nn.Dense` layers on rows [B I] and of the 3x3 convolutions of
    `models.architectures`, each layer used once. Raises ValueError naming other parameters or layers. `params` is the
    linen dictionary; the other arguments are those of `clipped_sum`.

    The backward pass gives the gradient g of the loss at each layer's output. A dense layer with input a has the
    gradient a g^T, of norm |a| |g|, and the weighted sum is one matrix product. A convolution takes nine small
    products per example.
    """

    def sum_part(part: Batch, weight: jax.Array) -> ClippedSum:
        _, inputs, outputs = jax.eval_shape(functools.partial(_record_layers, losses_fn), params, part, {})
        _check_layers(params, inputs, len(weight))
        zeros = {path: jnp.zeros(output.shape, output.dtype) for path, output in outputs.items()}

        def summed_loss(offsets):
            losses, inputs, _ = _record_layers(losses_fn, params, part, offsets)
            return jnp.sum(losses), (losses, inputs)

        grads, (losses, inputs) = jax.grad(summed_loss, has_aux=True)(zeros)  # grads: path -> [B ...]
        layers = {path: (_dense if g.ndim == 2 else _conv)(inputs[path], g) for path, g in grads.items()}
        scale, statistics = _scale([squares for squares, _ in layers.values()], losses, weight, clip)
        sums = {(*path, k): leaf for path, (_, sum_fn) in layers.items() for k, leaf in sum_fn(scale).items()}
        return statistics._replace(total=traverse_util.unflatten_dict(sums))

    return _sum_microbatches(sum_part, params, batch, weight, microbatch)


def _sum_microbatches(sum_part: Callable[[Batch, jax.Array], ClippedSum], params: Params, batch: Batch,
                      weight: jax.Array, microbatch: int) -> ClippedSum:  # fmt: skip
    """Returns the ClippedSum of a batch from those of its microbatches, up to the last positive weight."""
    chex.assert_rank(weight, 1)
    chex.assert_type(weight, float)
    B = len(weight)
    chex.assert_tree_shape_prefix(batch, (B,))
    size = min(microbatch, B)
    padded = -(-B // size) * size
    if padded != B:  # fill the last microbatch with copies of the last row, of weight 0
        batch = jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(padded), B - 1)], batch)
    weight = jnp.pad(weight, (0, padded - B))
    num_parts = (jnp.max(jnp.where(weight > 0, jnp.arange(padded), -1)) + size) // size

    def add_part(i, result: ClippedSum) -> ClippedSum:
        part = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, i * size, size), (batch, weight))
        new = sum_part(*part)
        return ClippedSum(
            total=jax.tree.map(jnp.add, result.total, new.total),
            norm=lax.dynamic_update_slice_in_dim(result.norm, new.norm, i * size, 0),
            loss=lax.dynamic_update_slice_in_dim(result.loss, new.loss, i * size, 0),
            dropped=result.dropped + new.dropped,
        )

    zeros = jax.tree.map(jnp.zeros_like, params)
    result = ClippedSum(zeros, jnp.zeros(padded), jnp.zeros(padded), jnp.array(0, jnp.int32))
    result = lax.fori_loop(0, num_parts, add_part, result)
    return result._replace(norm=result.norm[:B], loss=result.loss[:B])


def _scale(squares: list[jax.Array], losses: jax.Array, weight: jax.Array, clip) -> tuple[jax.Array, ClippedSum]:
    """Returns the factor [B] of each example's gradient, and a ClippedSum without total.

    `squares` holds, for each part of the gradient, the squared norms [B] of the examples.
    """
    norm = jnp.sqrt(sum(squares))
    included, dropped = weight > 0, (weight > 0) & ~jnp.isfinite(norm)
    scale = jnp.where(included & ~dropped, weight * jnp.minimum(1.0, clip / norm), 0.0)
    num_dropped = jnp.sum(dropped, dtype=jnp.int32)
    return scale, ClippedSum(None, jnp.where(included, norm, 0.0), jnp.where(included, losses, 0.0), num_dropped)


def _finite(x: jax.Array) -> jax.Array:
    return jnp.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)  # rows with such entries are multiplied by 0


def _squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.reshape(len(x), -1)), 1)  # [B]


def _weighted_sum(scale: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tensordot(scale, _finite(x), 1, precision=_EXACT)


def _dense(a: jax.Array, g: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Returns the squared norms [B] of the gradients (a g^T, g), and scale [B] -> their weighted sums.

    The layer has the inputs a [B I] and, at its outputs, the gradients g [B O].
    """

    def sum_fn(scale: jax.Array) -> dict[str, jax.Array]:
        kernel = jnp.dot(_finite(a).T * scale, _finite(g), precision=_EXACT)
        return {"kernel": kernel, "bias": _weighted_sum(scale, g)}

    return (_squares(a) + 1) * _squares(g), sum_fn


def _conv(a: jax.Array, g: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Returns what `_dense` does, for a 3x3 convolution with padded inputs a [B H+2 W+2 I] and g [B H W O]."""
    H, W = g.shape[1:3]
    corners = [a[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
    kernels = [jnp.einsum("bhwi,bhwo->bio", corner, g, precision=_EXACT) for corner in corners]
    bias = jnp.sum(g, (1, 2))

    def sum_fn(scale: jax.Array) -> dict[str, jax.Array]:
        kernel = jnp.stack([_weighted_sum(scale, kernel) for kernel in kernels])  # [9 I O]
        return {"kernel": kernel.reshape(3, 3, *kernel.shape[1:]), "bias": _weighted_sum(scale, bias)}

    return sum(_squares(kernel) for kernel in kernels) + _squares(bias), sum_fn


def _record_layers(losses_fn, params: Params, batch: Batch, offsets: dict) -> tuple[jax.Array, dict, dict]:
    """Returns the losses [B], and path -> input and path -> output of every layer that `bookkeeping_sum` supports.

    `offsets` (path -> [B ...]) are added to the outputs; the gradient with respect to an offset is the gradient at
    that output. Layers whose parameters are not in `params` are frozen and are skipped.
    """
    inputs, outputs, trained = {}, {}, traverse_util.flatten_dict(params)

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        module, path, conv = context.module, context.module.path, isinstance(context.module, architectures.Conv3x3)
        supported = conv or (type(module) is nn.Dense and args[0].ndim == 2)  # a subclass may differ
        if not supported or (*path, "kernel") not in trained:
            return output
        if path in inputs:
            raise ValueError(f"layer {'/'.join(path)} is used twice: expected once, or take clipped_sum")
        padding = [(0, 0)] + 2 * [(module.padding,) * 2] + [(0, 0)] if conv else 0
        inputs[path] = jnp.pad(args[0], padding)
        outputs[path] = output + offsets[path] if offsets else output
        return outputs[path]

    with nn.intercept_methods(record):
        return losses_fn(params, batch), inputs, outputs


def _check_layers(params: Params, inputs: dict, size: int) -> None:
    for path, shape in ((path, leaf.shape) for path, leaf in inputs.items()):
        if shape[0] != size:
            raise ValueError(f"layer {'/'.join(path)} has {shape[0]} input rows for {size} examples: expected {size}")
    supported = {(*path, name) for path in inputs for name in ("kernel", "bias")}
    other = ["/".join(path) for path in supported ^ set(traverse_util.flatten_dict(params))]
    if other:
        expected = "expected kernel and bias of dense layers and of our 3x3 convolutions, or take clipped_sum"
        raise ValueError(f"parameters {', '.join(sorted(other))}: {expected}")
