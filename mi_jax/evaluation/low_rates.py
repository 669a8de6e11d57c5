"""The TPR of an attack at a low false positive rate, with intervals that count its threshold as estimated too.

A threshold is taken from the scores of non-members. Its own false positive rate is then above the wished one about as
often as below, and the interval of a proportion at a fixed threshold is too narrow: of members and non-members drawn
alike, far more than 5 % of such intervals lie above the rate itself. NumPy and SciPy only.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from mi_jax.evaluation import metrics


def tpr_over_points(
    scores: np.ndarray, is_member: np.ndarray, fpr: float, level: float = 0.95
) -> dict[str, float] | None:
    """{"mean", "low", "high"}: `metrics.tpr_at_fpr` and an interval about other points; None: not resolved.

    The rate that non-members of the pool have above the (k+1)-th highest of n has the distribution Beta(k + 1, n - k),
    whatever their scores. `low` is the exact bound at the largest k where this rate is almost surely at most `fpr`;
    `high` at the smallest where it is almost surely above, so that no threshold at or below this score is allowed. The
    error 1 - level is shared equally by two ends, and in each by threshold and TPR: the coverage is at least `level`
    for independent points, with ties too, and the interval is wide for few.

    Where even the highest score is not surely rare enough, its rate being at most r > `fpr`, `low` is that of an
    attacker who uses it in a share `fpr` / r of cases, and otherwise calls nobody a member.

    Args:
      scores, is_member: [P], as `metrics.tpr_at_fpr` takes them.
      fpr: the largest allowed rate, in (0, 1).
    """
    found = metrics.tpr_at_fpr(scores, is_member, fpr)
    if found is None:
        return None
    members, others, tail = scores[is_member], np.sort(scores[~is_member])[::-1], (1 - level) / 4
    strict, loose = (int(stats.binom.ppf(tail_of, others.size, fpr)) for tail_of in (tail, 1 - tail))
    share = 1.0 if strict else min(1.0, fpr / float(stats.beta.ppf(1 - tail, 1, others.size)))
    low, _ = _bounds(members, others[max(strict - 1, 0)], level)
    high = 1.0 if loose >= others.size else _bounds(members, others[loose], level)[1]
    return {"mean": found[0], "low": share * low, "high": high}


def tpr_over_targets(
    scores: Sequence[np.ndarray], is_member: Sequence[np.ndarray], fpr: float, level: float = 0.95
) -> dict[str, float] | None:
    """{"mean", "low", "high"}: the mean TPR of the targets [T] of [P], with Student's interval about other targets.

    The threshold of each target comes from its own non-members, where the mean rate above the j-th highest of n is
    j / (n + 1). `low` is that of the largest j with a mean rate of at most `fpr`, one point stricter than the usual
    TPR, which is in `mean` and `high`. None for a single target, or where one does not resolve the rate, or all agree.
    """
    found = [metrics.tpr_at_fpr(s, m, fpr) for s, m in zip(scores, is_member, strict=True)]
    usual = [one[0] for one in found if one is not None]
    if len(usual) < max(2, len(found)):
        return None
    strict = [_above(s[m], np.sort(s[~m])[::-1], fpr) for s, m in zip(scores, is_member, strict=True)]
    if min(np.ptp(strict), np.ptp(usual)) < 1e-9:
        return None
    ends = [metrics.mean_interval(values, level, bounds=(0, 1)) for values in (strict, usual)]
    low, high = ends[0]["low"], ends[1]["high"]
    assert isinstance(low, float) and isinstance(high, float)  # of several values
    return {"mean": float(np.mean(usual)), "low": low, "high": high}


def _above(members: np.ndarray, others: np.ndarray, fpr: float) -> float:
    """The share of members above the j-th highest non-member, j / (n + 1) <= fpr; `others` fall."""
    j = int(np.floor((others.size + 1) * fpr * (1 + 1e-12)))
    return float((members > others[j - 1]).mean())


def _bounds(members: np.ndarray, score: float, level: float) -> tuple[float, float]:
    """The exact ends of the share of members above a score, with an error of (1 - level) / 4 each."""
    return metrics.clopper_pearson(int((members > score).sum()), members.size, (1 + level) / 2)
