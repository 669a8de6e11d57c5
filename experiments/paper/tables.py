"""What the two tables share: attacks on undefended models and under MemGuard, beside the paper's numbers."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt

from experiments import common
from experiments.paper import records
from mi_jax import attacks, data, store, study
from mi_jax.data import splits
from mi_jax.evaluation import paired, plots, report
from mi_jax.study.config import Config, resolve
from mi_jax.types import Attack


class Column(NamedTuple):
    """An attack of a table, and how much of the study it is put to."""

    candidates: Callable[[attacks.AttackContext], tuple[Attack, ...]]
    budget: int | None = None  # queries per example; None: the study's
    num_points: int | None = None  # a side; None: all
    num_trials: int | None = None


def named(name: str) -> Callable[[attacks.AttackContext], tuple[Attack, ...]]:
    return lambda context: attacks.build(name, context)


def augmentation(context: attacks.AttackContext) -> tuple[Attack, ...]:
    """Every rotation and translation an attacker tries on shadow models: the better one counts, as in the paper."""
    return attacks.build("rotation", context) + attacks.build("translation", context)


def confidence(context: attacks.AttackContext) -> tuple[Attack, ...]:
    """A network on the probabilities or a threshold on one of them, whichever does better on shadow models."""
    return attacks.build("confidence_network", context) + attacks.build("confidence_threshold", context)


CHEAP = {"gap": Column(named("gap")), "augmentation": Column(augmentation), "confidence": Column(confidence)}
COSTLY = {"boundary": Column(named("boundary")), "combined": Column(named("combined"))}


# What all attacks differ in from the paper's, whichever table or figure they stand in.
DIFFERS = (
    "confidence is the paper's network for each class or a threshold, whichever does better on the shadow models",
    "the network on the bits of rotations and translations is one for all classes, the paper has one for each; which "
    "strength it is shown is decided on the shadow models, in the paper's figures often on the target",
    "boundary distances come from a HopSkipJump of fewer queries for the same distance (mi_jax/attacks/boundary.py)",
)


def shown(row: dict) -> str:
    """The accuracy of an attack with its interval over targets, or over points where there is one target; and what
    the paper has, in per cent."""
    interval = plots.interval_of(row)
    text = report.percent(interval) + " over points" * (interval is not row["balanced_accuracy"])
    return text if row.get("paper") is None else f"{text} (paper {row['paper']})"


def told(attacks: dict[str, dict]) -> str:
    """The accuracies of attacks, with their intervals, on one line."""
    return ", ".join(f"{name} {shown(entry)}" for name, entry in attacks.items())


def beside(rows: dict[str, dict], paper: dict[str, float | None]) -> dict[str, dict]:
    """Rows that hold the paper's accuracy in per cent, None where it has none."""
    return {name: row | {"paper": paper.get(name)} for name, row in rows.items()}


def measure(prepared: study.Study, columns: dict[str, Column], paper: dict[str, float | None] | None = None) -> dict:
    """The entry of one study: what it was, its models on the points of the first column, every column beside the
    paper's number (`paper`: column -> accuracy in per cent), and every two compared on the points they share."""
    found = {name: put(prepared, name, column) for name, column in columns.items()}
    models = next(iter(found.values()))[0]["models"] | prepared.trained
    hits = {name: paired.hits(name, *one) for name, one in found.items()}
    on_points = paired.accuracies(hits)
    rows = {name: record["attacks"][name] | {"over_points": on_points[name]} for name, (record, _) in found.items()}
    return {"config": dataclasses.asdict(prepared.config), "environment": prepared.environment,
            "split_digest": splits.digest(prepared.split), "models": models, "attacks": beside(rows, paper or {}),
            "differences": paired.differences(hits)}  # fmt: skip


def beside_paper(config: Config, columns: dict[str, Column], paper: dict[str, float], out: Path | None) -> dict:
    """One data set of a table: every column, and what MemGuard changes.

    ValueError, before anything is trained, for a defense that MemGuard does not go with.
    """
    dataset = data.load(config.dataset, config.data_dir)
    study.build_defenses(resolve(config, dataset), dataset, [with_memguard(config.defense)])
    prepared = study.prepare(config, out=out)
    guard = {"attacks": hidden(prepared, paper), "label_only_identical_to_the_bit": unchanged(prepared, columns)}
    return measure(prepared, columns, paper) | {"memguard": guard}


def not_adaptive(defended: study.Study, plain: study.Study, columns: dict[str, Column]) -> dict[str, dict]:
    """The accuracies of an attacker who trains undefended shadow models, an entry's column beside the adaptive one."""
    mixed = study.non_adaptive(defended, plain)
    return {"not_adaptive": {name: put(mixed, name, column)[0]["attacks"][name] for name, column in columns.items()}}


def put(prepared: study.Study, name: str, column: Column) -> tuple[dict, dict[str, np.ndarray]]:
    """The record and scores of one column."""
    context = prepared.context._replace(budget=column.budget or prepared.context.budget)
    what = f"{prepared.config.dataset}, {name}"
    return study.attack(prepared, {name: column.candidates(context)}, title=what, num_points=column.num_points,
                        num_trials=column.num_trials)  # fmt: skip


