"""Differentially private training: `Mechanism` holds sampler, clip and noise, `epsilon` what follows from them.

`per_example` has the sums of clipped gradients that a private step is made of.
"""

from mi_jax.privacy.dp_sgd import (
    Mechanism,
    batch_size,
    check_mechanism,
    epsilon,
    gradient,
    noisy,
    rate,
    sample,
    solve_noise,
    statement,
    truncation,
)

__all__ = [
    "Mechanism",
    "batch_size",
    "check_mechanism",
    "epsilon",
    "gradient",
    "noisy",
    "rate",
    "sample",
    "solve_noise",
    "statement",
    "truncation",
]
