"""Supplement, figure S7: attack accuracy against the number of shadow models.

Artefact: record.json and figS7.png in --out (default results/records/figS7-PRESET).
Command:  python -m experiments.paper.figS7_shadow_models --preset=smoke  digits; seconds, to see that it runs
          python -m experiments.paper.figS7_shadow_models --preset=cpu  CIFAR-10, n = 1,000, 1 to 5 shadow models
          python -m experiments.paper.figS7_shadow_models --preset=paper  the same on all points
Settings: five shadow models are trained for each target and every model is asked once; an attacker with s of them is
          given the first s. In the cpu preset boundary asks 609 queries on 200 points a side.
Differs:  DIFFERS, which the record holds too.
Expected: PAPER, accuracy in per cent: no trend.
Status:   not yet run
"""

import dataclasses
from pathlib import Path

from absl import flags
from matplotlib import pyplot as plt

from experiments import common
from experiments.paper import records, tables
from experiments.paper.tables import Column, named
from mi_jax import study
from mi_jax.evaluation import plots
from mi_jax.study.config import Config

FLAGS = flags.FLAGS
PAPER = {
    "confidence": (86.2, 85.9, 85.2, 86.2, 86.5),
    "boundary": (88.0, 88.2, 87.7, 88.4, 88.1),
    "augmentation": (84.1, 85.1, 84.4, 83.7, 84.0),
}
DIFFERS = (*tables.DIFFERS, "cpu preset: boundary with 609 queries on 200 points a side; the paper 2,409 on all")
CHEAP = {name: tables.CHEAP[name] for name in ("confidence", "augmentation")}
CIFAR = {"dataset": "cifar10", "model": "cnn", "n_train": 1000, "num_targets": 3, "num_shadows": 5}
PRESETS = {
    "smoke": ({"num_targets": 2, "num_shadows": 2, "n_train": 40, "budget": 40},
              CHEAP | {"boundary": Column(named("boundary"))}),
    "cpu": (CIFAR | {"budget": 609}, CHEAP | {"boundary": Column(named("boundary"), num_points=200)}),
    "paper": (CIFAR | {"budget": 2409}, CHEAP | {"boundary": Column(named("boundary"))}),
}  # fmt: skip


def measure(config: Config, columns: dict[str, Column], out: Path) -> dict:
    """The record: the attacks with the first s shadow models of every trial, s = 1 .. all."""
    prepared, found = study.prepare(config, out=out), {}
    same = prepared.config.dataset == "cifar10" and prepared.config.n_train == 1000
    for s in range(1, prepared.config.num_shadows + 1):
        part = prepared._replace(split=prepared.split._replace(trials=prepared.split.trials[:, : 1 + s]))
        rows = {name: tables.put(part, name, column)[0]["attacks"][name] for name, column in columns.items()}
        paper = {name: values[s - 1] for name, values in PAPER.items() if s <= len(values)} if same else {}
        found[str(s)] = {"attacks": tables.beside(rows, paper)}
    return {"config": dataclasses.asdict(prepared.config), "environment": prepared.environment,
            "models": prepared.trained, "shadow_models": found}  # fmt: skip


def draw(record: dict) -> plt.Figure:
    """A line an attack over the number of shadow models; the paper's points as crosses."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    entries = {int(s): entry["attacks"] for s, entry in record["shadow_models"].items()}
    paper = PAPER if record["config"]["dataset"] == "cifar10" else None
    plots.lines(axes, entries, list(PAPER), paper and {name: (range(1, 6), paper[name]) for name in paper})
    axes.set(xlabel="shadow models", xticks=list(entries), title=record["config"]["dataset"])
    return figure


def body() -> None:
    """One run of the figure."""
    (changes, columns), said, folder = common.of_preset(PRESETS, "figS7")
    record = measure(Config(**changes | said), columns, folder)
    records.leave(folder, record, differs=DIFFERS, figS7=draw)
    for s, entry in record["shadow_models"].items():
        print(s, tables.told(entry["attacks"]))


if __name__ == "__main__":
    common.start(body)
