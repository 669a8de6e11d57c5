"""Figure 4: a wide residual network trained as FixMatch trains its supervised part, with and without augmentation.

Artefact: record.json and fig4.png in --out (default results/records/fig4-PRESET): gap, confidence and augmentation
          attack against the number of training rows, once without and once with all of mirroring, shifts by up to 4
          pixels, cutout and weight decay.
Command:  python -m experiments.paper.fig4_resnet --preset=smoke  digits, a network of 10 layers; seconds
          python -m experiments.paper.fig4_resnet --preset=cpu  CIFAR-10, n = 100, 1,000 steps; hours on two cores
          python -m experiments.paper.fig4_resnet --preset=paper  n = 100 .. 10,000, 10,000 steps: an accelerator
          originals in --data_dir or $MI_JAX_DATA/cifar10; --sizes=100,500 runs some of the points.
Settings: WRN-28-2; SGD with Nesterov momentum 0.9, rate 0.03 falling along a cosine, batch 64, weights averaged with
          0.999; weight decay 5e-4 as a loss on kernels. The attack queries 1,000 random augmentations of the kind
          trained with, the same for every point, and fits a logistic model to the 1,000 bits.
Differs:  DIFFERS, which the record holds too.
Expected: PAPER, accuracy in per cent: with augmentation the augmentation attack is as good as confidences (n = 1,000:
          86.4 and 83.9), without it far below (58.0 and 84.7).
Status:   not yet run
"""

import dataclasses
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from experiments import common
from experiments.paper import records, tables
from experiments.paper.tables import CHEAP, column
from mi_jax import study
from mi_jax.evaluation import plots
from mi_jax.study.config import Config
from mi_jax.types import Recipe

REGIMES = {"none": "none", "all": "random_augmentation:4+weight_decay:0.0005"}
SIZES = (100, 200, 500, 1000, 2000, 5000, 10000)
PAPER = {regime: tables.read_paper(f"fig4, {regime}") for regime in REGIMES}
DIFFERS = (
    tables.DIFFERS[0],
    "GroupNorm in place of BatchNorm: an answer must not depend on its batch",
    "the number of steps: the paper does not say it for its small n; FixMatch takes 2^20",
    "a logistic model on the bits of random augmentations, a classifier the paper leaves open; one target for each n",
)
COLUMNS = CHEAP | {"augmentation": column("random_augmentation")}
CIFAR = {"dataset": "cifar10", "model": "wide_resnet", "num_targets": 1, "num_shadows": 1, "budget": 1000}
SMOKE = {"model": "wide_resnet:10,1", "num_targets": 2, "num_shadows": 1, "budget": 30}
PRESETS = {"smoke": (SMOKE, (20, 30), 20), "cpu": (CIFAR, (100,), 1000), "paper": (CIFAR, SIZES, 10000)}
BATCH = 64


def recipe_for(n: int, steps: int) -> Recipe:
    """FixMatch's, for about this many steps on n rows."""
    epochs = max(1, round(steps / -(-n // BATCH)))
    return Recipe(BATCH, 0.03, epochs, patience=None, optimizer="nesterov_cosine", average=0.999)


def measure_size(config: Config, regime: str, recipe: Recipe, out: Path) -> dict:
    """The entry of one number of rows in one regime."""
    prepared = study.prepare(config, recipe=recipe, out=out)
    paper = tables.paper_at(PAPER[regime], str(config.n_train), config)
    return tables.measure(prepared, COLUMNS, paper)


def draw(record: dict) -> Figure:
    """A panel a regime: lines over n, the paper's points as crosses."""
    figure, axes = plots.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    for panel, (regime, entries) in zip(axes, record["regimes"].items(), strict=True):
        paper = PAPER[regime] if record["dataset"] == "cifar10" else {}
        tables.draw_lines(panel, entries, list(COLUMNS), paper)
        panel.set(xscale="log", xlabel="training rows n", title=f"{record['dataset']}, augmentation: {regime}")
    return figure


def body() -> None:
    """Both regimes at every size of the preset."""
    (changes, sizes, steps), given, folder = common.parse_preset(
        PRESETS, "fig4", no_defense="figure 4 trains with and without augmentation", fixed=("n_train",)
    )
    sizes, regimes = [int(n) for n in flags.FLAGS.sizes or sizes], {regime: {} for regime in REGIMES}
    for regime, defense in REGIMES.items():
        for n in sizes:
            config = Config(**changes | given | {"n_train": n, "defense": defense})
            out = folder / f"{regime}-{n}"
            entry = measure_size(config, regime, recipe_for(n, steps), out) | {"steps": steps}
            regimes[regime][str(n)] = entry
            print(tables.format_entry(f"{regime}, n={n}", entry))
    settings = dataclasses.asdict(config) | {"n_train": sorted(sizes), "defense": list(REGIMES.values())}
    record = {"config": settings, "dataset": config.dataset, "regimes": regimes}
    records.finish(folder, record, differs=DIFFERS, fig4=draw)


if __name__ == "__main__":
    common.run(body, sizes="numbers of training rows; default: those of the preset")
