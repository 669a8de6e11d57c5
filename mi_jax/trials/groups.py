"""All trials of an audit: which attacks run together, what they cost, and how they run."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mi_jax import store
from mi_jax.querying.collect import Collector, Points, Target, max_cost
from mi_jax.querying.questions import Questioner
from mi_jax.trials import cross_fit, one_threshold, per_example
from mi_jax.trials.asking import Asking
from mi_jax.trials.one_threshold import TUNING_POINTS, Trial
from mi_jax.types import Attack, Dataset, PerExample, Split

Candidates = Mapping[str, tuple[Any, ...]]  # name -> what `attacks.build` returns: Attacks, or one PerExample


class Plan(NamedTuple):
    """Which models are attacked on which points."""

    dataset: Dataset
    split: Split
    points: list[Points]  # of every model
    tuning_shadows: int | None = None  # the most shadow models that an attack with one threshold is tuned on
    cap: int | None = None  # on the queries of an attack to one target

    def tuning_trials(self) -> np.ndarray:
        """The trials [T 1+S] with the shadow models for attacks with one threshold."""
        return self.split.trials[:, : None if self.tuning_shadows is None else 1 + self.tuning_shadows]


def group_attacks(attacks: Candidates) -> list[list[str]]:
    """Names of attacks that run together: those on the same questions, which models answer once; else each alone."""
    groups: dict[object, list[str]] = {}
    for name, candidates in attacks.items():
        first = candidates[0]
        asks = isinstance(first, PerExample) and first.statistic is None
        groups.setdefault((first.pool or first.craft) if asks else name, []).append(name)
    return list(groups.values())


def planned_queries(plan: Plan, attacks: Candidates) -> int:
    """The number of queries of these attacks if every point is labelled correctly; a shared pool is counted once."""
    total, pools = 0, set()
    for candidates in attacks.values():
        first = candidates[0]
        if not isinstance(first, PerExample):
            total += _planned_with_threshold(plan, candidates)
            continue
        rows = len(plan.points[plan.split.trials[0, 0]].rows)
        targets, models = plan.split.trials[:, 0], np.unique(plan.split.trials[:, 1:])
        if first.statistic is not None:  # what was asked in an earlier trial counts again, as a collector reports it
            total += rows * plan.split.trials.size * max_cost(plan.dataset, first.statistic)
            continue
        total += rows * len(targets) * first.settings.get("queries", 1)
        if first.pool not in pools:
            total += rows * len(models) * (sum(first.pool.counts) if first.pool else first.settings["queries"])
            pools |= {first.pool} if first.pool else set()
    return total


def _planned_with_threshold(plan: Plan, candidates: tuple[Attack, ...]) -> int:
    total, full = 0, candidates[0].full_budget
    if plan.split.trials.shape[1] == 1:  # cross-fitted: all candidates, with the full budget
        every = sum(max_cost(plan.dataset, attack.full_budget or attack) for attack in candidates)
        return sum(len(plan.points[target].rows) for (target,) in plan.split.trials) * every
    costs = [max_cost(plan.dataset, attack) for attack in candidates]
    cost = max_cost(plan.dataset, full) if full else max(costs)  # any of the candidates may be chosen
    for trial in plan.tuning_trials():
        target, *shadows = (plan.points[k] for k in trial)
        tuning = sum(len(p.first(TUNING_POINTS).rows if full else p.rows) for p in shadows) * sum(costs)
        total += tuning + cost * (len(target.rows) + sum(len(p.rows) for p in shadows if full))
    return total


def run_group(
    key: jax.Array,
    plan: Plan,
    attacks: Candidates,
    target: Target,
    cache: store.Cache,
    report: Callable[[int], None],
) -> tuple[dict[str, list[Trial]], int]:
    """(the trials of each attack of a group, queries to shadow models); a model that served twice was asked once."""
    dataset, split = plan.dataset, plan.split
    keys = {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in attacks}
    collectors = {name: Collector(keys[name], dataset, target, cache=cache, progress=report) for name in attacks}
    questioner = Questioner(dataset, target, len(split.members), cache=cache, progress=report)
    asking = Asking(dataset, split, target, collectors, questioner)
    trials: dict[str, list[Trial]] = {name: [] for name in attacks}
    judged = {name: candidates[0] for name, candidates in attacks.items() if isinstance(candidates[0], PerExample)}
    for trial, few in zip(split.trials, plan.tuning_trials(), strict=True):
        if judged:
            of_trial = per_example.run_trials(judged, asking, plan.points, trial, plan.cap)
        else:
            of_trial = {
                name: _run_alone(keys[name], collectors[name], plan, candidates, few)
                for name, candidates in attacks.items()
            }
        for name, one in of_trial.items():
            trials[name].append(one)
    put = sum(sum(asker.queries.values()) for asker in (*collectors.values(), questioner))
    return trials, put - sum(int(one.answers.queries.sum()) for of_attack in trials.values() for one in of_attack)


def _run_alone(
    key: jax.Array, collect: Collector, plan: Plan, candidates: tuple[Attack, ...], trial: np.ndarray
) -> Trial:
    """The result of an attack with one threshold, which is tuned on shadow models, or cross-fitted without them."""
    if len(trial) == 1:
        target = int(trial[0])
        return cross_fit.run_cross_fitted(key, collect, plan.dataset, plan.points[target], candidates, target, plan.cap)
    return one_threshold.run_trial(key, collect, plan.dataset, plan.points, candidates, trial, plan.cap)
