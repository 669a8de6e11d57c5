"""One attack on one target of a trial: with one threshold for all points, or with a judgement of every point.

`one_threshold` tunes an attack on shadow models and applies it; `per_example` compares every point with shadow models
trained with and without it; both choose their threshold on shadow models. `cross_fit` does without them. `groups` runs
all trials of an audit.
"""

from mi_jax.trials.cross_fit import LEAST
from mi_jax.trials.groups import Plan, group_attacks, planned_queries, run_group
from mi_jax.trials.one_threshold import TUNING_POINTS, Chosen, Trial, choose, tune

__all__ = [
    "LEAST",
    "TUNING_POINTS",
    "Chosen",
    "Plan",
    "Trial",
    "choose",
    "group_attacks",
    "planned_queries",
    "run_group",
    "tune",
]
