"""What the two tables share: attacks on undefended models and under MemGuard, beside the paper's numbers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import common, paired, study
from experiments.common import Config
from mi_jax import attacks, defenses, plots, report, store
from mi_jax.types import Attack


class Column(NamedTuple):
    """An attack of a table, and how much of the study it is put to."""

    candidates: Callable[[attacks.Task], tuple[Attack, ...]]
    budget: int | None = None  # queries per example; None: the study's
    num_points: int | None = None  # a side; None: all
    num_trials: int | None = None


def named(name: str) -> Callable[[attacks.Task], tuple[Attack, ...]]:
    return lambda task: attacks.build(name, task)


def augmentation(task: attacks.Task) -> tuple[Attack, ...]:
    """Every rotation and translation an attacker tries on shadow models: the better one counts, as in the paper."""
    return attacks.build("rotation", task) + attacks.build("translation", task)


def confidence(task: attacks.Task) -> tuple[Attack, ...]:
    """A network on the probabilities or a threshold on one of them, whichever does better on shadow models."""
    return attacks.build("confidence_network", task) + attacks.build("confidence_threshold", task)


CHEAP = {"gap": Column(named("gap")), "augmentation": Column(augmentation), "confidence": Column(confidence)}
COSTLY = {"boundary": Column(named("boundary")), "combined": Column(named("combined"))}


def told(attacks: dict[str, dict]) -> str:
    """The accuracies of attacks, with their intervals, on one line."""
    return " ".join(f"{name} {report.percent(entry['balanced_accuracy'])}" for name, entry in attacks.items())


def measure(prepared: study.Study, columns: dict[str, Column]) -> dict:
    """The entry of one study: what it was, its models on the points of the first column, every column, and every
    two columns compared on the points they share."""
    found = {name: put(prepared, name, column) for name, column in columns.items()}
    models = next(iter(found.values()))[0]["models"] | prepared.trained
    hits = {name: paired.hits(name, *one) for name, one in found.items()}
    return {"config": dataclasses.asdict(prepared.config), "environment": prepared.environment, "models": models,
            "attacks": {name: record["attacks"][name] for name, (record, _) in found.items()},
            "differences": paired.differences(hits)}  # fmt: skip


def beside_paper(config: Config, columns: dict[str, Column], paper: dict[str, float], out: Path | None) -> dict:
    """One data set of a table: every column, and what MemGuard changes; `paper`: column -> accuracy in per cent."""
    prepared = study.prepare(config, out=out)
    entry = measure(prepared, columns)
    rows = {name: row | {"paper": paper.get(name)} for name, row in entry["attacks"].items()}
    return entry | {"attacks": rows, "memguard": guarded(prepared, columns, paper)}


def put(prepared: study.Study, name: str, column: Column) -> tuple[dict, dict[str, np.ndarray]]:
    """The record and scores of one column."""
    task = prepared.task._replace(budget=column.budget or prepared.task.budget)
    what = f"{prepared.config.dataset}, {name}"
    return study.attack(prepared, {name: column.candidates(task)}, title=what, num_points=column.num_points,
                        num_trials=column.num_trials)  # fmt: skip


def guarded(prepared: study.Study, columns: dict[str, Column], paper: dict[str, float]) -> dict:
    """MemGuard on the targets: the confidence attack tuned on plain shadows and on defended ones; label-only scores.

    Label-only attacks are put again with the few queries a strength is tuned with: what they see is the label, so
    what holds for a hundred queries holds for all.
    """
    defended = study.oracles(prepared.model, prepared.params, prepared.dataset, defenses.build("memguard"))
    own = by_name(prepared.keep, "memguard-")
    adaptive = prepared._replace(target=defended, keep=own)
    mixed = study.mixed(adaptive, prepared)
    entries = {f"confidence, {how}": put(seen, "confidence", columns["confidence"])[0]["attacks"]["confidence"]
               for how, seen in (("not adaptive", mixed), ("adaptive", adaptive))}  # fmt: skip
    entries["confidence, not adaptive"]["paper"] = paper.get("memguard")
    same = {}
    for name in ("gap", "augmentation", "noise"):
        if name in columns:
            brief = columns[name]._replace(budget=attacks.TUNING_BUDGET)
            (_, one), (_, two) = (put(seen, name, brief) for seen in (prepared, adaptive))
            keys = [key for key in one if key.endswith(("/scores", "/queries"))]
            same[name] = all(one[key].tobytes() == two[key].tobytes() for key in keys)
    return {"attacks": entries, "label_only_identical_to_the_bit": same}


def by_name(keep: store.Keep, prefix: str) -> store.Keep:
    """The same Keep under other names."""
    return lambda name, compute: keep(prefix + name, compute)


def program(presets: dict[str, dict], paper: dict[str, dict[str, float]], name: str) -> Callable[[], None]:
    """The body of a table's script; `presets`: preset -> data set -> (changes to the config, columns)."""

    def body() -> None:
        rows, said, folder = common.of_preset(presets, name, own=("dataset",))
        for dataset in common.chosen(rows, "data set"):
            changes, columns = rows[dataset]
            config = common.Config(**{"dataset": dataset} | changes | said)
            own = folder / dataset.replace(":", "-")
            entry = beside_paper(config, columns, paper.get(dataset, {}), own)
            common.leave(own, entry, accuracies=plots.beside_paper(dataset, entry["attacks"]))
            print("\n".join(lines(dataset, entry)))

    return body


def lines(name: str, entry: dict) -> list[str]:
    """The printed table of one data set."""
    config, models = entry["config"], entry["models"]
    title = (f"{name}, {config['model']}, n={config['n_train']}, {config['num_targets']} targets: train accuracy "
             f"{report.percent(models['train_accuracy'])}, test {report.percent(models['test_accuracy'])}")  # fmt: skip
    rows = entry["attacks"] | {f"memguard: {key}": value for key, value in entry["memguard"]["attacks"].items()}
    width = max(map(len, rows))
    text = [title, f"{'':{width}}  {'queries':>9}  {'balanced accuracy':22}  paper  difference, pp"]
    for key, row in rows.items():
        paper = row.get("paper")
        beside = "" if paper is None else f"  {paper:5.1f}  {100 * row['balanced_accuracy']['mean'] - paper:+.1f}"
        cells = f"{row['queries_per_example']:9.1f}  {report.percent(row['balanced_accuracy']):22}"
        text.append(f"{key:{width}}  {cells}{beside}")
    same = entry["memguard"]["label_only_identical_to_the_bit"]
    said = ", ".join(f"{key} {'yes' if value else 'NO'}" for key, value in same.items())
    return [*text, f"label-only scores under MemGuard identical to the bit: {said}", ""]
