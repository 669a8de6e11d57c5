"""Supplement, figure S7: attack accuracy against the number of shadow models.

Artefact: record.json and figS7.png in --out (default results/records/figS7-PRESET).
Command:  python -m experiments.paper.figS7_shadow_models --preset=smoke  digits; seconds
          python -m experiments.paper.figS7_shadow_models --preset=cpu  CIFAR-10, n = 1,000, 1 to 5 shadow models
          python -m experiments.paper.figS7_shadow_models --preset=paper  the same on all points
Settings: five shadow models are trained for each target and every model is queried once; an attacker with s of them
          has the first s. In the cpu preset boundary takes 609 queries on 200 points a side.
Differs:  DIFFERS, which the record holds too.
Expected: PAPER, accuracy in per cent: no trend.
Status:   not yet run
"""

import dataclasses
from pathlib import Path

from matplotlib.figure import Figure

from experiments import common
from experiments.paper import records, tables
from experiments.paper.tables import Column, column
from mi_jax import study
from mi_jax.evaluation import plots
from mi_jax.study.config import Config

PAPER = tables.read_paper("figS7")
DIFFERS = (*tables.DIFFERS, "cpu preset: boundary with 609 queries on 200 points a side; the paper 2,409 on all")
CHEAP = {name: tables.CHEAP[name] for name in ("confidence", "augmentation")}
COLUMNS = CHEAP | {"boundary": column("boundary")}
CIFAR = tables.CIFAR | {"n_train": 1000, "num_targets": 3, "num_shadows": 5}
PRESETS = {  # changes to the config, columns
    "smoke": (tables.SMOKE | {"num_shadows": 2}, COLUMNS),
    "cpu": (CIFAR | {"budget": 609}, CHEAP | {"boundary": column("boundary", num_points=200)}),
    "paper": (CIFAR | {"budget": 2409}, COLUMNS),
}


def measure(config: Config, columns: dict[str, Column], out: Path) -> dict:
    """The record: the attacks with the first s shadow models of every trial, s = 1 .. all."""
    prepared, entries = study.prepare(config, out=out), {}
    for s in range(1, prepared.config.num_shadows + 1):
        part = prepared._replace(split=prepared.split._replace(trials=prepared.split.trials[:, : 1 + s]))
        rows = {name: tables.run_column(part, name, column)[0]["attacks"][name] for name, column in columns.items()}
        paper = tables.paper_at(PAPER, str(s), prepared.config, n_train=1000)
        entries[str(s)] = {"attacks": tables.with_paper(rows, paper)}
    return {"config": dataclasses.asdict(prepared.config), "environment": prepared.environment,
            "models": prepared.trained, "shadow_models": entries}  # fmt: skip


def draw(record: dict) -> Figure:
    """A line an attack over the number of shadow models; the paper's points as crosses."""
    figure, axes = plots.subplots(figsize=(6, 4))
    entries, dataset = record["shadow_models"], record["config"]["dataset"]
    tables.draw_lines(axes, entries, list(PAPER), PAPER if dataset == "cifar10" else {})
    axes.set(xlabel="shadow models", xticks=[int(s) for s in entries], title=dataset)
    return figure


def body() -> None:
    """One run of the figure."""
    (changes, columns), given, folder = common.parse_preset(PRESETS, "figS7")
    record = measure(Config(**changes | given), columns, folder)
    records.finish(folder, record, differs=DIFFERS, figS7=draw)
    for s, entry in record["shadow_models"].items():
        print(s, tables.format_attacks(entry["attacks"]))


if __name__ == "__main__":
    common.run(body)
