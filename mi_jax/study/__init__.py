"""A study: data, split, trained models and their oracles. Commands and notebooks start from one.

`prepare` makes a study from a `Config`, `attack` runs attacks on it, `run` does both. `prepare_grid` makes one study
for each of several defenses; `non_adaptive` is the study of an attacker who does not know of the defense.
`query_curve` is an attack's accuracy against its queries. `config` has the settings, `runs` the cache of an interrupted
run.
"""

from mi_jax.study.config import Config
from mi_jax.study.curves import Curve, query_curve
from mi_jax.study.ensembles import build_defenses, target_oracles
from mi_jax.study.studies import (
    Study,
    attack,
    draw_split,
    identify,
    non_adaptive,
    prepare,
    prepare_grid,
    run,
)

__all__ = [
    "Config",
    "Curve",
    "Study",
    "attack",
    "build_defenses",
    "draw_split",
    "identify",
    "non_adaptive",
    "prepare",
    "prepare_grid",
    "query_curve",
    "run",
    "target_oracles",
]
