"""The main path on one page: query the shadow models, tune and fit the attack on them, then query the target.

Everything that is tuned (a strength, a network, a threshold) is tuned on the shadow models of the trial. The target is
queried once, by the tuned attack, and its scores are only reported.
"""

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mi_jax import environment, store
from mi_jax.data import check_dataset, describe, splits
from mi_jax.evaluation import entries, metrics
from mi_jax.querying.accuracies import refuse_random_targets, target_accuracies
from mi_jax.querying.collect import AnswerLogs, Collect, Collector, Points, Target, max_cost, select_points
from mi_jax.types import Answers, Attack, Dataset, Split

TUNING_POINTS = 300  # members, and as many non-members, of each shadow model, for the choice of a strength


class Chosen(NamedTuple):
    """An attack, tuned and fitted on the shadow models of its trial."""

    attack: Attack
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    threshold: float
    accuracy: float  # balanced, on shadow rows, with thresholds chosen without them
    shadow_scores: np.ndarray  # [s] held out; the threshold was chosen on them


class Trial(NamedTuple):
    """The result of one attack on one target."""

    chosen: Chosen
    at_edge: str | None  # what says that a setting is the first or last of those tried
    answers: Answers
    scores: np.ndarray  # [2n], NaN for points beyond the cap on queries


