"""Chosen queries: which of many candidate questions are put to the target, and what its answers say.

Shadow models answer the whole pool; their queries are free. For each point the questions are ranked by what one answer
reveals: the Kullback-Leibler divergence between the answers of models trained with the point and of those trained
without it. The target answers the first m. This supposes an attacker who can train on the candidates (online), or who
at least trains models like the target (offline).

A question asks whether the target labels a copy of the point y. How often models of one side do so is estimated twice
and averaged on the log scale: by counting, smoothed by half a success and half a failure, and by the distribution of
their margins (the logit of y less the largest other one), which an attacker knows of models of their own. Counts of
few models tie, and know no rate below 1 in 2c; margins resolve both, but only as far as they are normal. Models that
answer labels alone are counted.
"""

from collections.abc import Callable

import numpy as np
from scipy import special

from mi_jax.attacks.calibration import SHIFTS, Side, shrunk, side, student
from mi_jax.types import AnswerRates, PointScores, Pool, Reference

# Answers of at most so many questions are summed as if independent; more are compared as a weighted share. Without
# models inside, a share is compared with one side only, and the sum stays better for longer.
SUMMED, SUMMED_OFFLINE = 10, 50
_MARGIN = 0.5  # weight of the rate by margins; the rest is the rate by counts
_AT_ONCE = 64  # points whose answers are held once more
Choose = Callable[[AnswerRates, Pool | None], np.ndarray]


def answer_rates(reference: Reference) -> AnswerRates:
    """Returns the rates of the answers to all questions, from margins [P K Q]; margins of +-1 are labels alone.

    Offline, a member's margin exceeds that of the models outside by one of SHIFTS standard deviations.
    """
    features, outside = reference.features, reference.outside
    out, weight = side(features, outside), 0.0 if _labels_alone(reference) else _MARGIN
    if not reference.inside.any():
        z = _standardised(out, out)
        shifted = special.log_ndtr(np.stack([z + np.reshape(SHIFTS, (-1, 1, 1)), -z - np.reshape(SHIFTS, (-1, 1, 1))]))
        inside = special.logsumexp(shifted, axis=1) - np.log(len(SHIFTS))
    else:
        within = side(features, reference.inside)
        inside = _mixed(weight, _standardised(within, out), _counted(features, reference.inside))
        z = _standardised(out, within)
    return AnswerRates(*(np.asarray(r, np.float32) for r in (*inside, *_mixed(weight, z, _counted(features, outside)))))


def _labels_alone(reference: Reference) -> bool:
    return bool((np.abs(reference.features[0][reference.outside[0]]) == 1).all())


def _standardised(one: Side, other: Side) -> np.ndarray:
    """The mean margin [P Q] in standard deviations, those of few models shrunk to the mean over questions and sides.

    One model has no variance. Its points take the mean of the others, or if there are none that of margins over points.
    """
    pooled, several = (one.variance + other.variance).mean(1, keepdims=True) / 2, one.count > 1
    if not several.all():
        typical = pooled.mean(where=several) if several.any() else one.mean.var(axis=0).mean()
        pooled = np.where(several, pooled, typical)
    return one.mean / np.sqrt(shrunk(one, pooled) * (1 + 1 / one.count))


def _counted(features: np.ndarray, models: np.ndarray) -> np.ndarray:
    """The smoothed log rates [2 P Q] of the answer y and of others."""
    hits, count = np.empty((len(features), features.shape[2])), models.sum(1)[:, None]
    for point, used in enumerate(models):
        hits[point] = (features[point, used] > 0).sum(0)
    return np.log(np.stack([hits + 0.5, count - hits + 0.5]) / (count + 1))


def _mixed(weight: float, z: np.ndarray, counted: np.ndarray) -> np.ndarray:
    return weight * special.log_ndtr(np.stack([z, -z])) + (1 - weight) * counted


