"""An attack on a target without shadow models: strengths and thresholds are cross-fitted on rows of known membership.

Whoever audits a model knows some members and non-members. They are divided into FOLDS. The strength, the score and the
threshold for the points of one fold are chosen on the others, so that every point is judged once, by a rule that never
saw it. All strengths are put to the target, which costs queries and is counted.

An attacker knows fewer members than an auditor. So this is an upper estimate of what one threshold can do with labels
alone, and no substitute for shadow models where every point is judged for itself.
"""

from collections import Counter

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

from mi_jax.evaluation import entries
from mi_jax.querying.collect import Collect, Points
from mi_jax.trials.one_threshold import Chosen, Trial, choose
from mi_jax.types import Answers, Attack, Dataset

FOLDS = 5
LEAST = 2 * FOLDS  # members, and non-members
_SMALLEST_SLOPE = 1e-3


def run_cross_fitted(
    key: jax.Array, collect: Collect, dataset: Dataset, points: Points, candidates: tuple[Attack, ...], target: int,
    cap: int | None,
) -> Trial:  # fmt: skip
    """The result of an attack on its own target, cross-fitted; a score of at least 0 means member.

    An attack with one candidate whose threshold is fixed in advance keeps it and its score. Of others a score is the
    distance from the threshold in units of a logistic fit, both of the other folds, so that all scores are of one
    scale.
    """
    full = tuple(one.full_budget or one for one in candidates)
    asked = {id(one.measure): one for one in full}  # candidates that differ in their score alone are asked once
    share = None if cap is None else cap // len(asked)
    found = {measure: collect(one, target, points, share) for measure, one in asked.items()}
    finished = np.all([one.finished for one in found.values()], axis=0)
    queries = np.sum([one.queries for one in found.values()], axis=0)
    phases = dict(sum((Counter(one.phases) for one in found.values()), Counter()))
    answers = [found[id(one.measure)] for one in full]
    answers = [one._replace(features=np.where(np.isnan(one.features), 0, one.features)) for one in answers]
    y, is_member = dataset.y[points.rows], points.is_member
    every = choose(key, full, [[one] for one in answers], y, is_member)
    put = answers[_place(every, full)]._replace(queries=queries, finished=finished, phases=phases)
    if len(full) == 1 and every.attack.threshold is not None:
        scores, threshold = every.score(put.features, y), every.attack.threshold
    else:
        scores, threshold = _cross_fitted(key, full, answers, y, is_member), 0.0
    scores = np.where(finished, scores, np.nan).astype(np.float32)
    edge = entries.at_edge(every.attack, full)
    return Trial(every.attack, threshold, every.accuracy, np.zeros(0), edge, put, scores)


def _cross_fitted(key: jax.Array, candidates: tuple[Attack, ...], answers: list[Answers], y, is_member) -> np.ndarray:
    """The scores [P] of all points, each by a rule from the other folds."""
    scores, fold = np.zeros(len(y)), _folds(key, is_member)
    for i in range(FOLDS):
        known = fold != i
        chosen = choose(key, candidates, [[_part(one, known)] for one in answers], y[known], is_member[known])
        judged = answers[_place(chosen, candidates)].features[~known]
        scores[~known] = _scaled(chosen, np.asarray(chosen.score(judged, y[~known]), float), is_member[known])
    return scores


def _scaled(chosen: Chosen, scores: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """Scores [P] of other points less the threshold, in units of a logistic fit of the known ones."""
    known = np.asarray(chosen.shadow_scores, float)
    finite = np.concatenate([known, scores])
    finite = finite[np.isfinite(finite)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    width = (high - low) or 1.0
    known, scores = (np.clip(one, low - width, high + width) for one in (known, scores))
    threshold = chosen.threshold if np.isfinite(chosen.threshold) else high + 2 * width  # which no point reaches
    spread = known.std() or 1.0
    fit = LogisticRegression(class_weight="balanced").fit((known[:, None] - known.mean()) / spread, is_member)
    return (scores - threshold) * max(float(fit.coef_[0, 0]), _SMALLEST_SLOPE) / spread


def _place(chosen: Chosen, candidates: tuple[Attack, ...]) -> int:
    return next(i for i, one in enumerate(candidates) if one is chosen.attack)


def _part(answers: Answers, chosen: np.ndarray) -> Answers:
    return answers._replace(
        features=answers.features[chosen], queries=answers.queries[chosen], finished=answers.finished[chosen]
    )


def _folds(key: jax.Array, is_member: np.ndarray) -> np.ndarray:
    """A fold for every point, at random, with as many members and non-members in each as the numbers allow."""
    rng, fold = np.random.default_rng(np.asarray(jax.random.key_data(key))), np.zeros(len(is_member), int)
    for side in (is_member, ~is_member):
        fold[side] = rng.permutation(np.arange(side.sum()) % FOLDS)
    return fold
