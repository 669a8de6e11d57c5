"""Figure 4: a wide residual network trained as FixMatch trains its supervised part, with and without augmentation.

Artefact: record.json and fig4.png in --out (default results/records/fig4-PRESET): gap, confidence and augmentation
          attack against the number of training rows, once without and once with all of mirroring, shifts by up to 4
          pixels, cutout and weight decay.
Command:  python -m experiments.paper.fig4_resnet --preset=smoke  digits, a network of 10 layers; seconds
          python -m experiments.paper.fig4_resnet --preset=cpu  CIFAR-10, n = 100, 1,000 steps; hours on two cores
          python -m experiments.paper.fig4_resnet --preset=paper  n = 100 .. 10,000, 10,000 steps: an accelerator
          originals in --data_dir or $MI_JAX_DATA/cifar10; --sizes=100,500 makes some of the points.
Settings: WRN-28-2; SGD with Nesterov momentum 0.9, rate 0.03 falling along a cosine, batch 64, weights averaged with
          0.999; weight decay 5e-4 as a loss on kernels. The attack asks about 1,000 random augmentations of the kind
          trained with, the same for every point, and fits a logistic model to the 1,000 bits.
Expected: PAPER, accuracy in per cent: with augmentation the attack that asks about augmentations is as good as
          confidences (n = 1,000: 86.4 and 83.9), without it far below (58.0 and 84.7).
Differs:  DIFFERS, which the record holds too.
Status:   not yet run
"""

import dataclasses
from pathlib import Path

from absl import flags
from matplotlib import pyplot as plt

from experiments import common
from experiments.paper import records, tables
from experiments.paper.tables import CHEAP, Column, named
from mi_jax import study
from mi_jax.evaluation import plots, report
from mi_jax.study.config import Config
from mi_jax.types import Recipe

REGIMES = {"none": "none", "all": "random_augmentation:4+weight_decay:0.0005"}
SIZES = (100, 200, 500, 1000, 2000, 5000, 10000)
PAPER = {
    "none": {
        "gap": (68.5, 64.8, 58.3, 54.0, 53.8, 53.9, 53.1),
        "augmentation": (76.5, 75.3, 60.4, 58.0, 56.1, 54.6, 53.8),
        "confidence": (96.5, 95.0, 88.0, 84.7, 90.9, 79.6, 81.9),
    },
    "all": {
        "gap": (79.5, 75.5, 71.1, 67.0, 62.7, 59.6, 56.4),
        "augmentation": (97.5, 98.8, 87.8, 86.4, 81.7, 69.3, 61.0),
        "confidence": (96.0, 97.3, 89.3, 83.9, 81.4, 69.7, 61.1),
    },
}
DIFFERS = (
    tables.DIFFERS[0],
    "GroupNorm in place of BatchNorm: an answer must not depend on its batch",
    "the number of steps: the paper does not say it for its small n; FixMatch takes 2^20",
    "a logistic model on the bits of random augmentations, a classifier the paper leaves open; one target for each n",
)
COLUMNS = {
    "gap": CHEAP["gap"],
    "augmentation": Column(named("random_augmentation")),
    "confidence": CHEAP["confidence"],
}
CIFAR = {"dataset": "cifar10", "model": "wide_resnet", "num_targets": 1, "num_shadows": 1, "budget": 1000}
SMOKE = {"model": "wide_resnet:10,1", "num_targets": 2, "num_shadows": 1, "budget": 30}
PRESETS = {"smoke": (SMOKE, (20, 30), 20), "cpu": (CIFAR, (100,), 1000), "paper": (CIFAR, SIZES, 10000)}
BATCH = 64


def recipe(n: int, steps: int) -> Recipe:
    """FixMatch's, for about this many steps on n rows."""
    epochs = max(1, round(steps / -(-n // BATCH)))
    return Recipe(BATCH, 0.03, epochs, patience=None, optimizer="nesterov_cosine", average=0.999)


def at_size(config: Config, steps: int, out: Path) -> dict:
    """The entry of one number of rows in one regime."""
    prepared = study.prepare(config, recipe=recipe(config.n_train, steps), out=out)
    regime = next(name for name, defense in REGIMES.items() if defense == config.defense)
    same = config.dataset == "cifar10" and config.n_train in SIZES
    paper = {name: values[SIZES.index(config.n_train)] for name, values in PAPER[regime].items()} if same else {}
    return tables.measure(prepared, COLUMNS, paper) | {"steps": steps}


def draw(record: dict) -> plt.Figure:
    """A panel a regime: lines over n, the paper's points as crosses."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
    for panel, (regime, sizes) in zip(axes, record["regimes"].items(), strict=True):
        entries = {int(n): entry["attacks"] for n, entry in sizes.items()}
        paper = {name: (SIZES, values) for name, values in PAPER[regime].items()}
        plots.lines(panel, entries, list(COLUMNS), paper if record["dataset"] == "cifar10" else None)
        panel.set(xscale="log", xlabel="training rows n", title=f"{record['dataset']}, augmentation: {regime}")
    return figure


def body() -> None:
    """Both regimes at every size of the preset."""
    (changes, sizes, steps), said, folder = common.of_preset(
        PRESETS, "fig4", "figure 4 trains with and without augmentation", own=("n_train",)
    )
    found, places = {regime: {} for regime in REGIMES}, {}
    for regime, defense in REGIMES.items():
        for n in [int(n) for n in flags.FLAGS.sizes or sizes]:
            config = Config(**changes | said | {"n_train": n, "defense": defense})
            place = folder / f"{regime}-{n}"
            entry = places[place] = found[regime][str(n)] = at_size(config, steps, place)
            test = report.percent(entry["models"]["test_accuracy"])
            print(f"{regime}, n={n}: test {test}, {tables.told(entry['attacks'])}")
    config = dataclasses.asdict(config) | {
        "n_train": sorted(map(int, found["none"])),
        "defense": list(REGIMES.values()),
    }
    record = {"config": config, "dataset": config["dataset"], "regimes": found}
    records.leave(folder, record, places, differs=DIFFERS, fig4=draw)


if __name__ == "__main__":
    common.start(body, sizes="numbers of training rows; default: those of the preset")
