"""Sums of clipped per-example gradients, by one batched backward pass where a model's layers allow it.

`clipped_sum` is the reference: any model, one gradient an example. `book_kept_sum` gives the same to rounding several
times faster. What makes such a sum private, the sampler and the noise, is in `privacy.py`.

**Source**: arXiv 1607.00133 (clipping), 2210.00038 (book-keeping).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax import lax

from mi_jax.models import architectures
from mi_jax.types import Model, Params

_EXACT = lax.Precision.HIGHEST  # an accelerator's 10-bit products would let a clipped norm exceed the clip

Batch = Any  # a pytree of arrays [B ...], one entry per example


class Clipped(NamedTuple):
    """A sum of clipped gradients. Only `total`, once `noisy`, may be published."""

    total: Params  # as the parameters
    norm: jax.Array  # [B] before clipping, 0 where the weight is 0, not finite where the example was dropped
    loss: jax.Array  # [B] 0 where the weight is 0
    dropped: jax.Array  # [] int32, examples of positive weight whose gradient is not finite


def obstacle(model: Model, params: Params, x: jax.Array) -> str | None:
    """Why `book_kept_sum` cannot take this model, or None. Shapes alone decide: of parameters and examples x [B *x]."""
    if not isinstance(params, Mapping):
        return f"parameters in a {type(params).__name__}, expected the dictionary of a linen model"
    try:
        taped = functools.partial(_taped, lambda params, x: model.apply(params, x).sum(-1))
        two = jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)
        _, inputs, _ = jax.eval_shape(taped, params, two, {})
        _check_layers(params, inputs, 2)
    except ValueError as error:
        return str(error)
    return None


def clipped_sum_for(model: Model, params: Params, x: jax.Array) -> Callable[..., Clipped]:
    """`book_kept_sum` if it can take this model, or else `clipped_sum` behind the same arguments."""
    if obstacle(model, params, x) is None:
        return book_kept_sum

    def sum_of(losses_of, params, batch, weight, clip):
        def loss_of_one(params, example):
            return losses_of(params, jax.tree.map(lambda leaf: leaf[None], example))[0]

        return clipped_sum(loss_of_one, params, batch, weight, clip)

    return sum_of


def clipped_sum(loss_of_one: Callable[[Params, Batch], jax.Array], params: Params, batch: Batch, weight: jax.Array,
                clip: float | jax.Array, *, microbatch: int = 16) -> Clipped:  # fmt: skip
    """The sum over the batch of weight * (the example's gradient, scaled down to L2 norm `clip` where it is longer).

    `loss_of_one(params, example)` -> scalar, `example` being one entry of `batch`, without its first axis; `weight`
    [B] is 0 or 1. The norm is over all parameters together. An example of weight 0 contributes exactly 0 whatever
    it holds; one whose gradient is not finite is dropped and counted. The gradients of `microbatch` examples exist
    at a time, and microbatches behind the last positive weight are not computed. This is the reference: any model,
    one gradient per example, about 5 times slower than `book_kept_sum`.
    """

    def part_of(part: Batch, weight: jax.Array) -> Clipped:
        losses, grads = jax.vmap(jax.value_and_grad(loss_of_one), (None, 0))(params, part)
        scale, clipped = _scale(sum(_squares(leaf) for leaf in jax.tree.leaves(grads)), losses, weight, clip)
        return clipped._replace(total=jax.tree.map(functools.partial(_weighted, scale), grads))

    return _in_parts(part_of, params, batch, weight, microbatch)


def book_kept_sum(losses_of: Callable[[Params, Batch], jax.Array], params: Params, batch: Batch, weight: jax.Array,
                  clip: float | jax.Array, *, microbatch: int = 16) -> Clipped:  # fmt: skip
    """What `clipped_sum` gives, to rounding, from one backward pass of the whole microbatch.

    `losses_of(params, batch)` -> [B], one loss for each example, of a linen model whose rows do not see each other
    and whose parameters are kernel and bias of `nn.Dense` layers on rows [B I] and of the 3x3 convolutions of
    `models.py`, each used once. ValueError naming what is outside of that. `params` is the linen dictionary.

    The pass gives the gradient g of the loss at each layer's output. A dense layer with input a has the gradient
    a g^T, of norm |a| |g|, and the weighted sum is one product; a convolution takes nine small ones an example.
    """

    def part_of(part: Batch, weight: jax.Array) -> Clipped:
        _, inputs, outputs = jax.eval_shape(functools.partial(_taped, losses_of), params, part, {})
        _check_layers(params, inputs, len(weight))
        zeros = {path: jnp.zeros(output.shape, output.dtype) for path, output in outputs.items()}

        def summed(offsets):
            losses, inputs, _ = _taped(losses_of, params, part, offsets)
            return jnp.sum(losses), (losses, inputs)

        grads, (losses, inputs) = jax.grad(summed, has_aux=True)(zeros)  # grads: path -> [B ...]
        layers = {path: (_dense if g.ndim == 2 else _conv)(inputs[path], g) for path, g in grads.items()}
        scale, clipped = _scale(sum(squares for squares, _ in layers.values()), losses, weight, clip)
        sums = {(*path, k): leaf for path, (_, sums_of) in layers.items() for k, leaf in sums_of(scale).items()}
        return clipped._replace(total=traverse_util.unflatten_dict(sums))

    return _in_parts(part_of, params, batch, weight, microbatch)


def _in_parts(part_of: Callable[[Batch, jax.Array], Clipped], params: Params, batch: Batch, weight: jax.Array,
              microbatch: int) -> Clipped:  # fmt: skip
    """The Clipped of a batch from those of its microbatches, up to the last one that holds a positive weight."""
    B = len(weight)
    size = min(microbatch, B)
    whole = -(-B // size) * size
    if whole != B:  # fill the last microbatch with copies of the last row, of weight 0
        batch = jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(whole), B - 1)], batch)
    weight = jnp.pad(weight, (0, whole - B))
    parts = (jnp.max(jnp.where(weight > 0, jnp.arange(whole), -1)) + size) // size

    def step(i, done: Clipped) -> Clipped:
        part = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, i * size, size), (batch, weight))
        new = part_of(*part)
        return Clipped(
            total=jax.tree.map(jnp.add, done.total, new.total),
            norm=lax.dynamic_update_slice_in_dim(done.norm, new.norm, i * size, 0),
            loss=lax.dynamic_update_slice_in_dim(done.loss, new.loss, i * size, 0),
            dropped=done.dropped + new.dropped,
        )

    start = Clipped(jax.tree.map(jnp.zeros_like, params), jnp.zeros(whole), jnp.zeros(whole), jnp.array(0, jnp.int32))
    done = lax.fori_loop(0, parts, step, start)
    return done._replace(norm=done.norm[:B], loss=done.loss[:B])


def _scale(squares: jax.Array, losses: jax.Array, weight: jax.Array, clip) -> tuple[jax.Array, Clipped]:
    """What each example's gradient is multiplied by [B], from its squared norm [B], and the record without a sum."""
    norm = jnp.sqrt(squares)
    here, dropped = weight > 0, (weight > 0) & ~jnp.isfinite(norm)
    scale = jnp.where(here & ~dropped, weight * jnp.minimum(1.0, clip / norm), 0.0)
    count = jnp.sum(dropped, dtype=jnp.int32)
    return scale, Clipped(None, jnp.where(here, norm, 0.0), jnp.where(here, losses, 0.0), count)


def _finite(x: jax.Array) -> jax.Array:
    return jnp.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)  # rows with such entries are multiplied by 0