def divergence(rates: AnswerRates) -> np.ndarray:
    """Returns what one answer reveals [P Q]: the divergence of its distribution inside from that outside."""
    label = np.exp(rates.label_inside) * (rates.label_inside - rates.label_outside)
    return label + np.exp(rates.other_inside) * (rates.other_inside - rates.other_outside)


def choose_best(number: int) -> Choose:
    """Returns a `choose` for `types.PerExample`: the `number` questions of a point that reveal most, best first.

    Up to SUMMED questions only the answer y counts, the term of the divergence that names members; more are compared as
    a share, to which every answer contributes.
    """

    def choose(rates: AnswerRates, pool: Pool | None) -> np.ndarray:
        del pool
        label = np.exp(rates.label_inside) * (rates.label_inside - rates.label_outside)
        value = label if number <= SUMMED else divergence(rates)
        return np.argsort(-value, axis=1, kind="stable")[:, :number]

    return choose


def choose_kind(number: int, kinds: tuple[int, ...]) -> Choose:
    """Returns a `choose` that takes the first `number` questions of one kind of the pool, for all points the same.

    Of several kinds it is the one whose questions reveal most on average over all points, then the next one.
    """

    def choose(rates: AnswerRates, pool: Pool | None) -> np.ndarray:
        assert pool is not None
        value, ends = divergence(rates).mean(0), np.cumsum(pool.counts)
        spans = [np.arange(ends[kind] - pool.counts[kind], ends[kind]) for kind in kinds]
        best_first = sorted(spans, key=lambda span: -value[span].mean())
        return np.tile(np.concatenate(best_first)[:number], (len(rates.label_inside), 1))

    return choose


def choose_all(rates: AnswerRates, pool: Pool | None) -> np.ndarray:
    """Returns all questions in their order: those that were crafted for a point."""
    del pool
    return np.tile(np.arange(rates.label_inside.shape[1]), (len(rates.label_inside), 1))


def score_answers(answers: np.ndarray, order: np.ndarray, reference: Reference, rates: AnswerRates) -> PointScores:
    """Returns the scores of points by whether the target answers y [P m] (bool) to the questions `order` [P m].

    Up to SUMMED answers their log ratios are added. This takes answers for independent, which matters little for few,
    and keeps scores apart that a share would tie. More answers are a share, weighted by what each question reveals,
    whose logit is compared with that of the shadow models' answers to the same questions (`calibration.student`).
    Measured in docs/chosen_queries.md. The rate outside is that of the answer itself if it is one, else of `student`.
    """
    taken = AnswerRates(*(np.take_along_axis(rate, order, 1).astype(float) for rate in rates))
    label, other = taken.label_inside - taken.label_outside, taken.other_inside - taken.other_outside
    m = answers.shape[1]
    few = m <= (SUMMED if reference.inside.any() else SUMMED_OFFLINE)
    weights = label - other
    if not few:
        weights = np.maximum(weights, 1e-6)
        weights = weights / weights.sum(1, keepdims=True) * m

    def statistic(hits: np.ndarray) -> np.ndarray:  # weighted numbers of answers y [P ...]
        if few:
            return hits + other.sum(1).reshape(-1, *[1] * (hits.ndim - 1))
        return np.log((hits + 0.5) / (m - hits + 0.5))

    own = statistic((answers * weights).sum(1))
    shadow = statistic(_weighted_hits(reference.features, order, weights))
    compared = student(own, reference._replace(features=shadow[..., None]))
    if not few:
        return compared
    alone = np.where(answers[:, 0], np.exp(taken.label_outside[:, 0]), 1.0)
    return PointScores(own, alone if m == 1 else compared.false_positive_rate)


def _weighted_hits(features: np.ndarray, order: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sums [P K] of the weights [P m] of the questions [P m] that each model answers y."""
    hits = np.empty(features.shape[:2])
    for start in range(0, len(features), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        bits = np.take_along_axis(features[part], order[part, None], 2) > 0
        hits[part] = (bits.astype(np.float32) @ weights[part, :, None].astype(np.float32))[..., 0]
    return hits
