"""The settings of a run: one frozen `Config`, the defaults of each data set, and the presets."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np

from mi_jax import attacks, data, defenses, trials
from mi_jax.data import splits
from mi_jax.querying.collect import max_cost, select_points
from mi_jax.querying.sizes import POINTS
from mi_jax.types import Attack, Dataset, PerExample, Split

# More is a slip of the keyboard: 10^10 queries take hours on an accelerator, a day on a few cores.
MAX_BUDGET, MAX_QUERIES, MAX_MODELS, MAX_EPOCHS = 10**7, 10**10, 10**5, 10**5
IMAGE_ATTACKS = ("gap", "rotation", "translation", "noise", "confidence_threshold", "confidence_network")
STUDY_ATTACKS = ("transfer",)  # those that train models of their own, after those of attacks.ATTACKS
TABLE_ATTACKS = ("gap", "noise", "confidence_threshold", "confidence_network")


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of one run; None: the data set's default, resolved before anything is computed."""

    dataset: str = "digits"
    data_dir: str | None = None
    model: str | None = None
    n_train: int | None = None
    num_targets: int | None = None
    num_shadows: int | None = None
    num_points: int | None = None
    tuning_shadows: int | None = None
    attacks: tuple[str, ...] | None = None
    split: str = "disjoint"
    defense: str = "none"
    checkpoint: str | None = None
    clip: float = 1.0
    delta: float | None = None
    private_epochs: int = 30
    private_rate: float | None = None
    budget: int | None = None
    cap: int | None = None
    allow_random_target: bool = False
    seed: int = 0
    preset: str = "cpu"
    plugin: tuple[str, ...] = ()
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class Resolved(Config):
    """A `Config` in which the data set's defaults stand for what was None; `resolve` makes it."""

    model: str = ""
    n_train: int = 0
    num_targets: int = 0
    num_shadows: int = 0
    num_points: int = 0
    attacks: tuple[str, ...] = ()
    budget: int = 0


BALANCED_ATTACKS = ("gap", "noise", "calibrated_label", "calibrated_noise:5", "calibrated_noise:25", "chosen:1",
                    "chosen:5", "chosen:25", "lira")  # fmt: skip
# The settings of a data set by split. The audit command takes the first split, where one ensemble serves all attacks;
# disjoint is the paper's protocol. Location's 5,010 rows do not suffice for four sets of the paper's 1,600.
ENSEMBLE = {"num_targets": 16, "num_shadows": 63, "tuning_shadows": 4, "attacks": BALANCED_ATTACKS}
DEFAULTS = {
    "digits": {
        "balanced": {"model": "mlp", "n_train": 400, "budget": 250, **ENSEMBLE},
        "disjoint": {
            "model": "mlp",
            "n_train": 100,
            "num_targets": 15,
            "num_shadows": 4,
            "attacks": IMAGE_ATTACKS,
            "budget": 500,
        },
    },
    "location30": {
        "balanced": {"model": "mlp2", "n_train": 1200, "budget": 250, **ENSEMBLE},
        "disjoint": {
            "model": "mlp2",
            "n_train": 1200,
            "num_targets": 3,
            "num_shadows": 1,
            "attacks": TABLE_ATTACKS,
            "budget": 500,
        },
    },
    "adult": {"disjoint": {"model": "mlp2"}},
    "texas100": {"disjoint": {"model": "mlp2"}},
}
OTHERWISE = {"num_targets": 5, "num_shadows": 1, "budget": 250}  # of a data set without an entry
PRESETS = {
    "smoke": {"n_train": 40, "num_targets": 2, "num_shadows": 1, "tuning_shadows": 1, "budget": 20},
    "cpu": {},
    "paper": {"num_targets": 3, "num_shadows": 1, "budget": 2500},
}


def _default(name: str, otherwise: str = "") -> str:
    """The help of a default that depends on the data set, with its default split."""
    first = {dataset: next(iter(by_split.values())) for dataset, by_split in DEFAULTS.items()}
    own = [f"{values[name]} for {dataset}" for dataset, values in first.items() if name in values]
    return f"; default: {', '.join([*own, f'else {otherwise or OTHERWISE[name]}'])}"


