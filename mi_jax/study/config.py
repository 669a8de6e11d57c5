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
    """One run, as its flags say; None: the data set's own default, resolved before anything is computed."""

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


HELP = {
    "dataset": f"{', '.join(data.DATASETS)}, or npz:FILE with arrays x [N ...] in [0, 1] and y [N]",
    "data_dir": "folder with the originals of the data set; default $MI_JAX_DATA/DATASET",
    "model": "mlp (one hidden layer of 128), mlp2 (two), mlp:64,32 (any), cnn, wide_resnet (depth 28, width 2), "
    "wide_resnet:16,1 (any); default: the data set's",
    "n_train": "training rows of each model",
    "num_targets": "target models, each with shadow models of its own",
    "num_shadows": "shadow models per target",
    "num_points": "members, and as many non-members, attacked of each model; default: all n_train",
    "attacks": f"comma-separated, of: {', '.join(attacks.ATTACKS)}",
    "split": "disjoint (shadow models on rows of their own), swap (on the target's, sides exchanged: needs half the "
    "rows), balanced (every row in half of the models)",
    "defense": f"NAME, NAME:STRENGTH or NAME:STRENGTH+NAME:STRENGTH, of: {', '.join(defenses.DEFENSES)}",
    "checkpoint": "network that transfer begins from; default: where experiments.pretrain writes it",
    "clip": "L2 norm that the gradient of one example is scaled down to in private training",
    "delta": "of private training; default: 1/n_train",
    "private_epochs": "epochs of private training, which no loss ends",
    "private_rate": "learning rate of private training; default: the defense's own",
    "budget": "queries per example of attacks that can spend any number (noise, boundary, rays, random_augmentation; "
    "each copy of combined)",
    "cap": "queries an attack may put to one target in all; what it leaves unfinished is marked; default: no cap",
    "allow_random_target": "go on although a target answers the same input differently when asked again; implied by "
    "defenses that answer at random",
    "seed": "of the split, of training and of every attack",
    "preset": "smoke (seconds), cpu (the default run), paper (the paper's sizes; in an audit its targets, shadow "
    "models and budget, n_train being the data set's)",
}

# What a bare --dataset=NAME runs. Location's four sets at the paper's 1,600 do not exist (5,010 rows).
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
    """The settings of a data set that has none of its own: an npz of the user's."""
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


def resolve(config: Config, dataset: Dataset) -> Config:
    """The config without a None: the data set's defaults, then the preset's, then what was said; checked."""
    if config.split not in splits.SPLITS:
        raise ValueError(f"unknown split {config.split!r}: known are {', '.join(splits.SPLITS)}")
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}: known are {', '.join(PRESETS)}")
    said = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    values = defaults_for(dataset) | PRESETS[config.preset] | said
    values.setdefault("num_points", values["n_train"])
    for name in ("n_train", "num_targets", "num_shadows", "num_points", "budget", "private_epochs"):
        if values[name] < 1:
            raise ValueError(f"{name}={values[name]}: expected at least 1")
    for name, most in (("clip", np.inf), ("private_rate", np.inf), ("delta", 1)):
        if values.get(name) is not None and not 0 < values[name] < most:
            raise ValueError(f"{name}={values[name]}: expected more than 0 and less than {most:g}")
    if config.cap is not None and config.cap < 1:
        raise ValueError(f"cap={config.cap}: expected at least 1")
    if values["num_points"] * values["num_shadows"] < 2:
        raise ValueError(
            f"num_points={values['num_points']}: expected at least 2 with num_shadows=1, a half of them to choose by"
        )
    if values["num_points"] > values["n_train"]:
        raise ValueError(f"num_points={values['num_points']}: expected at most n_train={values['n_train']}")
    if not values["attacks"] or len(set(values["attacks"])) != len(values["attacks"]):
        raise ValueError(f"attacks={','.join(values['attacks'])}: expected at least one, none of them twice")
    if not 0 <= values["seed"] < 2**32:
        raise ValueError(f"seed={values['seed']}: expected a whole number in 0..{2**32 - 1}")
    return dataclasses.replace(config, **values)
