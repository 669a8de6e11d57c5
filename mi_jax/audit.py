"""The main path on one page: query the shadow models, choose and fit the attack on them, then query the target.

Everything that is chosen (a strength, a network, a threshold) is chosen on the shadow models of the trial. The
target is queried once, by the attack as chosen, and only reported on.
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
TUNING_POINTS = 300  # members, and as many non-members, of each shadow model that a strength is chosen on


class Chosen(NamedTuple):
    """An attack as its trial's shadow models decided it."""

    attack: Attack
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    threshold: float
    accuracy: float  # balanced, on shadow rows, by thresholds that were chosen without them
    shadow_scores: np.ndarray  # [s] held out, what the threshold was chosen on


class Trial(NamedTuple):
    """One target, attacked."""

    chosen: Chosen
    answers: Answers
    scores: np.ndarray  # [2n], NaN where a cap left a point unfinished


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

    `target(k, access)` is model k as an oracle (as a `WhiteBox` for "gradient"); `attacks` maps names to candidates
    (`attacks.build`); `num_points` bounds the members and the non-members attacked of each model (None: all); `cap`
    bounds the queries an attack may put to a target (points it leaves unfinished have score NaN and count in no
    number but `finished`). `cache` (`store.py`) makes a run resumable. `progress` is called with the queries done,
    those planned if every point is labelled correctly, and the attack's name.

    Every target first answers the same few queries twice. One that answers differently is refused, unless
    `allow_random_target`; the share of changed answers is on record either way.

    The record holds the keys `split_digest`, `models`, `attacks` and `seconds` of report.json, and of `config` what is
    known here; see `report.py`, which documents both returns, and draws table, findings and figures from them.
    """
    points = [select_points(split, k, num_points) for k in range(len(split.members))]
    done, total, seconds = 0, planned_queries(dataset, split, points, attacks), {}
    scores = _attacked(dataset, split, points)
    models = _accuracies(dataset, split, target, points)
    if not allow_random_target:
        _refuse_random_targets(models["flip_rate"]["values"])
    config = {"dataset": dataset.name, "num_shadows": split.trials.shape[1] - 1}
    record = {"config": config, "split_digest": splits.digest(split), "models": models, "attacks": {}}
    for name, candidates in attacks.items():
        started, attack_key = time.perf_counter(), jax.random.fold_in(key, zlib.crc32(name.encode()))

        def report(queries: int, name=name) -> None:
            nonlocal done
            done += queries
            progress(done, total, name)

        collect = collector(attack_key, dataset, target, cache=cache, progress=report)
        trials = [_trial(attack_key, collect, dataset, points, candidates, trial, cap) for trial in split.trials]
        record["attacks"][name] = _summary(trials, scores["is_member"])
        scores |= _arrays(name, trials)
        seconds[name] = round(time.perf_counter() - started, 2)
    return record | {"seconds": seconds}, scores


def planned_queries(
    dataset: Dataset, split: Split, points: list[Points], attacks: dict[str, tuple[Attack, ...]]
) -> int:
    """The queries of an audit if every point is labelled correctly."""
    total = 0
    for trial in split.trials:
        target, *shadows = (points[k] for k in trial)
        for candidates in attacks.values():
            full, costs = candidates[0].full_budget, [max_cost(dataset, attack) for attack in candidates]
            tuning = sum(len(p.first(TUNING_POINTS).rows if full else p.rows) for p in shadows) * sum(costs)
            cost = max_cost(dataset, full) if full else max(costs)  # of the candidates, any may be chosen
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
    """The attack that the shadow models decide on, and what each of them answered to it.

    Candidates with a `full_budget` attack are tried on at most TUNING_POINTS points a side of each shadow model; the
    attack with the full budget is fitted on all their points.
    """

    def decide(candidates: tuple[Attack, ...], points: list[Points]) -> tuple[Chosen, list[Answers]]:
        y = np.concatenate([dataset.y[p.rows] for p in points])
        is_member = np.concatenate([p.is_member for p in points])
        answers = [[collect(attack, k, p) for k, p in zip(shadows, points, strict=True)] for attack in candidates]
        chosen = choose(key, candidates, answers, y, is_member)
        return chosen, answers[next(i for i, attack in enumerate(candidates) if attack is chosen.attack)]

    shadow_points = [points[k] for k in shadows]
    if candidates[0].full_budget is None:
        return decide(candidates, shadow_points)
    tried, _ = decide(candidates, [p.first(TUNING_POINTS) for p in shadow_points])
    return decide((tried.attack.full_budget,), shadow_points)


def choose(
    key: jax.Array, candidates: tuple[Attack, ...], answers: list[list[Answers]], y: np.ndarray, is_member: np.ndarray
) -> Chosen:
    """The candidate with the best balanced accuracy on held-out shadow rows.

    Each is fitted on the shadow rows and judged by its held-out scores, with a threshold taken from one half of
    them and applied to the other. Ties go to the cheaper candidate, then to the earlier. The threshold that the
    target will be judged by maximises balanced accuracy of all held-out scores, unless the attack fixes one.
    """
    fold, tried = _folds(is_member), []
    for attack, of_models in zip(candidates, answers, strict=True):
        fitted = attack.fit(key, np.concatenate([a.features for a in of_models]), y, is_member)
        accuracy = np.mean([_transfer(attack, fitted.held_out, is_member, fold == side) for side in (0, 1)])
        cost = np.mean(np.concatenate([a.queries for a in of_models]))
        tried.append((-round(float(accuracy), 12), cost, len(tried), fitted))
    loss, _, best, (score, held_out) = min(tried, key=lambda entry: entry[:3])
    attack = candidates[best]
    threshold = attack.threshold if attack.threshold is not None else metrics.best_threshold(held_out, is_member)
    return Chosen(attack, score, float(threshold), -loss, held_out)


def _transfer(attack: Attack, scores: np.ndarray, is_member: np.ndarray, fit: np.ndarray) -> float:
    """Balanced accuracy on the rows outside `fit`, at the threshold that is best on those inside."""
    threshold = attack.threshold
    if threshold is None:
        threshold = metrics.best_threshold(scores[fit], is_member[fit])
    return metrics.balanced_accuracy(scores[~fit], is_member[~fit], threshold)


def _folds(is_member: np.ndarray) -> np.ndarray:
    """0 or 1 for every row, alternating among the members and among the non-members."""
    fold = np.zeros(len(is_member), int)
    for side in (True, False):
        fold[is_member == side] = np.arange((is_member == side).sum()) % 2
    return fold


def _attacked(dataset: Dataset, split: Split, points: list[Points]) -> dict[str, np.ndarray]:
    """Who was attacked: rows, labels, is_member [T 2n], and the shadow models' [T S2n] likewise."""
    arrays = {}
    for prefix, columns in (("", slice(0, 1)), ("shadow/", slice(1, None))):
        rows = np.stack([np.concatenate([points[k].rows for k in trial[columns]]) for trial in split.trials])
        members = np.stack([np.concatenate([points[k].is_member for k in trial[columns]]) for trial in split.trials])
        arrays |= {f"{prefix}rows": rows, f"{prefix}labels": dataset.y[rows], f"{prefix}is_member": members}
    return arrays