HELP = {
    "dataset": f"{', '.join(data.DATASETS)}, or npz:FILE with arrays x [N ...] in [0, 1] and y [N], "
    "folder:PATH with a folder of images for each class, tfds:NAME of TensorFlow Datasets, prepared before",
    "data_dir": "folder with the original files of the data set; default: $MI_JAX_DATA/DATASET; of a tfds:NAME the "
    "folder where it was prepared (--tfds_dir is the same flag)",
    "model": "mlp (one hidden layer of 128), mlp2 (two), mlp:64,32 (any), cnn, wide_resnet (depth 28, width 2), "
    "wide_resnet:16,1 (any)" + _default("model", "cnn for images of 16x16 or more, mlp"),
    "n_train": "training rows of each model" + _default("n_train", "a quarter of the rows, at most 1000"),
    "num_targets": "number of target models" + _default("num_targets"),
    "num_shadows": "shadow models per target" + _default("num_shadows"),
    "num_points": "members, and as many non-members, attacked of each model; default: n_train",
    "tuning_shadows": "shadow models that an attack with one threshold is tuned on, at most; default: 4 with the "
    "balanced split of digits and location30, else all",
    "attacks": f"comma-separated names, of: {', '.join((*attacks.ATTACKS, *STUDY_ATTACKS))}; NAME:BUDGET is one with a "
    f"budget of its own; default: {','.join(BALANCED_ATTACKS)} for digits and location30, else "
    f"{','.join(IMAGE_ATTACKS)}, for a table those without rotation and translation",
    "split": "disjoint (shadow models are trained on other rows than the target), swap (on the target's rows with "
    "members and non-members exchanged; needs half the rows), balanced (every row is a member of half of the models; "
    "attacks that judge every point need it); default: balanced for digits and location30, else disjoint",
    "defense": f"NAME, NAME:STRENGTH or NAME:STRENGTH+NAME:STRENGTH, of: {', '.join(defenses.DEFENSES)}",
    "checkpoint": "pretrained network of transfer learning; default: the file that experiments.pretrain writes",
    "clip": "private training: largest L2 norm of the gradient of one example",
    "delta": "private training: the delta of (epsilon, delta); default: 1/n_train",
    "private_epochs": "private training: number of epochs",
    "private_rate": "private training: learning rate; default: the defense's",
    "budget": "queries per example, for attacks that can use any number (noise, boundary, rays, random_augmentation; "
    "for combined: queries per copy)" + _default("budget"),
    "cap": "largest number of queries of one attack to one target; points beyond it stay unfinished; default: no cap",
    "allow_random_target": "attack a target although it answers the same input differently when queried again; "
    "implied by defenses with random answers",
    "seed": "random seed of the split, of training and of all attacks",
    "preset": "smoke (takes seconds), cpu (the default), paper (the paper's sizes; in an audit its numbers of targets "
    "and shadow models and its budget, with the data set's n_train)",
    "group": "subgroups of rows for the list of exposed records: a column of a table (its number, from 0), or an array "
    "of an npz file (its name); values of a number with more than 20 of them are grouped by quartiles; default: none",
    "plugin": "comma-separated Python files that add to ATTACKS, PERTURBATIONS, MODELS, DEFENSES, OPTIMIZERS, DATASETS "
    "(docs/extending.md); may be repeated",
}


def default_split(dataset: str, preset: str) -> str:
    """The split of an audit of this data set by the command, unless a flag says another."""
    return "disjoint" if preset == "paper" else next(iter(DEFAULTS.get(dataset, {})), "disjoint")