def _squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.reshape(len(x), -1)), 1)  # [B]


def _weighted(scale: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tensordot(scale, _finite(x), 1, precision=_EXACT)


def _dense(a: jax.Array, g: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Squared norms [B] of the gradients (a g^T, g), a [B I], g [B O], and scale [B] -> their weighted sums."""

    def sums_of(scale: jax.Array) -> dict[str, jax.Array]:
        return {"kernel": jnp.dot(_finite(a).T * scale, _finite(g), precision=_EXACT), "bias": _weighted(scale, g)}

    return (_squares(a) + 1) * _squares(g), sums_of


def _conv(a: jax.Array, g: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], dict[str, jax.Array]]]:
    """The same of a 3x3 convolution: a [B H+2 W+2 I] with its border, g [B H W O]."""
    H, W = g.shape[1:3]
    corners = [a[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
    kernels = [jnp.einsum("bhwi,bhwo->bio", corner, g, precision=_EXACT) for corner in corners]
    bias = jnp.sum(g, (1, 2))

    def sums_of(scale: jax.Array) -> dict[str, jax.Array]:
        kernel = jnp.stack([_weighted(scale, kernel) for kernel in kernels])  # [9 I O]
        return {"kernel": kernel.reshape(3, 3, *kernel.shape[1:]), "bias": _weighted(scale, bias)}

    return sum(_squares(kernel) for kernel in kernels) + _squares(bias), sums_of


def _taped(losses_of, params: Params, batch: Batch, offsets: dict) -> tuple[jax.Array, dict, dict]:
    """The losses [B], and path -> input and path -> output of every layer that `book_kept_sum` knows.

    `offsets` path -> [B ...] is added to the outputs: the gradient for it is the gradient at the output. Layers
    whose parameters are not in `params` stand still and are passed over.
    """
    inputs, outputs, own = {}, {}, traverse_util.flatten_dict(params)

    def tap(call, args, kwargs, context):
        output = call(*args, **kwargs)
        module, path, conv = context.module, context.module.path, isinstance(context.module, architectures.Conv3x3)
        if not conv and not (isinstance(module, nn.Dense) and args[0].ndim == 2) or (*path, "kernel") not in own:
            return output
        if path in inputs:
            raise ValueError(f"layer {'/'.join(path)} is used twice: expected once, or take clipped_sum")
        border = [(0, 0)] + 2 * [(module.padding,) * 2] + [(0, 0)] if conv else 0
        inputs[path] = jnp.pad(args[0], border)
        outputs[path] = output + offsets[path] if offsets else output
        return outputs[path]

    with nn.intercept_methods(tap):
        return losses_of(params, batch), inputs, outputs


def _check_layers(params: Params, inputs: dict, size: int) -> None:
    for path, shape in ((path, leaf.shape) for path, leaf in inputs.items()):
        if shape[0] != size:
            raise ValueError(f"layer {'/'.join(path)} sees {shape[0]} rows of {size} examples: expected as many")
    known = {(*path, name) for path in inputs for name in ("kernel", "bias")}
    other = ["/".join(path) for path in known ^ set(traverse_util.flatten_dict(params))]
    if other:
        expected = "expected kernel and bias of dense layers and 3x3 convolutions of models.py, or take clipped_sum"
        raise ValueError(f"parameters {', '.join(sorted(other))}: {expected}")
