"""The attack network of adversarial regularisation, trained together with a model; the model's loss includes it.

**Source**: Nasr, Shokri, Houmansadr 2018 (arXiv 1807.05852), algorithm 1 and figure 3, with the paper's settings (arXiv
2007.14321v2, A.2): Adam at 1e-3, one step of the attack network per step of the model, and three epochs of warm-up.
Deviation: the attack network is trained. The authors' code tests `step % k == 0`, and with k = 1 never trains it.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from mi_jax.types import AdversarialRegularizer

_WARM_UP = 3  # epochs
_OPTIMIZER = optax.adam(1e-3)


class _AttackNetwork(nn.Module):
    """Maps probabilities [B C] and one-hot labels [B C] to log-odds [B] of membership."""

    @nn.compact
    def __call__(self, probabilities: jax.Array, labels: jax.Array) -> jax.Array:
        def branch(x: jax.Array, *widths: int) -> jax.Array:
            for width in widths:
                x = nn.relu(nn.Dense(width)(x))
            return x

        both = jnp.concatenate([branch(probabilities, 1024, 512, 64), branch(labels, 512, 64)], -1)
        return nn.Dense(1)(branch(both, 256, 64))[:, 0]


@functools.cache
def attack_network() -> AdversarialRegularizer:
    """Returns the regularizer: a membership classifier h, and the term strength * log h(member) of the model's loss."""
    return AdversarialRegularizer(_init, _update, _loss, _WARM_UP)


def _init(key: jax.Array, num_classes: int) -> tuple[Any, optax.OptState]:
    example = jnp.zeros((1, num_classes))
    params = _AttackNetwork().init(key, example, example)
    return params, _OPTIMIZER.init(params)


def _log_odds(params: Any, logits: jax.Array, y: jax.Array) -> jax.Array:
    probabilities, labels = nn.softmax(logits), jax.nn.one_hot(y, logits.shape[-1])
    return cast(jax.Array, _AttackNetwork().apply(params, probabilities, labels))


def _update(state, members, reference):
    """Returns the state after one Adam step on the cross-entropy, with equal weight for members and reference rows."""
    params, moments = state

    def mean_loss(params, sign: float, logits, y, weight):
        return jnp.sum(weight * nn.softplus(-sign * _log_odds(params, logits, y))) / jnp.sum(weight)

    grads = jax.grad(lambda params: mean_loss(params, 1.0, *members) + mean_loss(params, -1.0, *reference))(params)
    updates, moments = _OPTIMIZER.update(grads, moments, params)
    return optax.apply_updates(params, updates), moments


def _loss(strength, state, logits: jax.Array, y: jax.Array) -> jax.Array:
    return -strength * nn.softplus(-_log_odds(state[0], logits, y))  # strength * log sigmoid