def guarded(prepared: study.Study) -> study.Study:
    """The same models, with the defense they have, behind MemGuard in its strongest form."""
    _, (defense,) = study.build_defenses(prepared.config, prepared.dataset, [with_memguard(prepared.config.defense)])
    target = study.target_oracles(prepared.model, prepared.params, prepared.dataset, defense)
    return prepared._replace(target=target, cache=by_name(prepared.cache, "memguard-"))


def with_memguard(defense: str) -> str:
    """A defense as written, and MemGuard on top of it."""
    return "memguard" if defense == "none" else f"{defense}+memguard"


def hidden(prepared: study.Study, paper: dict[str, float]) -> dict[str, dict]:
    """The confidence attacks under MemGuard: tuned on undefended shadow models, and on defended ones.

    Not adaptive, a threshold is worth exactly 50 %: the probabilities it is shown lie all on one side. A network for
    each class still learns a class's sign and may end on either side of 50, so it stands in a row of its own.
    """
    adaptive = guarded(prepared)
    mixed = study.non_adaptive(adaptive, prepared)
    found = {
        "confidence, not adaptive": (mixed, named("confidence_threshold")),
        "confidence network, not adaptive": (mixed, named("confidence_network")),
        "confidence, adaptive": (adaptive, confidence),
    }
    rows = {name: put(seen, "confidence", Column(candidates))[0]["attacks"]["confidence"]
            for name, (seen, candidates) in found.items()}  # fmt: skip
    return beside(rows, {"confidence, not adaptive": paper.get("memguard")})


def unchanged(prepared: study.Study, columns: dict[str, Column]) -> dict[str, bool]:
    """Label-only column -> are its scores and queries under MemGuard those without it, to the bit?

    With the few queries a strength is tuned with, distances of a few points: what attacks see is the label, so what
    holds for a hundred queries holds for all.
    """
    same, adaptive = {}, guarded(prepared)
    for name in ("gap", "augmentation", "noise", "boundary", "combined"):
        if name in columns:
            few = {"num_points": 20, "num_trials": 1} if name in COSTLY else {}
            brief = columns[name]._replace(budget=attacks.TUNING_BUDGET, **few)
            (_, one), (_, two) = (put(seen, name, brief) for seen in (prepared, adaptive))
            keys = [key for key in one if key.endswith(("/scores", "/queries"))]
            same[name] = all(one[key].tobytes() == two[key].tobytes() for key in keys)
    return same


def by_name(keep: store.Cache, prefix: str) -> store.Cache:
    """The same Keep under other names."""
    return lambda name, compute: keep(prefix + name, compute)


def program(
    presets: dict[str, dict], paper: dict[str, dict[str, float]], name: str, differs: tuple[str, ...]
) -> Callable[[], None]:
    """The body of a table's script; `presets`: preset -> data set -> (changes to the config, columns)."""

    def body() -> None:
        rows, said, folder = common.of_preset(presets, name, own=("dataset",))
        places = {}  # parts are kept until all are finished: a run that goes on finds those of every data set
        for dataset in common.chosen(rows, "data set"):
            changes, columns = rows[dataset]
            config = Config(**{"dataset": dataset} | changes | said)
            own = folder / dataset.replace(":", "-")
            entry = places[own] = beside_paper(config, columns, paper.get(dataset, {}), own)
            records.write(own, entry, differs=differs, accuracies=draw)
            print("\n".join(lines(dataset, entry)))
        records.clear(folder, places)

    return body


def draw(entry: dict) -> plt.Figure:
    """The accuracies of one data set beside the paper's."""
    return plots.beside_paper(entry["config"]["dataset"], entry["attacks"])


def lines(name: str, entry: dict) -> list[str]:
    """The printed table of one data set."""
    config, models = entry["config"], entry["models"]
    title = (f"{name}, {config['model']}, n={config['n_train']}, {config['num_targets']} targets: train accuracy "
             f"{report.percent(models['train_accuracy'])}, test {report.percent(models['test_accuracy'])}")  # fmt: skip
    rows = entry["attacks"] | {f"memguard: {key}": value for key, value in entry["memguard"]["attacks"].items()}
    width = max(map(len, rows))
    text = [title, f"{'':{width}}  {'queries':>9}  {'balanced accuracy':34}  paper  difference, pp"]
    for key, row in rows.items():
        paper = row.get("paper")
        beside = "" if paper is None else f"  {paper:5.1f}  {100 * row['balanced_accuracy']['mean'] - paper:+.1f}"
        cells = f"{row['queries_per_example']:9.1f}  {shown(row | {'paper': None}):34}"
        text.append(f"{key:{width}}  {cells}{beside}")
    same = entry["memguard"]["label_only_identical_to_the_bit"]
    said = ", ".join(f"{key} {'yes' if value else 'NO'}" for key, value in same.items())
    return [*text, f"label-only scores under MemGuard identical to the bit: {said}", ""]
