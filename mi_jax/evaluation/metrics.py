"""Metrics of attack scores: thresholds, accuracies, ROC curves, intervals. NumPy and SciPy only.

One rule holds throughout: a point is predicted a member iff its score >= threshold. Scores of label-only attacks have
many ties, so nothing here breaks ties, drops a point of a curve or interpolates between two of them. Scores may be
infinite; NaN is refused.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def best_threshold(scores: np.ndarray, is_member: np.ndarray) -> float:
    """Returns the threshold with the highest balanced accuracy, half-way between two scores.

    Exact: every score is tried, and +inf, which predicts no members. Of equally good thresholds the largest is taken,
    with the fewest positives; where no score separates the two (all are tied, say) it is therefore +inf. O(n log n).

    The threshold is half-way from the lowest positive score to the next lower one, where both are finite. The scores
    it is chosen on and those it is applied to may come from two networks (held out and final) whose values for the
    same answers differ a little; a threshold equal to a score could then exclude all points tied there.

    Args:
      scores: [P], rising with membership.
      is_member: [P] bool, with at least one member and one nonmember.

    Raises:
      ValueError: NaN scores, unequal lengths, no members or no nonmembers; as every function of scores here.
    """
    scores, is_member = _checked(scores, is_member)
    thresholds, true, false = _counts(scores, is_member)
    members, nonmembers = is_member.sum(), (~is_member).sum()
    # (2 * balanced accuracy - 1) * members * nonmembers: whole numbers, so ties are exact.
    best = np.argmax(true * nonmembers - false * members)  # argmax: the first, so the largest
    attained, lower = thresholds[best], thresholds[min(best + 1, len(thresholds) - 1)]
    with np.errstate(invalid="ignore"):  # of +inf and -inf there is no middle
        half_way = attained / 2 + lower / 2
    return float(half_way if lower < half_way < np.inf else attained)


def most_precise_threshold(scores: np.ndarray, is_member: np.ndarray, *, least: int) -> float:
    """Returns the threshold with the highest precision of those with at least `least` positives.

    Of several the smallest, with the most positives. The points may all be members, or none. Without `least` the
    maximum tends to rest on a single point.
    """
    scores, is_member = _checked(scores, is_member, both=False)
    if not 1 <= least <= scores.size:
        raise ValueError(f"least={least}, expected 1 to {scores.size}, the number of points")
    thresholds, true, false = _counts(scores, is_member)
    enough = true + false >= least
    share = true[enough] / (true[enough] + false[enough])
    return float(thresholds[enough][np.flatnonzero(share == share.max())[-1]])


def balanced_precision(
    true: int, members: int, false: int, nonmembers: int, level: float = 0.95
) -> dict[str, float] | None:
    """Returns {"mean", "low", "high"} of the precision at equal numbers of members and nonmembers: tpr / (tpr + fpr).

    `true` of the `members` and `false` of the `nonmembers` were predicted members, at a threshold fixed on other data.
    The interval is the exact one for the share of members among positives, converted; it is about other points. None
    without positives, members or nonmembers.
    """
    if not (0 <= true <= members and 0 <= false <= nonmembers):
        raise ValueError(f"{true} of {members} and {false} of {nonmembers}, expected parts of the whole")
    if true + false == 0 or members == 0 or nonmembers == 0:
        return None
    share, (low, high) = true / (true + false), clopper_pearson(true, true + false, level)
    balanced = (p * nonmembers / (p * nonmembers + (1 - p) * members) for p in (share, low, high))
    return dict(zip(("mean", "low", "high"), balanced, strict=True))


def independent_difference(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """Returns {"mean", "low", "high"}: estimate a minus estimate b, from independent points.

    a and b are {"mean", "low", "high"}, with intervals that may be asymmetric; the result has their level. Source:
    square and add, Newcombe 1998 (Statistics in Medicine 17, 873), method 10.
    """
    mean = a["mean"] - b["mean"]
    below = math.hypot(a["mean"] - a["low"], b["high"] - b["mean"])
    above = math.hypot(a["high"] - a["mean"], b["mean"] - b["low"])
    return {"mean": mean, "low": mean - below, "high": mean + above}


def epsilon_lower_bound(
    true: int, members: int, false: int, nonmembers: int, delta: float, level: float = 0.95
) -> float:
    """Returns a lower bound of epsilon for a mechanism with this delta, at confidence `level`; at least 0.

    From how often members (`true` of `members`) and nonmembers (`false` of `nonmembers`) were predicted members by a
    test fixed beforehand: (epsilon, delta)-differential privacy implies tpr <= e^epsilon fpr + delta, and the same for
    the complements. Each rate is replaced by the conservative end of its exact interval, one-sided at confidence
    (1 + level) / 2, so that both together hold at `level`.

    All points are assumed independent. Members and nonmembers of one model are not quite that, so the bound of a
    single training is about its rows; see `experiments/dp_audit.py`.
    Source: Jagielski et al. 2020 (arXiv 2006.07709), Nasr et al. 2021 (arXiv 2101.04535).
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta={delta}, expected a probability below 1")
    tpr, fpr = (clopper_pearson(k, n, level) for k, n in ((true, members), (false, nonmembers)))
    ratios = [(tpr[0] - delta, fpr[1]), (1 - fpr[1] - delta, 1 - tpr[0])]
    return max([0.0, *(float(np.log(a / b)) for a, b in ratios if a > 0 and b > 0)])


