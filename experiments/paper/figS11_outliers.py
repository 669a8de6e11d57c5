"""Supplement, figure S11: do defenses protect outliers?

Artefact: record.json and figS11.png in --out (default results/records/figS11-PRESET): for each defense the precision of
          the boundary attack on outliers, on the whole population, and their difference.
Command:  python -m experiments.paper.figS11_outliers --preset=smoke  digits; seconds
          python -m experiments.paper.figS11_outliers --preset=cpu  CIFAR-10, n = 2,500; one trial
          python -m experiments.paper.figS11_outliers --preset=paper  three trials, all points: an accelerator
          originals in --data_dir or $MI_JAX_DATA/cifar10.
Settings: `mi_jax/data/outliers.py`: candidates are all members and non-members, which the attacker cannot tell apart;
          outliers are those of the first shadow model's features (beta = 2 % of them, gamma = 10 neighbours).
          Thresholds are those of the best precision on shadow models, for outliers among their outliers and for
          everybody among their points, with at least a tenth of the points called members. Precision is that at as many
          members as non-members (`mi_jax/evaluation/precision.py`). On record too: the plain precision, and outliers at
          the threshold of everybody, which no choice among few outliers moves. In the cpu preset boundary takes 609
          queries, of everybody 200 points a side.
Differs:  DIFFERS, which the record holds too.
Expected: improvement in pp: dropout 0.8: 8.3, 0.9: 5.2, DP 0.3, L2 of 3: 0.5 (PAPER, with its error bars). Its text
          compares with the whole population, its caption with the undefended model; both are here.
Hardware: cpu preset: one core, about 200 minutes beside other runs.
Status:   cpu preset run (results/records/figS11-cpu): improvement in pp, with its interval over points: undefended 18.2
          (4.7 to 29.2), dropout 0.8 17.2 (4.6 to 26.6), 0.9 -2.4 (-16.3 to 9.9), DP at epsilon 250 15.6 (-32.8 to 36.0,
          six called), L2 of 3 3.5 (-15.8 to 20.9). A hundred outliers of one target leave the paper's effects open;
          they do show that outliers leak more where there is no defense. Under dropout the shadow model finds 11 and 7
          members among its own hundred, the target's hundred has 46 and 50; paper preset not yet run
"""

import dataclasses

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import common
from experiments.paper import records, tables
from experiments.paper.fig5_6_defenses import CIFAR
from mi_jax import attacks, study
from mi_jax.data import outliers
from mi_jax.evaluation import metrics, plots, precision, report
from mi_jax.models import heads
from mi_jax.querying.collect import Collector, Points, select_points
from mi_jax.study import runs
from mi_jax.study.config import Config

PAPER = tables.read_paper("figS11")  # pp, with the ends of the error bar
DIFFERS = (
    *tables.DIFFERS[2:],
    "a threshold of the best precision has to call a tenth of the points members; precision is that at as many members "
    "as non-members, the plain one is on record",
    "outliers of the shadow model are found by its own features, of whom half were trained on, those of the target by "
    "the same features, which saw none of them",
    "epsilon 250 has less noise here than the paper's 250, which is 108 by this accountant",
    "cpu preset: one trial, boundary with 609 queries, of everybody 200 points a side",
)
DEFENSES = ("none", *PAPER)
PRESETS = {  # changes to the config, defenses, points a side of everybody, share of outliers, neighbours
    "smoke": ({"num_targets": 2, "num_shadows": 1, "n_train": 60, "budget": 40}, ("none", "dropout:0.5"), None, 0.2, 3),
    "cpu": (CIFAR | {"num_targets": 1, "budget": 609}, DEFENSES, 200, outliers.BETA, outliers.GAMMA),
    "paper": (CIFAR | {"num_targets": 3, "budget": 2409}, DEFENSES, None, outliers.BETA, outliers.GAMMA),
}
MIN_CALLED = 0.1  # share of the points that a threshold has to call members


def find_outliers(prepared: study.Study, shadow: int, k: int, beta: float, gamma: int) -> tuple[Points, float]:
    """The outliers among the members and non-members of model k, by the features of a shadow model, and delta."""
    split = prepared.split
    rows = np.sort(np.concatenate([split.members[k], split.nonmembers[k]]))  # of equals the later ones are chosen
    params = jax.tree.map(lambda leaf: leaf[shadow], prepared.params)
    features = heads.penultimate_activations(prepared.model, params, prepared.dataset.x[rows])
    chosen, delta = outliers.outliers(features, beta=beta, gamma=gamma)
    return Points(rows[chosen], np.isin(rows[chosen], split.members[k])), delta


