"""The settings of a run: one frozen `Config`, the defaults of each data set, and the presets."""

import dataclasses

import numpy as np

from mi_jax import attacks, data, defenses
from mi_jax.data import splits
from mi_jax.types import Dataset

IMAGE_ATTACKS = ("gap", "rotation", "translation", "noise", "confidence_threshold", "confidence_network")
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


HELP = {
    "dataset": f"{', '.join(data.DATASETS)}, or npz:FILE with arrays x [N ...] in [0, 1] and y [N]",
    "data_dir": "folder with the original files of the data set; default: $MI_JAX_DATA/DATASET",
    "model": "mlp (one hidden layer of 128), mlp2 (two), mlp:64,32 (any), cnn, wide_resnet (depth 28, width 2), "
    "wide_resnet:16,1 (any); default: the data set's",
    "n_train": "training rows of each model",
    "num_targets": "number of target models",
    "num_shadows": "shadow models per target",
    "num_points": "members, and as many non-members, attacked of each model; default: n_train",
    "attacks": f"comma-separated names, of: {', '.join(attacks.ATTACKS)}",
    "split": "disjoint (shadow models are trained on other rows than the target), swap (on the target's rows with "
    "members and non-members exchanged; needs half the rows), balanced (every row is a member of half of the models)",
    "defense": f"NAME, NAME:STRENGTH or NAME:STRENGTH+NAME:STRENGTH, of: {', '.join(defenses.DEFENSES)}",
    "checkpoint": "pretrained network of transfer learning; default: the file that experiments.pretrain writes",
    "clip": "private training: largest L2 norm of the gradient of one example",
    "delta": "private training: the delta of (epsilon, delta); default: 1/n_train",
    "private_epochs": "private training: number of epochs",
    "private_rate": "private training: learning rate; default: the defense's",
    "budget": "queries per example, for attacks that can use any number (noise, boundary, rays, random_augmentation; "
    "for combined: queries per copy)",
    "cap": "largest number of queries of one attack to one target; points beyond it stay unfinished; default: no cap",
    "allow_random_target": "attack a target although it answers the same input differently when queried again; "
    "implied by defenses with random answers",
    "seed": "random seed of the split, of training and of all attacks",
    "preset": "smoke (takes seconds), cpu (the default), paper (the paper's sizes; in an audit its numbers of targets "
    "and shadow models and its budget, with the data set's n_train)",
}

# The settings of --dataset=NAME alone. Location's 5,010 rows do not suffice for four sets of the paper's 1,600.
DEFAULTS = {
    "digits": {
        "model": "mlp",
        "n_train": 100,
        "num_targets": 15,
        "num_shadows": 4,
        "attacks": IMAGE_ATTACKS,
        "budget": 500,
    },
    "location30": {
        "model": "mlp2",
        "n_train": 1200,
        "num_targets": 3,
        "num_shadows": 1,
        "attacks": TABLE_ATTACKS,
        "budget": 500,
    },
    "adult": {"model": "mlp2"},
    "texas100": {"model": "mlp2"},
}
PRESETS = {
    "smoke": {"n_train": 40, "num_targets": 2, "num_shadows": 1, "budget": 20},
    "cpu": {},
    "paper": {"num_targets": 3, "num_shadows": 1, "budget": 2500},
}


def defaults_for(dataset: Dataset) -> dict:
    """The default settings of a data set; without an entry in DEFAULTS (npz files) they fit its number of rows."""
    known = DEFAULTS.get(dataset.name, {})
    image = dataset.binary is None
    return {
        "model": "cnn" if image and min(dataset.x.shape[1:3]) >= 16 else "mlp",
        "n_train": max(1, min(len(dataset.x) // 4, 1000)),
        "num_targets": 5,
        "num_shadows": 1,
        "attacks": IMAGE_ATTACKS if image else TABLE_ATTACKS,
        "budget": 250,
    } | known


def resolve(config: Config, dataset: Dataset) -> Resolved:
    """The config with every default filled in, and checked: flags override the preset, the preset the data set."""
    if config.split not in splits.SPLITS:
        raise ValueError(f"unknown split {config.split!r}: known are {', '.join(splits.SPLITS)}")
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}: known are {', '.join(PRESETS)}")
    given = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    values = defaults_for(dataset) | PRESETS[config.preset] | given
    values.setdefault("num_points", values["n_train"])
    for name in ("n_train", "num_targets", "num_shadows", "num_points", "budget", "private_epochs"):
        if values[name] < 1:
            raise ValueError(f"{name}={values[name]}: expected at least 1")
    for name, limit in (("clip", np.inf), ("private_rate", np.inf), ("delta", 1)):
        if values.get(name) is not None and not 0 < values[name] < limit:
            raise ValueError(f"{name}={values[name]}: expected more than 0 and less than {limit:g}")
    if config.cap is not None and config.cap < 1:
        raise ValueError(f"cap={config.cap}: expected at least 1")
    if values["num_points"] * values["num_shadows"] < 2:
        raise ValueError(
            f"num_points={values['num_points']}: expected at least 2 with num_shadows=1, since tuning holds out a half"
        )
    if values["num_points"] > values["n_train"]:
        raise ValueError(f"num_points={values['num_points']}: expected at most n_train={values['n_train']}")
    if not values["attacks"] or len(set(values["attacks"])) != len(values["attacks"]):
        raise ValueError(f"attacks={','.join(values['attacks'])}: expected at least one, none of them twice")
    if not 0 <= values["seed"] < 2**32:
        raise ValueError(f"seed={values['seed']}: expected a whole number in 0..{2**32 - 1}")
    return Resolved(**vars(config) | values)