def balanced_accuracy(scores: np.ndarray, is_member: np.ndarray, threshold: float) -> float:
    """Returns the mean of the accuracies on members and on nonmembers, in [0, 1]; 1/2 is chance."""
    scores, is_member = _checked(scores, is_member)
    if np.isnan(threshold):
        raise ValueError(f"threshold {threshold}, expected a number or an infinity")
    positive = scores >= threshold
    return float(0.5 + (positive[is_member].mean() - positive[~is_member].mean()) / 2)


def auc(scores: np.ndarray, is_member: np.ndarray) -> float:
    """Returns P(member's score > nonmember's) + P(equal) / 2 over all pairs: the area under the ROC curve."""
    scores, is_member = _checked(scores, is_member)
    members, nonmembers = int(is_member.sum()), int((~is_member).sum())
    ranks = stats.rankdata(scores)  # ties share their mean rank, so that each tied pair counts one half
    return float((ranks[is_member].sum() - members * (members + 1) / 2) / (members * nonmembers))


def roc(scores: np.ndarray, is_member: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (fpr, tpr, thresholds): every attainable point of the curve, thresholds falling from +inf.

    There is one point for each distinct score and one for +inf; nothing between two points is attainable. The curve
    goes from (0, 0), unless a score is +inf, to (1, 1).
    """
    scores, is_member = _checked(scores, is_member)
    thresholds, true, false = _counts(scores, is_member)
    return false / (~is_member).sum(), true / is_member.sum(), thresholds


def tpr_at_fpr(scores: np.ndarray, is_member: np.ndarray, fpr: float) -> tuple[float, float] | None:
    """Returns (tpr, achieved_fpr) at the largest attainable false positive rate <= fpr, or None.

    None where nonmembers * fpr < 1: so few points cannot resolve that rate. With ties the achieved rate may be far
    below `fpr`, down to (0.0, 0.0); nothing is interpolated. The threshold is chosen on these scores, as is usual for
    a ROC curve, so this does not estimate the rate at a threshold fixed beforehand.

    Args:
      fpr: the largest allowed rate, in (0, 1].
    """
    scores, is_member = _checked(scores, is_member)
    if not 0 < fpr <= 1:
        raise ValueError(f"fpr {fpr}, expected a rate in (0, 1]")
    members, nonmembers = int(is_member.sum()), int((~is_member).sum())
    allowed = int(np.floor(nonmembers * fpr * (1 + 1e-12)))  # 49 * (1 / 49) falls short of 1 by rounding
    if allowed < 1:
        return None
    _, true, false = _counts(scores, is_member)
    attained = int(np.sum(false <= allowed)) - 1  # both counts rise along the curve; the last has the most true
    return (float(true[attained] / members), float(false[attained] / nonmembers)) if attained >= 0 else (0.0, 0.0)


def mean_interval(
    values: Sequence[float], level: float = 0.95, *, bounds: tuple[float, float] | None = None
) -> dict[str, float | list[float] | None]:
    """Returns {"mean", "low", "high", "values"}: the mean and Student's t interval for it.

    The values, one for each target model, are assumed independent and roughly normal. The interval is about other
    targets, not about other points of these. One value has no interval: low and high are None.

    Args:
      level: coverage, in (0, 1).
      bounds: clip low and high (never the mean) to this range; (0, 1) for rates.

    Raises:
      ValueError: no values, a value that is not finite, a level outside (0, 1).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"values {array.tolist()}, expected a list of at least one finite number")
    _check_level(level)
    mean, low, high = float(array.mean()), None, None
    if array.size > 1:
        half = stats.t.ppf((1 + level) / 2, array.size - 1) * stats.sem(array)
        low, high = np.clip([mean - half, mean + half], *(bounds or (-np.inf, np.inf))).tolist()
    return {"mean": mean, "low": low, "high": high, "values": array.tolist()}


def summary(values: Sequence[float | None], level: float = 0.95) -> dict[str, float | list[float] | None] | None:
    """Returns the `mean_interval` of rates, clipped to [0, 1]; None (null in a report) if any value is None."""
    known = [value for value in values if value is not None]
    return mean_interval(known, level, bounds=(0, 1)) if len(known) == len(values) else None


