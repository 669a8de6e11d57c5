"""What tables and figures share: columns of attacks, the entry of one study, MemGuard, the paper's numbers."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import common
from experiments.paper import records
from mi_jax import attacks, data, store, study
from mi_jax.data import splits
from mi_jax.evaluation import paired, plots, report
from mi_jax.study.config import Config, resolve
from mi_jax.types import Attack


class Column(NamedTuple):
    """An attack of a table, and the part of a study that it runs on."""

    candidates: Callable[[attacks.AttackContext], tuple[Attack, ...]]  # the best of them on shadow models counts
    budget: int | None = None  # queries per example; None: the study's
    num_points: int | None = None  # a side; None: all
    num_trials: int | None = None


def column(*names: str, **limits: int) -> Column:
    """A Column of the attacks with these names."""
    return Column(lambda context: tuple(itertools.chain(*(attacks.build(name, context) for name in names))), **limits)


CHEAP = {"gap": column("gap"), "augmentation": column("rotation", "translation"),
         "confidence": column("confidence_network", "confidence_threshold")}  # fmt: skip
COSTLY = {"boundary": column("boundary"), "combined": column("combined")}
CIFAR = {"dataset": "cifar10", "model": "cnn", "num_shadows": 1}  # settings of several figures, and of their smoke runs
SMOKE = {"num_targets": 2, "num_shadows": 1, "n_train": 40, "budget": 40}

# Where all attacks differ from the paper's, in every table and figure.
DIFFERS = (
    "confidence is the paper's network for each class or a threshold, whichever does better on the shadow models",
    "the network on the bits of rotations and translations is one for all classes, the paper has one for each; which "
    "strength it is shown is decided on the shadow models, in the paper's figures often on the target",
    "boundary distances come from a HopSkipJump of fewer queries for the same distance (mi_jax/attacks/boundary.py)",
)


def read_paper(artefact: str) -> dict:
    """The paper's numbers of one table or figure, per cent: of most series -> point -> accuracy."""
    return json.loads(Path(__file__).with_name("numbers.json").read_text())[artefact]


def paper_at(paper: dict[str, dict[str, float]], point: str, config: Config, n_train: int | None = None) -> dict:
    """series -> the paper's accuracy at one point of a figure; {} where the data or the point are not the paper's.

    `n_train`: the paper's number of training rows, where the points are something else.
    """
    same = config.dataset == "cifar10" and n_train in (None, config.n_train)
    return {name: series[point] for name, series in paper.items() if same and point in series}


def with_paper(rows: dict[str, dict], paper: Mapping[str, float | None]) -> dict[str, dict]:
    """Rows with the paper's accuracy in per cent, None where it has none."""
    return {name: row | {"paper": paper.get(name)} for name, row in rows.items()}


def run_column(prepared: study.Study, name: str, column: Column) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of one column."""
    context = prepared.context._replace(budget=column.budget or prepared.context.budget)
    return study.attack(prepared, {name: column.candidates(context)}, title=f"{prepared.config.dataset}, {name}",
                        num_points=column.num_points, num_trials=column.num_trials)  # fmt: skip


def measure(prepared: study.Study, columns: dict[str, Column], paper: Mapping[str, float | None] | None = None) -> dict:
    """The entry of one study: its settings, its models on the points of the first column, every column with the
    paper's number (`paper`: column -> accuracy in per cent), and every two compared on the points they share."""
    results = {name: run_column(prepared, name, column) for name, column in columns.items()}
    models = next(iter(results.values()))[0]["models"] | prepared.trained
    hits = {name: paired.hits(name, *result) for name, result in results.items()}
    on_points = paired.accuracies(hits)
    rows = {name: record["attacks"][name] | {"over_points": on_points[name]} for name, (record, _) in results.items()}
    return {"config": dataclasses.asdict(prepared.config), "environment": prepared.environment,
            "split_digest": splits.split_digest(prepared.split), "models": models,
            "attacks": with_paper(rows, paper or {}), "differences": paired.differences(hits)}  # fmt: skip


def measure_non_adaptive(defended: study.Study, plain: study.Study, columns: dict[str, Column]) -> dict[str, dict]:
    """The accuracies of a non-adaptive attacker, who trains undefended shadow models: a field of an entry."""
    mixed = study.non_adaptive(defended, plain)
    rows = {name: run_column(mixed, name, column)[0]["attacks"][name] for name, column in columns.items()}
    return {"not_adaptive": rows}


def measure_with_memguard(config: Config, columns: dict[str, Column], paper: dict[str, float], out: Path) -> dict:
    """The entry of one data set of a table, with what MemGuard changes.

    ValueError, before anything is trained, for a defense that MemGuard cannot be combined with.
    """
    dataset = data.load(config.dataset, config.data_dir)
    study.build_defenses(resolve(config, dataset), dataset, [memguard_on(config.defense)])
    prepared = study.prepare(config, out=out)
    memguard = {"attacks": attack_memguard(prepared, paper),
                "label_only_identical_to_the_bit": compare_labels_under_memguard(prepared, columns)}  # fmt: skip
    return measure(prepared, columns, paper) | {"memguard": memguard}


def add_memguard(prepared: study.Study) -> study.Study:
    """The same models, with the defense they have, behind MemGuard in its strongest form."""
    _, (defense,) = study.build_defenses(prepared.config, prepared.dataset, [memguard_on(prepared.config.defense)])
    target = study.target_oracles(prepared.model, prepared.params, prepared.dataset, defense)

    def cache(name: str, compute: Callable[[], store.Entry]) -> store.Entry:
        return prepared.cache(f"memguard-{name}", compute)

    return prepared._replace(target=target, cache=cache)


