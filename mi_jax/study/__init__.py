"""A study: data, split, trained models and their oracles. Commands and notebooks start from one.

`prepare` makes a study of a `Config`, `attack` runs attacks on it, `run` does both. `prepare_grid` makes one study for
each of several defenses; `non_adaptive` is the attacker who does not know of one. `config` has the settings, `runs`
the cache of an interrupted run.
"""

from mi_jax.study.config import Config
from mi_jax.study.ensembles import build_defenses, target_oracles
from mi_jax.study.studies import (
    Study,
    attack,
    defense_folder,
    draw_split,
    non_adaptive,
    prepare,
    prepare_grid,
    run,
    study_environments,
)

__all__ = [
    "Config",
    "Study",
    "attack",
    "build_defenses",
    "defense_folder",
    "draw_split",
    "non_adaptive",
    "prepare",
    "prepare_grid",
    "run",
    "study_environments",
    "target_oracles",
]
