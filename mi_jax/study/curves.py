"""Accuracy against queries: what an attack would reach with fewer queries, read off the states of a single run.

At every checkpoint the threshold is chosen again on the shadow models, as an attacker with that budget would choose it.
The strength of noise is chosen once, as `attacks.build` says.
"""

import zlib
from typing import NamedTuple

import jax
import numpy as np

from mi_jax import attacks
from mi_jax.attacks import one_threshold, schedules
from mi_jax.evaluation import metrics, paired
from mi_jax.querying.collect import Collect, Collector, Points, select_points
from mi_jax.study import runs
from mi_jax.study.studies import Study
from mi_jax.trials import Plan, choose, planned_queries, tune
from mi_jax.types import Attack, Dataset

COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 350, 500, 1000, 1500, 2500)  # queries of the checkpoints of noise and rays


class Curve(NamedTuple):
    """An attack at increasing numbers of queries."""

    checkpoints: list[dict]  # {"queries", "balanced_accuracy", "auc"}: each a mean over targets with its interval
    hits: list[paired.Hits]  # at each checkpoint


class _Plan(NamedTuple):
    """How an attack is run once to read it at several checkpoints."""

    candidates: tuple[Attack, ...]  # their features are the states at the checkpoints
    queries: np.ndarray  # at each checkpoint, without the query that finds misclassified points
    columns: list[int]  # of the features, one a checkpoint


def query_curve(study: Study, name: str, *, budget: int | None = None, num_points: int | None = None,
                num_trials: int | None = None) -> Curve:  # fmt: skip
    """The Curve of "noise", "rays", "boundary" or "combined", up to `budget` queries (None: the study's).

    It is that of the first `num_points` members and non-members of each model and of the first `num_trials` trials
    (None: all). Its last checkpoint is what `study.attack` measures with this budget (of noise with other draws).
    Queries are the target's mean per example, misclassified points included. ValueError for another attack.
    """
    plan = _plan(name, study.context._replace(budget=budget or study.context.budget))
    split = study.split._replace(trials=study.split.trials[:num_trials])
    points = [select_points(split, k, num_points or study.config.num_points) for k in range(len(split.members))]
    key = jax.random.fold_in(study.key, zlib.crc32(name.encode()))
    total = planned_queries(Plan(study.dataset, split, points), {name: plan.candidates})
    with runs.ProgressBar(f"query curve, {name}", unit="query", total=total) as progress:
        collect = Collector(key, study.dataset, study.target, cache=study.cache, progress=progress.add)
        trials = [_trial_curve(key, collect, study.dataset, points, trial, plan) for trial in split.trials]
    targets = [points[k] for k in split.trials[:, 0]]
    rows, is_member = [p.rows for p in targets], [p.is_member for p in targets]
    hits = [paired.Hits(rows, is_member, list(correct)) for correct in zip(*(c for _, c in trials), strict=True)]
    means = [{key: metrics.mean_interval([row[key] for row in rows]) for key in rows[0]}
             for rows in zip(*(rows for rows, _ in trials), strict=True)]  # fmt: skip
    return Curve(means, hits)


def _plan(name: str, context: attacks.AttackContext) -> _Plan:
    if name not in ("noise", "rays", "boundary", "combined"):
        raise ValueError(f"query curve of {name!r}: expected noise, rays, boundary or combined")
    counts = (*(c for c in COUNTS if c < context.budget), context.budget)
    candidates = attacks.build(name, context)
    if name == "noise":
        candidates = tuple(_noise_read_at(attack, context, counts) for attack in candidates)
        return _Plan(candidates, np.array(counts), list(range(len(counts))))
    if name == "rays":  # read after every query
        return _Plan(candidates, np.array(counts), [c - 1 for c in counts])
    queries = schedules.checkpoints(schedules.schedule(context.budget, int(np.prod(context.example_shape))))
    return _Plan(candidates, queries, list(range(len(queries))))


def _noise_read_at(attack: Attack, context: attacks.AttackContext, counts: tuple[int, ...]) -> Attack:
    """A noise attack whose features, with its full budget, are its hit rates after these numbers of queries."""
    full = (attack.full_budget or attack)._replace(settings=attack.settings | {"queries": counts})
    return attack._replace(
        full_budget=full._replace(measure=one_threshold.noisy_hit_rate(context, full.settings, counts))
    )


def _trial_curve(
    key: jax.Array, collect: Collect, dataset: Dataset, points: list[Points], trial: np.ndarray, plan: _Plan
) -> tuple[list[dict], list[np.ndarray]]:
    """(accuracy, AUC and queries of one trial at every checkpoint; whether the attack is then correct about [2n])."""
    shadows, own = [points[k] for k in trial[1:]], points[trial[0]]
    y = np.concatenate([dataset.y[p.rows] for p in shadows])
    is_member = np.concatenate([p.is_member for p in shadows])
    tuned, shadow_answers = tune(key, collect, dataset, points, plan.candidates, trial[1:])
    answers, checkpoints, correct = collect(tuned.attack, trial[0], own), [], []
    neighbours = answers.features.shape[1]  # each costs the query that finds misclassified points
    measured = (answers.queries - neighbours) / plan.queries[-1]  # [2n] neighbours that were measured
    for queries, column in zip(plan.queries, plan.columns, strict=True):
        at = (slice(None), slice(None), slice(column, column + 1))
        seen = [answer._replace(features=answer.features[at]) for answer in shadow_answers]
        chosen = choose(key, (tuned.attack,), [seen], y, is_member)
        scores = chosen.score(answers.features[at], dataset.y[own.rows])
        accuracy = metrics.balanced_accuracy(scores, own.is_member, chosen.threshold)
        checkpoints.append({"queries": float(neighbours + (measured * queries).mean()), "balanced_accuracy": accuracy,
                            "auc": metrics.auc(scores, own.is_member)})  # fmt: skip
        correct.append((scores >= chosen.threshold) == own.is_member)
    return checkpoints, correct
