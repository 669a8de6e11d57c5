"""Membership inference attacks. Nothing here sees the parameters, training or members of a target: a test of imports.

`build` makes the candidates of one of `ATTACKS`; a new attack is a function and a line in that dict (`catalogue.py`).
`measures` has the simple measures of one example, `boundary` and `rays` its distance to the decision boundary,
`classifiers` the small models fitted on shadow models. `perturbation_attack` makes an attack of your own perturbation.
"""

from mi_jax.attacks.catalogue import ATTACKS, build, find
from mi_jax.attacks.context import AttackContext, context_of, in_units
from mi_jax.attacks.crafted import NEED_SURROGATES, SURROGATES
from mi_jax.attacks.one_threshold import (
    FLIPS,
    MIXED_FLIPS,
    MIXED_SIGMAS,
    SIGMAS,
    TUNING_BUDGET,
    fixed_score,
    last_feature,
    perturbation_attack,
)

__all__ = [
    "ATTACKS",
    "FLIPS",
    "MIXED_FLIPS",
    "MIXED_SIGMAS",
    "NEED_SURROGATES",
    "SIGMAS",
    "SURROGATES",
    "TUNING_BUDGET",
    "AttackContext",
    "build",
    "context_of",
    "find",
    "fixed_score",
    "in_units",
    "last_feature",
    "perturbation_attack",
]
