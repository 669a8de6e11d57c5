"""Figure 1: attack accuracy against the number of training rows.

Artefact: record.json and fig1.png in --out (default results/records/fig1-PRESET).
Command:  python -m experiments.paper.fig1_training_size --preset=smoke  digits; seconds, to see that it runs
          python -m experiments.paper.fig1_training_size --preset=cpu  CIFAR-10, n = 100, 500, 2,500; three trials
          python -m experiments.paper.fig1_training_size --preset=paper  CIFAR-10, n = 100 .. 10,000, and 30,000 by swap
          originals in --data_dir or $MI_JAX_DATA/cifar10; --sizes=100,500 makes some of the points.
Settings: the paper's CNN, one shadow model for each target; gap, confidence and augmentation (the best rotation or
          translation on shadow models) on all points; in the cpu preset boundary with 609 queries on 200 points a
          side, and combined with as many for each copy on 50.
          MemGuard as in Table 1: confidences of defended targets, by shadow models without and with the defense.
Differs:  DIFFERS, which the record holds too.
Expected: PAPER, accuracy in per cent: at n = 2,500 gap 75.0, confidence 83.0, boundary 83.8, combined 85.8.
Status:   cpu preset run (results/records/fig1-cpu): at n = 100, 500, 2,500 gap 86.8, 82.1, 75.5, confidence 95.7, 91.6,
          86.4, boundary 94.3, 89.9, 82.3, combined on 50 points a side 90.0, 82.7, 79.7. The networks of n = 2,500 are
          figure 2's, which has the same split and keys: the first was trained again and has the same bits, the other
          five were taken over; paper preset not yet run
"""

import dataclasses
from pathlib import Path

from absl import flags
from matplotlib import pyplot as plt

from experiments import common
from experiments.paper import records, tables
from experiments.paper.tables import CHEAP, COSTLY, Column, named
from mi_jax import study
from mi_jax.evaluation import plots
from mi_jax.study.config import Config

PAPER_SIZES = (100, 200, 500, 1000, 2500, 5000, 10000)
PAPER = {
    "gap": (84.7, 85.2, 82.7, 80.5, 75.0, 72.2, 69.1),
    "augmentation": (87.3, 88.2, 87.7, 84.7, 79.0, 75.6, 72.1),
    "confidence": (91.7, 91.3, 89.7, 88.2, 83.0, 78.8, 75.8),
    "boundary": (94.5, 90.8, 89.7, 88.8, 83.8, 79.3, 76.0),
    "combined": (96.0, 93.2, 91.3, 90.0, 85.8, 81.9, 77.0),
    "memguard": (50,) * 7,
}
DIFFERS = (
    *tables.DIFFERS,
    "cpu preset: boundary on 200 points a side with 609 queries and combined on 50 with as many for each copy; the "
    "paper 2,409 on all",
    "n = 30,000: members and non-members change places between target and shadow, as the paper does with CIFAR-100",
)
ON_TWO_CORES = {
    "boundary": Column(named("boundary"), num_points=200),
    "combined": Column(named("combined"), num_points=50),
}
CIFAR = {"dataset": "cifar10", "model": "cnn", "num_targets": 3, "num_shadows": 1}
PRESETS = {  # changes to the config, columns, sizes
    "smoke": ({"num_targets": 2, "num_shadows": 1, "budget": 40}, CHEAP | COSTLY, (20, 40)),
    "cpu": (CIFAR | {"budget": 609}, CHEAP | ON_TWO_CORES, (100, 500, 2500)),
    "paper": (CIFAR | {"budget": 2409}, CHEAP | COSTLY, (*PAPER_SIZES, 30000)),
}


def at_size(config: Config, columns: dict[str, Column], out: Path) -> dict:
    """The attacks at one number of training rows."""
    if config.n_train == 30000:  # four disjoint sets do not exist
        config = dataclasses.replace(config, split="swap")
    at = PAPER_SIZES.index(config.n_train) if of_the_paper(config) else None
    paper = {} if at is None else {name: values[at] for name, values in PAPER.items()}
    prepared = study.prepare(config, out=out)
    return tables.measure(prepared, columns, paper) | {"memguard": {"attacks": tables.hidden(prepared, paper)}}


def of_the_paper(config: Config) -> bool:
    """Has the paper a point there?"""
    return config.dataset == "cifar10" and config.n_train in PAPER_SIZES


def draw(record: dict) -> plt.Figure:
    """A line an attack over n, with its interval over targets; the paper's points as crosses."""
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    paper = PAPER if record["dataset"] == "cifar10" else None
    entries = {int(n): entry["attacks"] for n, entry in record["sizes"].items()}
    names = [name for name in PAPER if name != "memguard"]
    plots.lines(axes, entries, names, paper and {name: (PAPER_SIZES, paper[name]) for name in names})
    blind = [
        e["memguard"]["attacks"]["confidence, not adaptive"]["balanced_accuracy"] for e in record["sizes"].values()
    ]
    plots.band(axes, list(entries), blind, "0.5", "confidence, MemGuard")
    axes.legend(fontsize=8)
    axes.set(xscale="log", xlabel="training rows n", title=record["dataset"])
    return figure


def body() -> None:
    """Every size of the preset."""
    (changes, columns, sizes), said, folder = common.of_preset(PRESETS, "fig1", own=("n_train",))
    found = {}
    for n in [int(n) for n in flags.FLAGS.sizes or sizes]:
        config = Config(**changes | said | {"n_train": n})
        found[str(n)] = at_size(config, columns, folder / f"n-{n}")
        print(f"n={n}: {tables.told(found[str(n)]['attacks'])}")
    config = dataclasses.asdict(config) | {"n_train": [int(n) for n in found]}
    record = {"config": config, "dataset": config["dataset"], "sizes": found}
    places = {folder / f"n-{n}": entry for n, entry in found.items()}
    records.leave(folder, record, places, differs=DIFFERS, fig1=draw)


if __name__ == "__main__":
    common.start(body, sizes="numbers of training rows; default: those of the preset")