def _accuracies(dataset: Dataset, split: Split, target: Target, points: list[Points]) -> dict:
    """Train and test accuracy of every target on the points it is attacked on, and its flip rate on a few of them."""
    of_targets = []
    for k in split.trials[:, 0]:
        (rows, is_member), seen = points[k], target(k, "label")
        labels = oracle.query_labels(seen, dataset.x[rows])
        few = np.unique(np.linspace(0, len(rows) - 1, 64).astype(int))
        flipped = oracle.query_labels(seen, dataset.x[rows[few]]) != labels[few]
        correct = labels == dataset.y[rows]
        of_targets.append((correct[is_member].mean(), correct[~is_member].mean(), flipped.mean()))
    names = ("train_accuracy", "test_accuracy", "flip_rate")
    return {name: metrics.summary(values) for name, values in zip(names, zip(*of_targets, strict=True), strict=True)}


def _refuse_random_targets(flip_rates: list[float]) -> None:
    if max(flip_rates) > 0:
        raise ValueError(
            f"a target answered {max(flip_rates):.1%} of its points differently when asked again: "
            "expected a deterministic target, or --allow_random_target"
        )


def _arrays(name: str, trials: list[Trial]) -> dict[str, np.ndarray]:
    """What scores.npz holds of one attack."""
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
            f"the cap on queries let {attack.name} finish no member or no non-member of a target: raise it"
        )
    thresholds = [trial.chosen.threshold for trial in trials]
    accuracies = [metrics.balanced_accuracy(s, m, t) for (s, m), t in zip(pairs, thresholds, strict=True)]
    rates = {str(fpr): [metrics.tpr_at_fpr(s, m, fpr) for s, m in pairs] for fpr in FPRS}
    return {
        "access": attack.access,
        "points": scores.shape[1] // 2,
        "queries_per_example": float(np.mean([trial.answers.queries.mean() for trial in trials])),
        "balanced_accuracy": metrics.summary(accuracies),
        "auc": metrics.summary([metrics.auc(s, m) for s, m in pairs]),
        "tpr_at_fpr": {fpr: metrics.summary([rate and rate[0] for rate in found]) for fpr, found in rates.items()},
        "achieved_fpr": {fpr: metrics.summary([rate and rate[1] for rate in found]) for fpr, found in rates.items()},
        "finished": float(finished.mean()),
        "tuned": {
            "settings": [trial.chosen.attack.settings for trial in trials],
            "threshold": thresholds,
            "shadow_accuracy": [trial.chosen.accuracy for trial in trials],
        },
    }