def memguard_on(defense: str) -> str:
    """The name of a defense with MemGuard on top of it."""
    return "memguard" if defense == "none" else f"{defense}+memguard"


def attack_memguard(prepared: study.Study, paper: dict[str, float]) -> dict[str, dict]:
    """The confidence attacks under MemGuard: tuned on undefended shadow models, and on defended ones.

    Without adaptation a threshold is worth exactly 50 %: all probabilities lie on one side of it. A network for each
    class still learns a class's sign and may end on either side of 50, so it has a row of its own.
    """
    adaptive = add_memguard(prepared)
    mixed = study.non_adaptive(adaptive, prepared)
    runs = {
        "confidence, not adaptive": (mixed, column("confidence_threshold")),
        "confidence network, not adaptive": (mixed, column("confidence_network")),
        "confidence, adaptive": (adaptive, CHEAP["confidence"]),
    }
    rows = {name: run_column(models, "confidence", tried)[0]["attacks"]["confidence"]
            for name, (models, tried) in runs.items()}  # fmt: skip
    return with_paper(rows, {"confidence, not adaptive": paper.get("memguard")})


def compare_labels_under_memguard(prepared: study.Study, columns: dict[str, Column]) -> dict[str, bool]:
    """Label-only column -> are its scores and queries under MemGuard those without it, to the bit?

    With the few queries a strength is tuned with, and distances of a few points: these attacks see labels alone, so
    what holds for a hundred queries holds for all.
    """
    same, adaptive = {}, add_memguard(prepared)
    for name in ("gap", "augmentation", "noise", "boundary", "combined"):
        if name in columns:
            few = {"num_points": 20, "num_trials": 1} if name in COSTLY else {}
            brief = columns[name]._replace(budget=attacks.TUNING_BUDGET, **few)
            (_, plain), (_, defended) = (run_column(one, name, brief) for one in (prepared, adaptive))
            keys = [key for key in plain if key.endswith(("/scores", "/queries"))]
            same[name] = all(plain[key].tobytes() == defended[key].tobytes() for key in keys)
    return same


def table_body(
    presets: dict[str, dict], paper: dict[str, dict[str, float]], name: str, differs: tuple[str, ...]
) -> Callable[[], None]:
    """The body of a table's script; `presets`: preset -> data set -> (changes to the config, columns)."""

    def body() -> None:
        rows, given, folder = common.parse_preset(presets, name, fixed=("dataset",))
        entries = {}  # caches are kept until all are finished: a resumed run finds those of every data set
        for dataset in common.select_datasets(rows):
            changes, columns = rows[dataset]
            config, out = Config(**{"dataset": dataset} | changes | given), folder / dataset.replace(":", "-")
            entries[dataset] = measure_with_memguard(config, columns, paper.get(dataset, {}), out)
            records.write(out, entries[dataset], differs=differs, accuracies=draw_table)
            print(format_table(dataset, entries[dataset]))
        records.remove_caches(folder, entries)

    return body


def draw_table(entry: dict) -> Figure:
    """The accuracies of one data set beside the paper's."""
    return plots.paper_comparison(entry["config"]["dataset"], entry["attacks"])


def draw_lines(axes: Axes, entries: dict[str, dict], names: list[str], paper: dict[str, dict[str, float]]) -> None:
    """A line for each named attack over the entries, and crosses for the paper's series, or {}."""
    crosses = {name: coordinates(series) for name, series in paper.items()}
    plots.lines(axes, {float(at): entry["attacks"] for at, entry in entries.items()}, names, crosses)


def coordinates(series: dict[str, float]) -> tuple[list[float], list[float]]:
    """(points, accuracies) of one of the paper's series."""
    return [float(point) for point in series], list(series.values())


def format_accuracy(row: dict) -> str:
    """The accuracy of an attack with its interval over targets, or over points where there is one target; and what
    the paper has, in per cent."""
    interval = plots.accuracy_interval(row)
    text = report.percent(interval) + " over points" * (interval is not row["balanced_accuracy"])
    return text if row.get("paper") is None else f"{text} (paper {row['paper']})"


def format_attacks(rows: dict[str, dict]) -> str:
    """The accuracies of attacks on one line."""
    return ", ".join(f"{name} {format_accuracy(row)}" for name, row in rows.items())


def format_entry(title: str, entry: dict) -> str:
    """One line on a study: test accuracy and the accuracies of its attacks."""
    test = report.percent(entry["models"]["test_accuracy"])
    return f"{title}: test {test}, {format_attacks(entry['attacks'])}"


def format_table(name: str, entry: dict) -> str:
    """The printed table of one data set."""
    config, models, memguard = entry["config"], entry["models"], entry["memguard"]
    title = (f"{name}, {config['model']}, n={config['n_train']}, {config['num_targets']} targets: train accuracy "
             f"{report.percent(models['train_accuracy'])}, test {report.percent(models['test_accuracy'])}")  # fmt: skip
    rows: list[tuple[str, ...]] = [("", "queries", "balanced accuracy", "paper", "difference, pp")]
    for key, row in (entry["attacks"] | {f"memguard: {key}": row for key, row in memguard["attacks"].items()}).items():
        paper, accuracy = row.get("paper"), 100 * row["balanced_accuracy"]["mean"]
        compared = ("", "") if paper is None else (f"{paper:.1f}", f"{accuracy - paper:+.1f}")
        rows.append((key, f"{row['queries_per_example']:.1f}", format_accuracy(row | {"paper": None}), *compared))
    same = ", ".join(f"{key} {'yes' if value else 'NO'}"
                     for key, value in memguard["label_only_identical_to_the_bit"].items())  # fmt: skip
    return f"{title}\n{report.aligned(rows)}\nlabel-only scores under MemGuard identical to the bit: {same}\n"
