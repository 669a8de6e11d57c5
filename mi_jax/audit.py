"""The main path on one page: query the shadow models, tune and fit the attack on them, then query the target.

Everything that is tuned (a strength, a network, a threshold) is tuned on the shadow models of the trial. The target is
queried once, by the tuned attack, and its scores are only reported.
"""

import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mi_jax import store
from mi_jax.data import splits
from mi_jax.evaluation import metrics
from mi_jax.querying import oracle
from mi_jax.querying.collect import Collect, Points, Target, collector, max_cost, select_points
from mi_jax.types import Answers, Attack, Dataset, Split

FPRS = (0.1, 0.01, 0.001)
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
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """The record of an audit and its scores: every attack on every trial of `split`.

    `target(k, access)` is model k as an oracle (as a `WhiteBox` for "gradient"). `attacks` maps names to candidates
    (`attacks.build`). `num_points` is the largest number of members, and of non-members, attacked of each model (None:
    all). `cap` is the largest number of queries of an attack to one target; points beyond it have score NaN and no
    number but `finished` includes them. `cache` (`store.py`) makes a run resumable. `progress` is called with the
    queries so far, those planned if every point is labelled correctly, and the attack's name.

    Every target first answers the same few queries twice. One that answers differently is refused, unless
    `allow_random_target`; the record has the share of changed answers in both cases.

    The record has the keys `split_digest`, `models`, `attacks` and `seconds` of report.json, and a part of `config`;
    `report.py` documents both returns and draws table, findings and figures from them.
    """
    points = [select_points(split, k, num_points) for k in range(len(split.members))]
    done, total, seconds = 0, planned_queries(dataset, split, points, attacks), {}
    scores = _point_arrays(dataset, split, points)
    models = _accuracies(dataset, split, target, points)
    if not allow_random_target:
        _refuse_random_targets(models["flip_rate"]["values"])
    config = {"dataset": dataset.name, "num_shadows": split.trials.shape[1] - 1}
    record = {"config": config, "split_digest": splits.split_digest(split), "models": models, "attacks": {}}
    for name, candidates in attacks.items():
        started, attack_key = time.perf_counter(), jax.random.fold_in(key, zlib.crc32(name.encode()))

        def report(queries: int, name=name) -> None:
            nonlocal done
            done += queries
            progress(done, total, name)

        collect = collector(attack_key, dataset, target, cache=cache, progress=report)
        trials = [_trial(attack_key, collect, dataset, points, candidates, trial, cap) for trial in split.trials]
        record["attacks"][name] = _summary(trials, scores["is_member"])
        scores |= _score_arrays(name, trials)
        seconds[name] = round(time.perf_counter() - started, 2)
    return record | {"seconds": seconds}, scores


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
    scores = chosen.score(np.nan_to_num(answers.features), dataset.y[points[target].rows])
    return Trial(chosen, answers, np.where(answers.finished, scores, np.nan))


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


def _accuracies(dataset: Dataset, split: Split, target: Target, points: list[Points]) -> dict:
    """Train and test accuracy of every target on the points it is attacked on, and its flip rate on some of them."""
    by_target = []
    for k in split.trials[:, 0]:
        (rows, is_member), model = points[k], target(k, "label")
        labels = oracle.query_labels(model, dataset.x[rows])
        repeated = np.unique(np.linspace(0, len(rows) - 1, 64).astype(int))
        flipped = oracle.query_labels(model, dataset.x[rows[repeated]]) != labels[repeated]
        correct = labels == dataset.y[rows]
        by_target.append((correct[is_member].mean(), correct[~is_member].mean(), flipped.mean()))
    names = ("train_accuracy", "test_accuracy", "flip_rate")
    return {name: metrics.summary(values) for name, values in zip(names, zip(*by_target, strict=True), strict=True)}


def _refuse_random_targets(flip_rates: list[float]) -> None:
    if max(flip_rates) > 0:
        raise ValueError(
            f"a target answered {max(flip_rates):.1%} of its points differently when queried again: "
            "expected a deterministic target, or --allow_random_target"
        )


def _score_arrays(name: str, trials: list[Trial]) -> dict[str, np.ndarray]:
    """The arrays of one attack in scores.npz."""
    return {
        f"attack/{name}/scores": np.stack([trial.scores for trial in trials]),  # [T 2n]
        f"attack/{name}/queries": np.stack([trial.answers.queries for trial in trials]),
        f"shadow/attack/{name}/scores": np.stack([trial.chosen.shadow_scores for trial in trials]),  # [T S2n]
    }


def _summary(trials: list[Trial], is_member: np.ndarray) -> dict:
    """The entry of one attack in report.json; every number is a mean over targets with its interval."""
    attack, scores = trials[0].chosen.attack, np.stack([trial.scores for trial in trials])
    finished = ~np.isnan(scores)
    pairs = [(s[f], m[f]) for s, m, f in zip(scores, is_member, finished, strict=True)]
    if not all(m.any() and not m.all() for _, m in pairs):
        raise ValueError(
            f"the cap on queries let {attack.name} finish no member or no non-member of a target: expected a higher cap"
        )
    thresholds = [trial.chosen.threshold for trial in trials]
    accuracies = [metrics.balanced_accuracy(s, m, t) for (s, m), t in zip(pairs, thresholds, strict=True)]
    rates = {str(fpr): [metrics.tpr_at_fpr(s, m, fpr) for s, m in pairs] for fpr in FPRS}
    tpr, achieved = (
        {fpr: metrics.summary([rate and rate[i] for rate in by_target]) for fpr, by_target in rates.items()}
        for i in (0, 1)
    )
    return {
        "access": attack.access,
        "points": scores.shape[1] // 2,
        "queries_per_example": float(np.mean([trial.answers.queries.mean() for trial in trials])),
        "balanced_accuracy": metrics.summary(accuracies),
        "auc": metrics.summary([metrics.auc(s, m) for s, m in pairs]),
        "tpr_at_fpr": tpr,
        "achieved_fpr": achieved,
        "finished": float(finished.mean()),
        "tuned": {
            "settings": [trial.chosen.attack.settings for trial in trials],
            "threshold": thresholds,
            "shadow_accuracy": [trial.chosen.accuracy for trial in trials],
        },
    }
