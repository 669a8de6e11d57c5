"""An attack with one threshold: tuned and fitted on the shadow models of its trial, then put to the target.

Everything that is tuned (a strength, a network, a threshold) is tuned on the shadow models. The target is queried once,
by the tuned attack, and its scores are only reported.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mi_jax.evaluation import entries, metrics
from mi_jax.querying.collect import Collect, Points
from mi_jax.types import Answers, Attack, Dataset, PerExample

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

    attack: Attack | PerExample
    threshold: float
    shadow_accuracy: float  # balanced, of held-out scores of shadow models
    shadow_scores: np.ndarray  # [s]; the threshold was chosen on them
    at_edge: str | None  # what says that a setting is the first or last of those tried
    answers: Answers
    scores: np.ndarray  # [2n], NaN for points beyond the cap on queries
    false_positive_rate: np.ndarray | None = None  # [2n] of an attack that judges every point, else None


def run_trial(
    key: jax.Array,
    collect: Collect,
    dataset: Dataset,
    points: list[Points],
    candidates: tuple[Attack, ...],
    trial: np.ndarray,
    cap: int | None,
) -> Trial:
    """The result of the attack that does best on the shadow models trial[1:], on the target trial[0]."""
    target = trial[0]
    chosen, _ = tune(jax.random.fold_in(key, target), collect, dataset, points, candidates, trial[1:])
    answers = collect(chosen.attack, target, points[target], cap)
    features = np.where(np.isnan(answers.features), 0, answers.features)  # of points beyond the cap
    scores = np.where(answers.finished, chosen.score(features, dataset.y[points[target].rows]), np.nan)
    edge = entries.at_edge(chosen.attack, candidates)
    return Trial(chosen.attack, chosen.threshold, chosen.accuracy, chosen.shadow_scores, edge, answers, scores)


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
