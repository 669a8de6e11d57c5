"""Defenses that add a function of the parameters to every training loss."""

import jax
import jax.numpy as jnp

from mi_jax.types import Defense, Params


def l1(strength: float) -> Defense:
    """Returns the penalty strength * sum |w| over the kernels of dense layers, as in the paper's code."""
    return Defense(strength=strength, penalty=_l1)


def l2(strength: float) -> Defense:
    """Returns the penalty strength * sum w^2 over the kernels of dense layers, as in the paper's code."""
    return Defense(strength=strength, penalty=_l2)


def l1_all(strength: float) -> Defense:
    """Returns the penalty strength * sum |w| over all parameters, as in the paper's text."""
    return Defense(strength=strength, penalty=_l1_all)


def l2_all(strength: float) -> Defense:
    """Returns the penalty strength * sum w^2 over all parameters, as in the paper's text."""
    return Defense(strength=strength, penalty=_l2_all)


def weight_decay(strength: float) -> Defense:
    """Returns the penalty strength / 2 * sum w^2 over the kernels of all layers, as in FixMatch, which has 5e-4."""
    return Defense(strength=strength, penalty=_weight_decay)


def _l1(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.abs(kernel).sum() for kernel in _dense_kernels(params))


def _l2(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.square(kernel).sum() for kernel in _dense_kernels(params))


def _l1_all(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params))


def _l2_all(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))


def _weight_decay(strength, params: Params) -> jax.Array:
    return strength / 2 * sum(jnp.square(kernel).sum() for kernel in _kernels(params))


def _kernels(params: Params) -> list[jax.Array]:
    """Returns the parameters with two axes or more, whatever their names: biases and scales have one."""
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    if not kernels:
        raise ValueError("penalty: no parameter of the model has two axes, expected the kernel of some layer")
    return kernels


def _dense_kernels(params: Params) -> list[jax.Array]:
    kernels = [kernel for kernel in _kernels(params) if kernel.ndim == 2]
    if not kernels:
        raise ValueError("penalty: no parameter of the model has two axes [I O], expected the kernel of a dense layer")
    return kernels