def measure(prepared: study.Study, points: int | None, beta: float, gamma: int) -> dict:
    """The entry of one defense: its models, and for each trial the precision on outliers and on everybody."""
    (attack,), trials = attacks.build("boundary", prepared.context), []
    with runs.ProgressBar(prepared.config.defense, unit="query") as progress:
        collect = Collector(prepared.key, prepared.dataset, prepared.target, cache=prepared.cache,
                            progress=progress.add)  # fmt: skip

        def score(models: np.ndarray, points: list[Points]) -> precision.Scored:
            answers = [collect(attack, k, one) for k, one in zip(models, points, strict=True)]
            return precision.Scored(np.concatenate([one.features[:, 0, -1] for one in answers]),
                                    np.concatenate([one.is_member for one in points]))  # fmt: skip

        for trial in prepared.split.trials:
            far, deltas = zip(*(find_outliers(prepared, trial[1], k, beta, gamma) for k in trial), strict=True)
            sides = {"outliers": far, "everybody": [select_points(prepared.split, k, points) for k in trial]}
            pairs = {side: (score(trial[:1], one[:1]), score(trial[1:], one[1:])) for side, one in sides.items()}
            chosen = {side: precision.most_precise(shadows, MIN_CALLED) for side, (_, shadows) in pairs.items()}
            rows = {side: precision.evaluate_threshold(*pairs[side], threshold) for side, threshold in chosen.items()}
            other = precision.evaluate_threshold(*pairs["outliers"], chosen["everybody"])
            trials.append(rows | {"outliers_at_threshold_of_everybody": other, "delta": deltas})
    models = tables.measure(prepared, {"gap": tables.CHEAP["gap"]})
    return models | precision.compare(trials, "outliers") | {"trials": trials}


def error_bar(axes: Axes, x: float, row: dict, label: str | None, **style) -> None:
    """Draws a mean with its interval, in percentage points."""
    mean, low, high = (100 * row[key] for key in ("mean", "low", "high"))
    axes.errorbar(x, mean, [[mean - low], [high - mean]], lw=1, label=label, **style)


def draw(record: dict) -> Figure:
    """Precision on outliers less that on everybody, a bar a defense with its interval over points; beside it outliers
    at the threshold of everybody, and the paper's."""
    figure, axes = plots.subplots(figsize=(7, 4))
    config, entries = record["config"], record["defenses"]
    for at, (name, entry) in enumerate(entries.items()):
        points = entry["over_points"]
        other = precision.total_precision(entry["trials"], "outliers_at_threshold_of_everybody")
        if points:
            mean = 100 * points["improvement"]["mean"]
            axes.bar(at, mean, color=plots.COLOURS[0], alpha=0.6, width=0.4, label="at the threshold of outliers")
            error_bar(axes, at, points["improvement"], None, color="0.2", capsize=3)
        else:
            axes.annotate("no point called", (at, 0), ha="center", va="bottom", fontsize=8)
        if points and other:
            improvement = metrics.independent_difference(other, points["everybody"])
            error_bar(axes, at + 0.28, improvement, "at that of everybody", fmt="D", ms=4, color=plots.COLOURS[2])
        if config["dataset"] == "cifar10" and name in PAPER:
            paper = dict(zip(("mean", "low", "high"), (value / 100 for value in PAPER[name]), strict=True))
            error_bar(axes, at + 0.4, paper, "the paper's", fmt="x", color=plots.COLOURS[1])
    axes.axhline(0, color="0.5", lw=1)
    tests = [100 * entry["models"]["test_accuracy"]["mean"] for entry in entries.values()]
    axes.set_xticks(range(len(tests)), [f"{name}\n{test:.1f}" for name, test in zip(entries, tests, strict=True)])
    axes.set(ylabel="precision on outliers less that on all (pp)", xlabel="defense; below it test accuracy (%)",
             title=f"{config['dataset']}, n = {config['n_train']}")  # fmt: skip
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        axes.legend(handles.values(), handles.keys(), fontsize=8, loc="lower left")
    return figure


def body() -> None:
    """Every defense of the preset."""
    (changes, defenses, points, beta, gamma), given, folder = common.parse_preset(
        PRESETS, "figS11", no_defense="figure S11 compares some of its own", fixed=("cap",)
    )
    studies = study.prepare_grid(Config(**changes | given), defenses, out=folder)  # shadow models know the defense
    entries = {}
    for name, prepared in zip(defenses, studies, strict=True):
        entry = entries[name] = measure(prepared, points, beta, gamma)
        precise, undefended = entry["outliers"], entries["none"]["outliers"]
        entry["above_undefended"] = precise["mean"] - undefended["mean"] if precise and undefended else None
        sides = entry["over_points"] or dict.fromkeys(("outliers", "everybody", "improvement"))
        precisions = ", ".join(f"{side} {report.percent(value)}" for side, value in sides.items())
        print(f"{name}: test {report.percent(entry['models']['test_accuracy'])}, precision on {precisions}", flush=True)
    config = dataclasses.asdict(studies[0].config) | {"defense": list(defenses)}
    settings = {"beta": beta, "gamma": gamma, "least": MIN_CALLED, "points_a_side": points}
    record = {"config": config, "settings": settings, "defenses": entries}
    records.finish(folder, record, differs=DIFFERS, figS11=draw)


if __name__ == "__main__":
    common.run(body)
