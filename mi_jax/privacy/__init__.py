"""Differentially private training: a `Mechanism` holds sampler, clip and noise, and `epsilon` follows from it.

`per_example` computes the sums of clipped per-example gradients that a private step is made of.
"""

from mi_jax.privacy.dp_sgd import (
    Mechanism,
    batch_size,
    check_mechanism,
    epsilon,
    noisy_mean,
    poisson_sample,
    private_gradient,
    sampling_rate,
    solve_noise,
    statement,
    truncation_bound,
)

__all__ = [
    "Mechanism",
    "batch_size",
    "check_mechanism",
    "epsilon",
    "noisy_mean",
    "poisson_sample",
    "private_gradient",
    "sampling_rate",
    "solve_noise",
    "statement",
    "truncation_bound",
]