def paired_interval(
    a: Sequence[float], b: Sequence[float], level: float = 0.95
) -> dict[str, float | list[float] | None]:
    """Returns the `mean_interval` of the differences a - b, target by target."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values, expected pairs: one of each for every target")
    return mean_interval(np.subtract(a, b).tolist(), level)


def paired_difference(a: np.ndarray, b: np.ndarray, is_member: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """Returns {"mean", "low", "high"}: the balanced accuracy of attack a minus that of b, and an interval for it.

    The interval is about other points of the same models. Pairing removes the variance that is common to both: points
    that both attacks predict correctly, or neither. It is never of width 0: on a side of n points each of the two ways
    to disagree is counted once more among n + 2 points, and the sides are joined as in `independent_difference`.
    Source: Bonett and Price 2012 (Journal of Educational and Behavioral Statistics 37, 479).

    Args:
      a, b: [P] bool, whether each attack predicts each point correctly.
      is_member: [P] bool, with at least one member and one nonmember.

    Raises:
      ValueError: unequal lengths, no point on a side, a level outside (0, 1).
    """
    _check_level(level)
    a, b, is_member = (np.asarray(values, bool) for values in (a, b, is_member))
    if not a.shape == b.shape == is_member.shape or is_member.all() or not is_member.any():
        sizes = f"{len(a)}, {len(b)} and {len(is_member)} values, {is_member.sum()} of them members"
        raise ValueError(f"{sizes}: expected as many of each, with a member and a nonmember")
    sides, z = [], stats.norm.ppf((1 + level) / 2)
    for side in (is_member, ~is_member):
        gained, lost, n = (a & ~b & side).sum(), (b & ~a & side).sum(), side.sum()
        centre, changed = (gained - lost) / (n + 2), (gained + lost + 2) / (n + 2)
        half, mean = z * math.sqrt((changed - centre**2) / (n + 2)), float((gained - lost) / n)
        sides.append({"mean": mean, "low": max(centre - half, -1.0), "high": min(centre + half, 1.0)})
    return _mean_of_sides(*sides)


def accuracy_over_points(
    trials: Sequence[tuple[np.ndarray, np.ndarray, float]], level: float = 0.95
) -> dict[str, float]:
    """Returns {"mean", "low", "high"}: the balanced accuracy on the points of all trials, and an interval for it.

    The interval is about other points of the same models, at thresholds fixed on other data. The accuracies on members
    and on nonmembers have their exact intervals (`clopper_pearson`, conservative if trials differ), joined as in
    `independent_difference`. It is never of width 0, and wide for few points. Every point counts equally: the mean is
    that of `balanced_accuracy` over trials if they have equally many.

    Args:
      trials: (scores [P], is_member [P], threshold) of each.
    """
    hits, sides = {True: [], False: []}, []
    for scores, is_member, threshold in trials:
        balanced_accuracy(scores, is_member, threshold)  # checks all three
        correct = (np.asarray(scores) >= threshold) == is_member
        for side in hits:
            hits[side].append(correct[np.equal(is_member, side)])
    for correct in map(np.concatenate, hits.values()):
        k, n = int(correct.sum()), len(correct)
        sides.append(dict(zip(("mean", "low", "high"), (k / n, *clopper_pearson(k, n, level)), strict=True)))
    return _mean_of_sides(*sides)


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Returns (low, high), the exact interval for a probability after k successes in n independent trials.

    Its coverage is at least `level` for every probability. For a rate at a threshold that was fixed on other data.
    """
    if n < 1 or not 0 <= k <= n or k != int(k) or n != int(n):
        raise ValueError(f"k={k} of n={n}, expected whole numbers with n >= 1 and 0 <= k <= n")
    _check_level(level)
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0
    high = stats.beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
    return float(low), float(high)


def _mean_of_sides(members: dict[str, float], nonmembers: dict[str, float]) -> dict[str, float]:
    """Returns {"mean", "low", "high"} of the mean of estimates on members and on nonmembers."""
    negated = {"mean": -nonmembers["mean"], "low": -nonmembers["high"], "high": -nonmembers["low"]}
    return {end: value / 2 for end, value in independent_difference(members, negated).items()}


def _counts(scores: np.ndarray, is_member: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct thresholds, falling from +inf, and how many members and nonmembers reach each."""
    thresholds = np.unique(np.append(scores, np.inf))[::-1]
    true, false = (
        side.size - np.searchsorted(np.sort(side), thresholds, side="left")
        for side in (scores[is_member], scores[~is_member])
    )
    return thresholds, true, false


def _checked(scores: np.ndarray, is_member: np.ndarray, *, both: bool = True) -> tuple[np.ndarray, np.ndarray]:
    scores, is_member = np.asarray(scores, dtype=np.float64), np.asarray(is_member)
    if scores.ndim != 1 or scores.shape != is_member.shape:
        raise ValueError(f"scores {scores.shape} and is_member {is_member.shape}, expected two vectors of one length")
    if is_member.dtype != np.bool_:
        raise ValueError(f"is_member of dtype {is_member.dtype}, expected bool")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN, expected numbers")
    if both and (is_member.all() or not is_member.any()):
        counts = f"{int(is_member.sum())} members and {int((~is_member).sum())} nonmembers"
        raise ValueError(f"{counts}, expected at least one of each")
    return scores, is_member


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level {level}, expected a coverage in (0, 1)")
