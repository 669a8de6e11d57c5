"""ATTACKS: name -> the candidates of an attack. A new attack is a function and a line in this dict.

`one_threshold` has the attacks of the paper, which are tuned on shadow models; `calibrated` those that judge every
point by shadow models trained with and without it. A perturbation is an attack under its own name, and a calibrated
one as calibrated_NAME. NAME:BUDGET is an attack with a budget of its own, as chosen:5.
"""

from collections.abc import Callable
from typing import Any

from mi_jax import perturbations
from mi_jax.attacks import calibrated, crafted, one_threshold
from mi_jax.attacks.context import AttackContext
from mi_jax.types import Attack, PerExample

Make = Callable[[AttackContext], tuple[Any, ...]]  # one or more Attacks, or one PerExample


def build(name: str, context: AttackContext) -> tuple[Any, ...]:
    """The candidates of attack `name`: Attacks, several where a strength is tuned on shadow models, or one PerExample.

    Raises ValueError for an unknown name, and where the function of that name raises or returns no candidates.
    """
    make = find(name)
    _, _, budget = name.partition(":")
    try:
        candidates = make(context._replace(budget=int(budget)) if budget else context)
    except ValueError:
        raise
    except Exception as error:  # the function may be a user's
        text = " ".join(f"{type(error).__name__}: {error}".split("\n")[0].split())
        raise ValueError(f"attack {name!r} raised {text}, expected one or more types.Attack") from error
    expected = "expected a tuple of one or more types.Attack, or of one types.PerExample"
    if not isinstance(candidates, tuple | list) or isinstance(candidates, Attack | PerExample):
        raise ValueError(f"attack {name!r} is made as {type(candidates).__qualname__}, {expected}")
    wrong = [type(one).__qualname__ for one in candidates if not isinstance(one, Attack | PerExample)]
    if wrong or not candidates:
        raise ValueError(f"attack {name!r} is made with {wrong[0] if wrong else 'no candidate'}, {expected}")
    if any(isinstance(one, PerExample) for one in candidates) and len(candidates) > 1:
        raise ValueError(f"attack {name!r} is made with {len(candidates)} candidates, {expected}")
    return tuple(candidates)


def find(name: str) -> Make:
    """The function that makes the candidates of attack `name`: of ATTACKS, or for a family added to PERTURBATIONS.

    Raises ValueError for an unknown name, and for a budget in it that is not a whole number of at least 1.
    """
    base, colon, budget = name.partition(":")
    added = {family: one_threshold.perturbation_family(family) for family in perturbations.PERTURBATIONS}
    added |= {f"calibrated_{family}": calibrated.perturbation_family(family) for family in perturbations.PERTURBATIONS}
    known = added | ATTACKS
    if base not in known:
        raise ValueError(f"unknown attack {name!r}: known are {', '.join(known)}")
    if colon and not (budget.isascii() and budget.isdigit() and int(budget) >= 1):
        raise ValueError(f"attack {name!r}: expected NAME:BUDGET with a whole number of queries of at least 1")
    return known[base]


ATTACKS: dict[str, Make] = {
    "gap": one_threshold.gap,
    **{name: one_threshold.perturbation_family(name) for name in perturbations.PERTURBATIONS},
    "random_augmentation": one_threshold.random_augmentation,
    "noise": one_threshold.noise,
    "boundary": one_threshold.boundary,
    "rays": one_threshold.rays,
    "combined": one_threshold.combined,
    "calibrated_label": calibrated.calibrated_label,
    "calibrated_noise": calibrated.calibrated_noise,
    "calibrated_boundary": calibrated.calibrated_boundary,
    "calibrated_rays": calibrated.calibrated_rays,
    "chosen": calibrated.chosen_queries,
    "chosen_offline": calibrated.chosen_offline,
    "chosen_sequential": calibrated.chosen_sequential,
    "chosen_crafted": crafted.chosen_crafted,
    "dhattack": calibrated.dhattack,
    "oslo": crafted.oslo,
    "calibrated_oslo": crafted.calibrated_oslo,
    "yoqo": crafted.yoqo,
    "yoqo_offline": crafted.yoqo_offline,
    "calibrated_yoqo": crafted.calibrated_yoqo,
    "confidence_threshold": one_threshold.confidence_threshold,
    "confidence_network": one_threshold.confidence_network,
    "lira": calibrated.lira,
    "lira_offline": calibrated.lira_offline,
    "rmia": calibrated.rmia,
    "white_box": one_threshold.white_box,
}