def defaults_for(dataset: Dataset, split: str = "disjoint") -> dict:
    """The default settings of a data set; without an entry in DEFAULTS (npz files) they fit its number of rows."""
    image = dataset.binary is None
    return {
        "model": "cnn" if image and min(dataset.x.shape[1:3]) >= 16 else "mlp",
        "n_train": max(1, min(len(dataset.x) // 4, 1000)),
        **OTHERWISE,
        "attacks": IMAGE_ATTACKS if image else TABLE_ATTACKS,
    } | DEFAULTS.get(dataset.name, {}).get(split, {})


def audited_attacks(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the attacks `names` that `audit.audit` runs: all but STUDY_ATTACKS.

    ValueError for an unknown name, and for names of STUDY_ATTACKS alone, since a record needs another attack.
    """
    audited = tuple(name for name in names if name not in STUDY_ATTACKS)
    if names and not audited:
        raise ValueError(f"attacks={','.join(names)}: expected another attack besides, as gap")
    for name in audited:
        try:
            attacks.find(name)
        except ValueError as error:
            known = f", {', '.join(STUDY_ATTACKS)}" if str(error).startswith("unknown attack") else ""
            raise ValueError(f"{error}{known}") from None
    return audited


def resolve(config: Config, dataset: Dataset) -> Resolved:
    """The config with every default filled in, and checked: flags override the preset, the preset the data set."""
    if config.split not in splits.SPLITS:
        raise ValueError(f"unknown split {config.split!r}: known are {', '.join(splits.SPLITS)}")
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}: known are {', '.join(PRESETS)}")
    given = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    values = defaults_for(dataset, config.split) | PRESETS[config.preset] | given
    if config.preset == "smoke" and config.split == "balanced":  # of which some must not be trained with a row
        values |= {"num_shadows": 7} | given
    values.setdefault("num_points", values["n_train"])
    _check_sizes(values, dataset)
    for name, limit in (("clip", np.inf), ("private_rate", np.inf), ("delta", 1)):
        if values.get(name) is not None and not 0 < values[name] < limit:
            raise ValueError(f"{name}={values[name]}: expected more than 0 and less than {limit:g}")
    if not values["attacks"] or len(set(values["attacks"])) != len(values["attacks"]):
        raise ValueError(f"attacks={','.join(values['attacks'])}: expected at least one, none of them twice")
    if not 0 <= values["seed"] < 2**32:
        raise ValueError(f"seed={values['seed']}: expected a whole number in 0..{2**32 - 1}")
    return Resolved(**vars(config) | values)


def _check_sizes(values: dict, dataset: Dataset) -> None:
    """Raises ValueError for a number of rows, models, points, queries, epochs or classes that is too small or large."""
    rows = len(dataset.x)
    at_least_one = (
        "n_train",
        "num_targets",
        "num_shadows",
        "num_points",
        "tuning_shadows",
        "budget",
        "private_epochs",
        "cap",
    )
    for name in at_least_one:
        if values.get(name) is not None and values[name] < 1:
            raise ValueError(f"{name}={values[name]}: expected at least 1")
    for name, limit in (("budget", MAX_BUDGET), ("private_epochs", MAX_EPOCHS)):
        if values[name] > limit:
            raise ValueError(f"{name}={values[name]}: expected at most {limit}")
    n_train, num_points, num_targets, num_shadows = (
        values[name] for name in ("n_train", "num_points", "num_targets", "num_shadows")
    )
    if num_targets * (1 + num_shadows) > MAX_MODELS:
        sizes = f"num_targets={num_targets} with num_shadows={num_shadows}"
        raise ValueError(f"{sizes}: {num_targets * (1 + num_shadows)} models, expected at most {MAX_MODELS}")
    if n_train > rows:
        raise ValueError(f"n_train={n_train}: the data set has {rows} rows, expected at most half as many")
    if dataset.num_classes > rows:
        raise ValueError(f"num_classes={dataset.num_classes}: expected at most {rows}, the number of rows")
    if num_points * num_shadows < 2:
        raise ValueError(
            f"num_points={num_points}: expected at least 2 with num_shadows=1, since tuning holds out a half"
        )
    if num_points > n_train:
        raise ValueError(f"num_points={num_points}: expected at most n_train={n_train}")


def check_plan(config: Resolved, dataset: Dataset, split: Split, context: attacks.AttackContext) -> None:
    """Raises ValueError for more than MAX_QUERIES queries, and for a cap under which an attack may finish too little.

    Both count what is asked if every point is labelled correctly. A cap must let an attack finish the members of a
    target and, in the batches in which points are queried, the first non-members.
    """
    candidates = {name: attacks.build(name, context) for name in config.attacks}
    points = [select_points(split, k, config.num_points) for k in range(len(split.members))]
    planned = trials.planned_queries(trials.Plan(dataset, split, points, config.tuning_shadows), candidates)
    if planned > MAX_QUERIES:
        raise ValueError(f"budget={config.budget}: {planned:.2g} queries in all, expected at most {MAX_QUERIES:g}")
    needed_points = min(2 * config.num_points, config.num_points + POINTS)
    for name, grid in candidates.items():
        needed = needed_points * max(map(partial(_largest_cost, dataset), grid))
        if config.cap is not None and config.cap < needed:
            reason = f"{name} may need {needed} queries to finish members and non-members of a target"
            raise ValueError(f"cap={config.cap}: {reason}, expected at least as many")


def _largest_cost(dataset: Dataset, attack: Attack | PerExample) -> int:
    """Queries to a target for one point."""
    if isinstance(attack, Attack):
        return max_cost(dataset, attack.full_budget or attack)
    return attack.settings.get("queries", 1) if attack.statistic is None else max_cost(dataset, attack.statistic)
