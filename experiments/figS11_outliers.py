"""Supplement, figure S11: do defenses protect the points that lie alone?

Artefact: record.json and figS11.png in --out (default results/records/figS11-PRESET): for each defense the precision of
          the boundary attack on outliers, on the whole population, and their difference.
Command:  python -m experiments.figS11_outliers --preset=smoke     digits; seconds
          python -m experiments.figS11_outliers --preset=cpu       CIFAR-10, n = 2,500; one trial
          python -m experiments.figS11_outliers --preset=paper     three trials, everybody asked about: an accelerator
          originals in --data_dir or $MI_JAX_DATA/cifar10.
Settings: `outliers.py`: candidates are all members and non-members, which the attacker cannot tell apart; they are
          outliers in the eyes of the first shadow model (beta = 2 % of them, gamma = 10 neighbours). Thresholds are
          those of the best precision on shadow models, for outliers among their outliers and for everybody among
          their points, with at least a tenth of the points called members, so that none rests on a single point. In
          the cpu preset boundary asks 609 queries, of everybody 200 points a side.
Expected: improvement in pp: dropout 0.8: 8.3 (6.9 to 10.6), 0.9: 5.2, DP 0.3, L2 of 3: 0.5 (the paper). Its text
          compares with the whole population, its caption with the undefended model; both are here.
Differs:  DIFFERS, which the record holds too.
Status:   not yet run
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from matplotlib import pyplot as plt

from experiments import common, records, runs, study, tables
from experiments.fig5_6_defenses import CIFAR
from mi_jax import attacks, heads, metrics, outliers, plots, report
from mi_jax.interview import Points, interview

PAPER = {"dropout:0.8": 8.3, "dropout:0.9": 5.2, "dp_adam:250": 0.34, "l2:3": 0.54}  # pp
DIFFERS = (
    *tables.DIFFERS[2:],
    "a threshold of the best precision has to call a tenth of the points members",
    "outliers of the shadow model are found by its own features, of whom half were trained on, those of the target by "
    "the same features, which saw none of them",
    "epsilon 250 has less noise here than the paper's 250, which is 108 by this accountant",
    "cpu preset: one trial, boundary with 609 queries, of everybody 200 points a side",
)
WRITTEN = ("none", *PAPER)
PRESETS = {  # changes to the config, defenses, share of outliers, neighbours
    "smoke": ({"num_targets": 2, "num_shadows": 1, "n_train": 60, "budget": 40}, ("none", "dropout:0.5"), 0.2, 3),
    "cpu": (CIFAR | {"num_targets": 1, "num_points": 200, "budget": 609}, WRITTEN, outliers.BETA, outliers.GAMMA),
    "paper": (CIFAR | {"num_targets": 3, "budget": 2409}, WRITTEN, outliers.BETA, outliers.GAMMA),
}
LEAST = 0.1  # of the points, called members by a threshold


class Seen(NamedTuple):
    """Points of one model and the attack's scores of them."""

    scores: np.ndarray
    is_member: np.ndarray


def alone(prepared: study.Study, trial: np.ndarray, k: int, beta: float, gamma: int) -> Points:
    """Those members and non-members of model k that the trial's first shadow model finds alone."""
    split, (_, shadow, *_) = prepared.split, trial
    rows = np.sort(np.concatenate([split.members[k], split.nonmembers[k]]))  # of equals the later ones are chosen
    is_member = np.isin(rows, split.members[k])
    params = jax.tree.map(lambda leaf: leaf[shadow], prepared.params)
    features = heads.penultimate(prepared.model, params, prepared.dataset.x[rows])
    chosen, _ = outliers.outliers(features, beta=beta, gamma=gamma)
    return Points(rows[chosen], is_member[chosen])


def precision(target: Seen, shadows: Seen) -> dict:
    """What the threshold most precise on shadow models finds on the target: who is called a member, who of them is.

    `precision` has the exact 95 % interval `low`, `high` beside it, and is None where nobody is called. Guessing is
    right for `members` of the `points`, which for outliers need not be half of them.
    """
    least = max(1, int(LEAST * len(shadows.scores)))
    threshold = metrics.most_precise_threshold(*shadows, least=least)
    called = target.scores >= threshold
    right, count = int((called & target.is_member).sum()), int(called.sum())
    low, high = metrics.clopper_pearson(right, count) if count else (None, None)
    return {"precision": metrics.precision(*target, threshold), "low": low, "high": high, "called": count,
            "points": len(target.scores), "members": int(target.is_member.sum())}  # fmt: skip


