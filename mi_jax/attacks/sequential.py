"""Sequential tests: a point is asked no further once its likelihood ratio is decided.

Source: Wald's sequential probability ratio test (Annals of Mathematical Statistics 16, 117, 1945). Its errors hold for
answers that are independent given membership, which those to similar questions are not: the errors that a record
states are nominal, and its measured rates say what they are worth.
"""

import math

import numpy as np

from mi_jax.types import AnswerRates, PointScores, Reference

FALSE_POSITIVE, FALSE_NEGATIVE = 0.001, 0.05  # nominal errors: non-members named, members let go


def bounds(false_positive: float = FALSE_POSITIVE, false_negative: float = FALSE_NEGATIVE) -> tuple[float, float]:
    """Returns the log likelihood ratios (low, high) at which a point is decided: a non-member, a member.

    Raises ValueError for errors that are not above 0 or add up to 1.
    """
    if not (false_positive > 0 and false_negative > 0 and false_positive + false_negative < 1):
        raise ValueError(f"errors {false_positive} and {false_negative}: expected both above 0, and a sum below 1")
    return math.log(false_negative / (1 - false_positive)), math.log((1 - false_negative) / false_positive)


def log_ratios(answers: np.ndarray, order: np.ndarray, rates: AnswerRates) -> np.ndarray:
    """Returns the log likelihood ratio [P r] after each of the answers [P r] (bool) to the first r questions."""
    order = order[:, : answers.shape[1]]
    taken = AnswerRates(*(np.take_along_axis(rate, order, 1).astype(float) for rate in rates))
    label, other = taken.label_inside - taken.label_outside, taken.other_inside - taken.other_outside
    return np.cumsum(np.where(answers, label, other), axis=1)


def decided(answers: np.ndarray, order: np.ndarray, rates: AnswerRates) -> np.ndarray:
    """Returns which points [P] need no further question after these answers [P r]."""
    low, high = bounds()
    ratios = log_ratios(answers, order, rates)
    return np.any((ratios <= low) | (ratios >= high), axis=1)


def score_until_decided(
    answers: np.ndarray, order: np.ndarray, reference: Reference, rates: AnswerRates
) -> PointScores:
    """Returns the log likelihood ratio at which each point was decided, or that of all answers [P m].

    Answers after the decision do not count, whatever they are. The rate outside is 1 / the likelihood ratio, which
    bounds it (Markov), at most 1.
    """
    del reference
    low, high = bounds()
    ratios = log_ratios(answers, order, rates)
    crossed = (ratios <= low) | (ratios >= high)
    last = np.where(crossed.any(1), crossed.argmax(1), answers.shape[1] - 1)
    score = np.take_along_axis(ratios, last[:, None], 1)[:, 0]
    return PointScores(score, np.exp(-np.maximum(score, 0)))