def audit(
    key: jax.Array,
    dataset: Dataset,
    split: Split,
    target: Target,
    attacks: dict[str, tuple[Attack, ...]],
    *,
    num_points: int | None = None,
    cap: int | None = None,
    allow_random_target: bool = False,
    cache: store.Cache = store.no_cache,
    answers: Path | str | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """The record of an audit and its scores: every attack on every trial of `split`.

    `target(k, access)` is model k as an oracle (as a `WhiteBox` for "gradient"). `attacks` maps names to candidates
    (`attacks.build`). `num_points` is the largest number of members, and of non-members, attacked of each model (None:
    all). `cap` is the largest number of queries of an attack to one target; points beyond it have score NaN and no
    number but `finished` includes them. `progress` is called with an attack's queries so far, those planned if every
    point is labelled correctly, and its name.

    Two things make a run resumable. `answers` is a folder: the answers of every oracle with a `name`
    (`oracle.function_oracle`) are stored there as they come, and the same call puts no query again but those that got
    no answer. A changed model needs another name or folder: a sample of stored answers is compared, which can miss it.
    `cache` (`store.py`) is for networks: the name of an entry changes with weights, examples and the code of an attack,
    but not with modules that this code imports.

    Every target first answers the same few queries twice. One that answers differently is refused, unless
    `allow_random_target`; the record has the share of changed answers in both cases.

    The record has the keys `split_digest`, `split`, `data`, `models`, `attacks`, `queries`, `environment` and `seconds`
    of report.json, and a part of `config`; `report.py` documents both returns and draws table, findings and figures
    from them. ValueError, before the first query, for a data set, split, attacks or numbers that do not fit together.
    """
    _check_arguments(dataset, target, attacks, num_points, cap)
    dataset, split = check_dataset(dataset), splits.check_split(split, len(dataset.x))
    points = [select_points(split, k, num_points) for k in range(len(split.members))]
    _check_points(points, split)
    planned = {name: planned_queries(dataset, split, points, {name: tried}) for name, tried in attacks.items()}
    logs = AnswerLogs(target, dataset.num_classes, None if answers is None else Path(answers), allow_random_target)
    scores = _point_arrays(dataset, split, points)
    models, queries = target_accuracies(dataset, split, logs.target, points)
    if not allow_random_target:
        refuse_random_targets(models["flip_rate"]["values"])
    record = {"config": {"dataset": dataset.name, "num_shadows": split.trials.shape[1] - 1}, "data": describe(dataset)}
    record |= {"split_digest": splits.split_digest(split), "split": _split_record(split), "models": models}
    record |= {"attacks": {}, "queries": {"by_attack": {}}}
    seconds: dict[str, float] = {}
    for i, (name, candidates) in enumerate(attacks.items(), 1):
        started, attack_key = time.perf_counter(), jax.random.fold_in(key, zlib.crc32(name.encode()))
        report = _reporter(progress, planned[name], f"{name} ({i} of {len(attacks)})")

        collect = Collector(attack_key, dataset, logs.target, cache=cache, progress=report)
        trials = [_trial(attack_key, collect, dataset, points, candidates, trial, cap) for trial in split.trials]
        record["attacks"][name] = _attack_entry(trials, scores["is_member"], cap)
        record["queries"]["by_attack"][name] = _attack_queries(collect, trials)
        scores |= _score_arrays(name, trials)
        seconds[name] = round(time.perf_counter() - started, 2)
    record["queries"] |= queries | {"repeated": logs.repeated, "failed": logs.failed}
    record["queries"]["total"] = entries.all_queries(record)
    entries.add_gain_over_gap(record, scores)
    return record | {"environment": environment.environment(), "seconds": seconds}, scores


def _reporter(progress: Callable[[int, int, str], None], planned: int, label: str) -> Callable[[int], None]:
    """A function of the queries since its last call, which calls `progress` for one attack, now for the first time."""
    done = 0
    progress(done, planned, label)

    def report(queries: int) -> None:
        nonlocal done
        done += queries
        progress(done, planned, label)

    return report


def _check_arguments(dataset: Any, target: Any, attacks: Any, num_points: int | None, cap: int | None) -> None:
    """Raises ValueError for arguments of other types or ranges than `audit` documents."""
    if not isinstance(dataset, Dataset) or not callable(target):
        raise ValueError(f"dataset and target: a {type(dataset).__name__} and a {type(target).__name__}, expected a "
                         "Dataset (data.from_arrays) and a function (k, access) -> oracle")  # fmt: skip
    if not isinstance(attacks, dict) or not attacks:
        raise ValueError(f"attacks: {attacks!r:.80}, expected at least one: name -> candidates (attacks.build)")
    for name, candidates in attacks.items():
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise ValueError(f"attacks: the name {name!r}, expected printable text")
        if (
            not isinstance(candidates, tuple | list)
            or not candidates
            or not all(isinstance(candidate, Attack) for candidate in candidates)
        ):
            raise ValueError(f"attacks: {name} has {candidates!r:.80}, expected candidates, as attacks.build returns")
    for name, value in (("num_points", num_points), ("cap", cap)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")


def _check_points(points: list[Points], split: Split) -> None:
    """Raises ValueError where shadow models have too few points for one half of them to check the other."""
    for t, trial in enumerate(split.trials):
        is_member = np.concatenate([points[k].is_member for k in trial[1:]])
        if min(is_member.sum(), (~is_member).sum()) < 2:
            raise ValueError(
                f"trial {t}: {is_member.sum()} members and {(~is_member).sum()} non-members of shadow models, "
                "expected at least two of each, since tuning holds out a half"
            )


def _split_record(split: Split) -> dict:
    """The sizes of a split, and what its shadow models share with the targets."""
    sizes = {"members": split.members.shape[1], "nonmembers": split.nonmembers.shape[1]}
    return sizes | {"shadow_overlap": splits.shadow_overlap(split)}


def _attack_queries(collect: Collector, trials: list[Trial]) -> dict[str, int]:
    """Queries of one attack to the targets and to the shadow models; a model that served twice was asked once."""
    target = sum(int(trial.answers.queries.sum()) for trial in trials)
    return {"target": target, "shadow": sum(collect.queries.values()) - target}


def planned_queries(
    dataset: Dataset, split: Split, points: list[Points], attacks: dict[str, tuple[Attack, ...]]
) -> int:
    """The number of queries of an audit if every point is labelled correctly."""
    total = 0
    for trial in split.trials:
        target, *shadows = (points[k] for k in trial)
        for candidates in attacks.values():
            full, costs = candidates[0].full_budget, [max_cost(dataset, attack) for attack in candidates]
            tuning = sum(len(p.first(TUNING_POINTS).rows if full else p.rows) for p in shadows) * sum(costs)
            cost = max_cost(dataset, full) if full else max(costs)  # any of the candidates may be chosen
            total += tuning + cost * (len(target.rows) + sum(len(p.rows) for p in shadows if full))
    return total


def _trial(
    key,
    collect: Collect,
    dataset: Dataset,
    points: list[Points],
    candidates: tuple[Attack, ...],
    trial: np.ndarray,
    cap,
) -> Trial:
    target = trial[0]
    chosen, _ = tune(jax.random.fold_in(key, target), collect, dataset, points, candidates, trial[1:])
    answers = collect(chosen.attack, target, points[target], cap)
    features = np.where(np.isnan(answers.features), 0, answers.features)  # of points beyond the cap
    scores = chosen.score(features, dataset.y[points[target].rows])
    return Trial(
        chosen, entries.at_edge(chosen.attack, candidates), answers, np.where(answers.finished, scores, np.nan)
    )


def tune(
    key: jax.Array,
    collect: Collect,
    dataset: Dataset,
    points: list[Points],
    candidates: tuple[Attack, ...],
    shadows: np.ndarray,
) -> tuple[Chosen, list[Answers]]:
    """The attack tuned on the shadow models, and the answers of each of them to it.

    Candidates with a `full_budget` attack are tried on at most TUNING_POINTS members and non-members of each shadow
    model; the attack with the full budget is fitted on all points.
    """

    def best_of(candidates: tuple[Attack, ...], points: list[Points]) -> tuple[Chosen, list[Answers]]:
        y = np.concatenate([dataset.y[p.rows] for p in points])
        is_member = np.concatenate([p.is_member for p in points])
        answers = [[collect(attack, k, p) for k, p in zip(shadows, points, strict=True)] for attack in candidates]
        chosen = choose(key, candidates, answers, y, is_member)
        return chosen, answers[next(i for i, attack in enumerate(candidates) if attack is chosen.attack)]

    shadow_points = [points[k] for k in shadows]
    if candidates[0].full_budget is None:
        return best_of(candidates, shadow_points)
    tuned, _ = best_of(candidates, [p.first(TUNING_POINTS) for p in shadow_points])
    return best_of((tuned.attack.full_budget or tuned.attack,), shadow_points)


def choose(
    key: jax.Array, candidates: tuple[Attack, ...], answers: list[list[Answers]], y: np.ndarray, is_member: np.ndarray
) -> Chosen:
    """The candidate with the best balanced accuracy on held-out shadow rows.

    Each is fitted on the shadow rows. Its accuracy is that of its held-out scores, with a threshold from one half of
    them applied to the other. Ties go to the candidate with fewer queries, then to the earlier one. The threshold for
    the target maximises the balanced accuracy of all held-out scores, unless the attack has a fixed one.
    """
    fold, results = _folds(is_member), []
    for attack, shadow_answers in zip(candidates, answers, strict=True):
        fitted = attack.fit(key, np.concatenate([a.features for a in shadow_answers]), y, is_member)
        accuracy = np.mean([_transfer_accuracy(attack, fitted.held_out, is_member, fold == i) for i in (0, 1)])
        queries = np.mean(np.concatenate([a.queries for a in shadow_answers]))
        results.append((-round(float(accuracy), 12), queries, len(results), fitted))
    loss, _, best, (score, held_out) = min(results, key=lambda result: result[:3])
    attack = candidates[best]
    threshold = attack.threshold if attack.threshold is not None else metrics.best_threshold(held_out, is_member)
    return Chosen(attack, score, float(threshold), -loss, held_out)


def _transfer_accuracy(attack: Attack, scores: np.ndarray, is_member: np.ndarray, half: np.ndarray) -> float:
    """Balanced accuracy on the rows outside `half`, at the threshold that is best on those inside."""
    threshold = attack.threshold
    if threshold is None:
        threshold = metrics.best_threshold(scores[half], is_member[half])
    return metrics.balanced_accuracy(scores[~half], is_member[~half], threshold)


def _folds(is_member: np.ndarray) -> np.ndarray:
    """0 or 1 for every row, alternating among the members and among the non-members."""
    fold = np.zeros(len(is_member), int)
    for group in (is_member, ~is_member):
        fold[group] = np.arange(group.sum()) % 2
    return fold


def _point_arrays(dataset: Dataset, split: Split, points: list[Points]) -> dict[str, np.ndarray]:
    """The attacked points: rows, labels, is_member of the targets [T 2n] and of the shadow models [T S2n]."""
    arrays = {}
    for prefix, columns in (("", slice(0, 1)), ("shadow/", slice(1, None))):
        rows = np.stack([np.concatenate([points[k].rows for k in trial[columns]]) for trial in split.trials])
        members = np.stack([np.concatenate([points[k].is_member for k in trial[columns]]) for trial in split.trials])
        arrays |= {f"{prefix}rows": rows, f"{prefix}labels": dataset.y[rows], f"{prefix}is_member": members}
    return arrays


def _score_arrays(name: str, trials: list[Trial]) -> dict[str, np.ndarray]:
    """The arrays of one attack in scores.npz."""
    return {
        f"attack/{name}/scores": np.stack([trial.scores for trial in trials]),  # [T 2n]
        f"attack/{name}/queries": np.stack([trial.answers.queries for trial in trials]),
        f"shadow/attack/{name}/scores": np.stack([trial.chosen.shadow_scores for trial in trials]),  # [T S2n]
    }


def _attack_entry(trials: list[Trial], is_member: np.ndarray, cap: int | None) -> dict:
    """The entry of one attack in report.json."""
    chosen = [trial.chosen for trial in trials]
    tuned = {
        "settings": [one.attack.settings for one in chosen],
        "threshold": [one.threshold for one in chosen],
        "shadow_accuracy": [one.accuracy for one in chosen],
        "at_edge": [trial.at_edge for trial in trials],
    }
    answers, scores = [trial.answers for trial in trials], np.stack([trial.scores for trial in trials])
    finished = ~np.isnan(scores)
    if not np.all((is_member & finished).any(1) & (~is_member & finished).any(1)):
        unfinished = f"{chosen[0].attack.name} finish no member or no non-member of a target"
        raise ValueError(f"cap={cap}: let {unfinished}, expected a higher cap on queries")
    return entries.attack_entry(chosen[0].attack, answers, scores, is_member, tuned)