def measure(prepared: study.Study, beta: float, gamma: int) -> dict:
    """The entry of one defense: for each trial the precision on outliers and on everybody."""
    (attack,), trials = attacks.build("boundary", prepared.task), []
    with runs.bar(prepared.config.defense, unit="query") as progress:
        ask = interview(prepared.key, prepared.dataset, prepared.target, keep=prepared.keep, tell=progress.add)

        def seen(k: int, points: Points) -> Seen:
            return Seen(ask(attack, k, points).features[:, 0, -1], points.is_member)

        def pooled(parts: list[Seen]) -> Seen:
            return Seen(*map(np.concatenate, zip(*parts, strict=True)))

        for trial in prepared.split.trials:
            lonely, everybody = (
                precision(seen(trial[0], of(trial[0])), pooled([seen(k, of(k)) for k in trial[1:]]))
                for of in (lambda k, t=trial: alone(prepared, t, k, beta, gamma), lambda k: sample_of(prepared, k))
            )
            trials.append({"outliers": lonely, "everybody": everybody})
    found = {side: [trial[side]["precision"] for trial in trials] for side in ("outliers", "everybody")}
    known = all(None not in values for values in found.values())  # a trial in which nobody is called has no precision
    better = metrics.paired_interval(*found.values()) if known else None
    return {"trials": trials, "improvement": better, "models": prepared.trained,
            **{side: metrics.summary(values) for side, values in found.items()}}  # fmt: skip


def sample_of(prepared: study.Study, k: int) -> Points:
    """The members and non-members of model k that stand for everybody."""
    split, most = prepared.split, prepared.config.num_points
    members, nonmembers = split.members[k][:most], split.nonmembers[k][:most]
    return Points(np.concatenate([members, nonmembers]), np.arange(2 * len(members)) < len(members))


def draw(record: dict) -> plt.Figure:
    """Precision on outliers less that on everybody, a bar a defense; the paper's as crosses."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for at, (name, entry) in enumerate(record["defenses"].items()):
        found = entry["improvement"] or {"mean": np.nan, "values": []}
        axes.bar(at, 100 * found["mean"], color=plots.COLOURS[0], alpha=0.6, width=0.6)
        axes.plot([at] * len(found["values"]), 100 * np.array(found["values"]), ".", color="0.2")
        if record["config"]["dataset"] == "cifar10" and name in PAPER:
            axes.plot(at, PAPER[name], "x", color=plots.COLOURS[1], label="the paper's")
    axes.axhline(0, color="0.5", lw=1)
    axes.set_xticks(range(len(record["defenses"])), list(record["defenses"]))
    axes.set(ylabel="precision on outliers less that on all (pp)", title=record["config"]["dataset"])
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(*zip(*dict(zip(labels, handles, strict=True)).items(), strict=True)[::-1]) if handles else None
    return figure


def body() -> None:
    """Every defense of the preset."""
    (changes, written, beta, gamma), said, folder = common.of_preset(
        PRESETS, "figS11", "figure S11 compares some of its own", own=("cap",)
    )
    config = common.Config(**changes | said)
    studies, found = study.prepare_grid(config, written, out=folder), {}  # shadow models know the defense
    for text, prepared in zip(written, studies, strict=True):
        found[text] = measure(prepared, beta, gamma)
        own, first = found[text]["outliers"], found["none"]["outliers"]
        found[text]["above_undefended"] = own["mean"] - first["mean"] if own and first else None
        told = ", ".join(f"{k} {report.percent(found[text][k])}" for k in ("outliers", "everybody", "improvement"))
        print(f"{text}: {told}", flush=True)
    settings = {"beta": beta, "gamma": gamma, "least": LEAST}
    resolved = dataclasses.asdict(studies[0].config) | {"defense": list(written)}
    record = {"config": resolved, "settings": settings, "defenses": found}
    records.leave(folder, record, study.places(folder, studies), differs=DIFFERS, figS11=draw(record))


if __name__ == "__main__":
    common.start(body)
