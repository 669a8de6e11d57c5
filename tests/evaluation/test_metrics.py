"""Closed forms first, then brute force over all pairs or thresholds, then scikit-learn and SciPy."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from mi_jax.evaluation import metrics


def tied_scores(seed: int, size: int = 60, levels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a small lattice, as label-only attacks give them, with unequal sides."""
    rng = np.random.default_rng(seed)
    is_member = rng.random(size) < rng.uniform(0.2, 0.8)
    is_member[:2] = True, False
    return (rng.integers(0, levels, size) + is_member * rng.integers(0, 2, size)) / levels, is_member


def all_thresholds(scores: np.ndarray) -> list[float]:
    return [*np.unique(scores).tolist(), np.inf]


ALL_TIED = (np.full(9, 0.25), np.arange(9) < 4)
ONE_OUTLIER = (np.append(np.random.default_rng(0).normal(size=40), 1e12), np.arange(41) % 3 == 0)
SEPARATED = (np.arange(10.0), np.arange(10) >= 4)
REVERSED = (-np.arange(10.0), np.arange(10) >= 4)
CASES = [*(tied_scores(seed) for seed in range(20)), ALL_TIED, ONE_OUTLIER, SEPARATED, REVERSED]
case = pytest.mark.parametrize("scores, is_member", CASES)


@case
def test_threshold_equals_exhaustive_search_and_takes_the_largest_of_equals(scores, is_member):
    accuracies = {t: metrics.balanced_accuracy(scores, is_member, t) for t in all_thresholds(scores)}
    best = max(accuracies.values())
    # 1e-12: the search compares floats, in which equal accuracies may differ by rounding.
    expected = max(t for t, a in accuracies.items() if a > best - 1e-12)
    found = metrics.best_threshold(scores, is_member)
    np.testing.assert_array_equal(scores >= found, scores >= expected)
    below = scores[scores < expected]
    assert found == ((expected + below.max()) / 2 if below.size and expected < np.inf else expected)


def test_threshold_lies_half_way_so_that_nobody_falls_by_rounding():
    scores, is_member = np.repeat([2.0, 1.0], 10), np.arange(20) < 10
    threshold = metrics.best_threshold(scores, is_member)
    assert metrics.balanced_accuracy(scores - 0.1, is_member, threshold) == 1.0
    assert metrics.balanced_accuracy(scores + 0.1, is_member, threshold) == 1.0


@pytest.mark.parametrize("lower", [-np.inf, np.nextafter(1.0, 0.0), -np.finfo(float).max])
def test_threshold_never_calls_the_next_lower_score(lower):
    upper = 1.0 if lower > -2 else np.finfo(float).max
    threshold = metrics.best_threshold([upper, lower], np.array([True, False]))
    assert lower < threshold <= upper


def test_threshold_of_all_tied_scores_calls_nobody_a_member():
    assert metrics.best_threshold(*ALL_TIED) == np.inf
    assert metrics.balanced_accuracy(*ALL_TIED, np.inf) == 0.5
    assert metrics.balanced_accuracy(*ALL_TIED, 0.25) == 0.5


def test_threshold_separates_what_can_be_separated():
    assert metrics.best_threshold(*SEPARATED) == 3.5
    assert metrics.balanced_accuracy(*SEPARATED, 3.5) == 1.0


def test_huge_outlier_does_not_coarsen_the_search():
    scores, is_member = np.append(SEPARATED[0], 1e300), np.append(SEPARATED[1], False)
    assert metrics.best_threshold(scores, is_member) == 3.5


def test_score_equal_to_the_threshold_is_called_a_member():
    assert metrics.balanced_accuracy([0.0, 1.0], np.array([False, True]), 1.0) == 1.0


def test_balanced_accuracy_is_not_moved_by_unequal_sides():
    scores, is_member = np.append(np.ones(90), np.zeros(10)), np.arange(100) < 90
    assert metrics.balanced_accuracy(np.ones(100), is_member, 1.0) == 0.5  # plain accuracy would be 0.9
    assert metrics.balanced_accuracy(scores, is_member, 1.0) == 1.0


def test_gap_attack_gives_one_half_plus_half_the_gap_exactly():
    rng = np.random.default_rng(3)
    right = np.concatenate([rng.random(90) < 0.9, rng.random(70) < 0.6]).astype(float)  # labelled correctly
    train, test = right[:90].mean(), right[90:].mean()
    assert metrics.balanced_accuracy(right, np.arange(160) < 90, 1.0) == 0.5 + (train - test) / 2


@pytest.mark.parametrize("delta", [0.0, 0.5, 2.0])
def test_auc_of_normal_scores_is_phi_of_delta_over_root_two(delta):
    quantiles = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    scores, is_member = np.append(quantiles + delta, quantiles), np.arange(4000) < 2000
    # 2,000 quantiles stand for each normal: the pair count is a Riemann sum with steps of 1/2000.
    assert metrics.auc(scores, is_member) == pytest.approx(stats.norm.cdf(delta / np.sqrt(2)), abs=1 / 2000)


@case
def test_auc_with_ties_equals_counting_all_pairs(scores, is_member):
    difference = scores[is_member][:, None] - scores[~is_member][None]
    assert metrics.auc(scores, is_member) == pytest.approx(np.mean((np.sign(difference) + 1) / 2), abs=1e-12)


@case
def test_auc_and_roc_equal_scikit_learn(scores, is_member):
    assert metrics.auc(scores, is_member) == pytest.approx(roc_auc_score(is_member, scores), abs=1e-12)
    fpr, tpr, thresholds = metrics.roc(scores, is_member)
    expected = roc_curve(is_member, scores, drop_intermediate=False)
    for ours, theirs in zip((fpr, tpr, thresholds), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@case
def test_roc_holds_every_attainable_point_and_no_other(scores, is_member):
    fpr, tpr, thresholds = metrics.roc(scores, is_member)
    attainable = [(np.mean(scores[~is_member] >= t), np.mean(scores[is_member] >= t)) for t in all_thresholds(scores)]
    np.testing.assert_allclose(np.stack([fpr, tpr], axis=1), attainable[::-1], rtol=1e-12)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(thresholds) < 0)


@case
@pytest.mark.parametrize("fpr", [0.05, 0.1, 0.3, 1.0])
def test_tpr_is_that_of_an_attainable_point(scores, is_member, fpr):
    points = list(zip(*(p.tolist() for p in metrics.roc(scores, is_member)[:2]), strict=True))
    found = metrics.tpr_at_fpr(scores, is_member, fpr)
    if np.sum(~is_member) * fpr < 1:
        assert found is None
    else:
        false, true = max(point for point in points if point[0] <= fpr)  # largest FPR, then largest TPR
        assert found == (true, false)


def test_tpr_is_not_interpolated_between_ties():
    scores, is_member = np.array([1, 1, 1, 1, 0, 0, 1, 0, 0, 0], float), np.arange(10) < 6
    # Attainable: (0, 0), (1/4, 4/6), (1, 1). At 24 % a line through the first two would promise 64 %.
    assert metrics.tpr_at_fpr(scores, is_member, 0.25) == (4 / 6, 0.25)
    assert metrics.tpr_at_fpr(np.tile(scores, 100), np.tile(is_member, 100), 0.24) == (0.0, 0.0)
    assert metrics.tpr_at_fpr(scores, is_member, 0.99) == (4 / 6, 0.25)


def test_tpr_may_be_high_where_no_nonmember_is_reached():
    assert metrics.tpr_at_fpr(np.array([2, 2, 1, 1, 1, 0]) * 1.0, np.arange(6) < 2, 0.25) == (1.0, 0.0)


def test_fpr_is_resolvable_from_one_allowed_nonmember_on():
    scores, is_member = np.arange(149.0), np.arange(149) < 100  # 49 nonmembers above all members
    assert metrics.tpr_at_fpr(scores, is_member, 1 / 50) is None
    assert 49 * (1 / 49) < 1  # in floats; exactly one nonmember is allowed all the same
    assert metrics.tpr_at_fpr(scores, is_member, 1 / 49) == (0.0, 1 / 49)


def test_infinite_scores_are_scores_like_others():
    scores, is_member = np.array([np.inf, np.inf, 0.0, -np.inf]), np.array([True, False, True, False])
    assert metrics.auc(scores, is_member) == (0.5 + 1 + 0 + 1) / 4
    fpr, tpr, thresholds = metrics.roc(scores, is_member)
    assert (fpr.tolist(), tpr.tolist()) == ([0.5, 0.5, 1], [0.5, 1, 1])  # no threshold accuses nobody
    assert thresholds.tolist() == [np.inf, 0, -np.inf]
    assert metrics.best_threshold(scores, is_member) == 0


@pytest.mark.parametrize(
    "function",
    [
        metrics.best_threshold,
        metrics.auc,
        metrics.roc,
        lambda s, m: metrics.balanced_accuracy(s, m, 0.0),
        lambda s, m: metrics.tpr_at_fpr(s, m, 0.5),
    ],
)
@pytest.mark.parametrize(
    "scores, is_member, message",
    [
        ([0.0, np.nan], [True, False], "1 of 2 scores are NaN"),
        ([0.0, 1.0], [True, True], "2 members and 0 nonmembers"),
        ([0.0, 1.0], [False, False], "0 members and 2 nonmembers"),
        ([], np.zeros(0, bool), "0 members and 0 nonmembers"),
        ([0.0, 1.0, 2.0], [True, False], r"scores \(3,\) and is_member \(2,\)"),
        ([[0.0], [1.0]], [[True], [False]], "expected two vectors"),
        ([0.0, 1.0], [1, 0], "is_member of dtype int64"),
    ],
)
def test_bad_scores_are_refused_in_one_line(function, scores, is_member, message):
    with pytest.raises(ValueError, match=message) as raised:
        function(np.asarray(scores), np.asarray(is_member))
    assert "\n" not in str(raised.value) and "expected" in str(raised.value)


def test_nan_threshold_and_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="threshold nan"):
        metrics.balanced_accuracy(*SEPARATED, np.nan)
    for fpr in (0.0, -0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="expected a rate"):
            metrics.tpr_at_fpr(*SEPARATED, fpr)


def test_mean_interval_equals_scipys_t_test():
    values = [0.61, 0.66, 0.58, 0.7, 0.64]
    found = metrics.mean_interval(values, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert found["values"] == values
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((np.mean(values), *expected), rel=1e-12)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_mean_interval_covers_the_mean_as_often_as_it_says(level):
    rng = np.random.default_rng(0)
    intervals = [metrics.mean_interval(rng.normal(0.7, 0.1, size=4), level) for _ in range(3000)]
    covered = sum(found["low"] <= 0.7 <= found["high"] for found in intervals)
    # Four standard errors of a binomial of 3,000. The normal quantile for t would cover 85 %, not 95 %.
    assert covered / 3000 == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 3000))


def test_one_value_has_no_interval():
    assert metrics.mean_interval([0.75]) == {"mean": 0.75, "low": None, "high": None, "values": [0.75]}


def test_equal_values_have_an_interval_of_no_width():
    found = metrics.mean_interval([0.75, 0.75, 0.75])
    assert found["low"] == found["mean"] == found["high"] == 0.75


def test_bounds_clip_the_interval_and_never_the_mean():
    free, clipped = metrics.mean_interval([0.1, 0.99]), metrics.mean_interval([0.1, 0.99], bounds=(0, 1))
    assert free["low"] < 0 and free["high"] > 1
    assert (clipped["low"], clipped["high"], clipped["mean"]) == (0, 1, free["mean"])
    assert metrics.mean_interval([1.2, 1.4], bounds=(0, 1))["mean"] == pytest.approx(1.3)


def test_summary_is_none_as_soon_as_one_value_is():
    assert metrics.summary([0.5, None, 0.7]) is None
    assert metrics.summary([0.1, 0.99]) == metrics.mean_interval([0.1, 0.99], bounds=(0, 1))


def test_paired_interval_is_that_of_the_differences():
    a, b = np.array([0.9, 0.7, 0.8]), np.array([0.85, 0.66, 0.74])
    assert metrics.paired_interval(a, b) == metrics.mean_interval(a - b)
    # The targets differ by more than the attacks: only the pairs show that a is above b.
    assert metrics.paired_interval(a, b)["low"] > 0 > metrics.mean_interval(a)["low"] - metrics.mean_interval(b)["high"]


@pytest.mark.parametrize("values", [[], [0.5, np.nan], [0.5, np.inf], [[0.5]]])
def test_values_that_have_no_mean_are_refused(values):
    with pytest.raises(ValueError, match="expected a list of at least one finite number"):
        metrics.mean_interval(values)


def test_unpaired_values_and_impossible_levels_are_refused():
    with pytest.raises(ValueError, match="2 and 1 values"):
        metrics.paired_interval([0.5, 0.6], [0.5])
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level"):
            metrics.mean_interval([0.5, 0.6], level)
        with pytest.raises(ValueError, match="level"):
            metrics.clopper_pearson(1, 2, level)


@pytest.mark.parametrize("k, n", [(0, 10), (10, 10), (3, 10), (1, 1), (7, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_clopper_pearson_equals_scipys_exact_interval(k, n, level):
    expected = stats.binomtest(k, n).proportion_ci(level, method="exact")
    assert metrics.clopper_pearson(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("k, n", [(-1, 5), (6, 5), (0, 0), (1.5, 5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match="expected whole numbers"):
        metrics.clopper_pearson(k, n)


def test_metrics_load_without_jax():
    code = "import sys, mi_jax.evaluation.metrics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_paired_difference_is_that_of_the_balanced_accuracies_with_the_spread_of_pairs():
    rng = np.random.default_rng(3)
    is_member = np.arange(30000) < 12000
    a, b = rng.random(30000) < 0.8, rng.random(30000) < 0.7
    found = metrics.paired_difference(a, b, is_member)
    one, two = (0.5 * (hit[is_member].mean() + hit[~is_member].mean()) for hit in (a, b))
    assert found["mean"] == pytest.approx(one - two, abs=1e-12)
    error = np.sqrt(sum(np.var(a[s] * 1.0 - b[s], ddof=1) / s.sum() for s in (is_member, ~is_member))) / 2
    for width in (found["high"] - found["mean"], found["mean"] - found["low"]):  # of many points the normal interval
        assert width == pytest.approx(1.959963985 * error, rel=5e-3)


def test_paired_difference_equals_a_hand_computation_and_turns_with_its_sign():
    """Members: 3 of 4 gained, none lost, so (3 +- ...) / 6 with 5/6 changed; non-members: 2 of 3 alike, one lost."""
    a, b = np.array([1, 1, 1, 0, 1, 0, 0], bool), np.array([0, 0, 0, 0, 1, 0, 1], bool)
    found = metrics.paired_difference(a, b, np.arange(7) < 4)
    z, mean = stats.norm.ppf(0.975), (3 / 4 - 1 / 3) / 2
    members = (3 / 6, z * np.sqrt((5 / 6 - (3 / 6) ** 2) / 6), 3 / 4)
    nonmembers = (-1 / 5, z * np.sqrt((3 / 5 - (1 / 5) ** 2) / 5), -1 / 3)
    below = [m - max(centre - half, -1) for centre, half, m in (members, nonmembers)]
    above = [min(centre + half, 1) - m for centre, half, m in (members, nonmembers)]
    expected = {"mean": mean, "low": mean - np.hypot(*below) / 2, "high": mean + np.hypot(*above) / 2}
    assert found == pytest.approx(expected, abs=1e-12)
    turned = metrics.paired_difference(b, a, np.arange(7) < 4)
    assert turned == pytest.approx({"mean": -mean, "low": -found["high"], "high": -found["low"]}, abs=1e-12)


def test_paired_difference_covers_the_truth_as_often_as_it_says():
    rng, is_member, covered = np.random.default_rng(4), np.arange(200) < 100, 0
    for _ in range(400):
        both = rng.random(200)  # one draw decides both: right with 0.8 and 0.5, so a - b is 0.3 on average
        found = metrics.paired_difference(both < 0.8, both < 0.5, is_member)
        covered += found["low"] <= 0.3 <= found["high"]
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 400, 0.95)
    assert low <= covered <= high


@pytest.mark.parametrize("n, least", [(1, 0.6), (4, 0.3), (100, 0.01)])
def test_paired_difference_of_equal_hits_has_an_interval_about_zero_that_few_points_widen(n, least):
    hit, is_member = np.arange(2 * n) % 3 == 0, np.arange(2 * n) < n
    found = metrics.paired_difference(hit, hit, is_member)
    assert found["mean"] == 0 and found["high"] == -found["low"] > least


@pytest.mark.parametrize("sizes", [(20, 19, 20), (20, 20, 19), (1, 1, 1)])
def test_paired_difference_refuses_what_cannot_be_paired(sizes):
    a, b, members = (np.arange(size) < 1 for size in sizes)
    with pytest.raises(ValueError, match="expected as many of each, with a member and a nonmember"):
        metrics.paired_difference(a, b, members)


def trial_of(true: int, members: int, rejected: int, nonmembers: int) -> tuple:
    """(scores, is_member, threshold) with so many members called members and non-members not."""
    scores = np.r_[np.arange(members) < true, np.arange(nonmembers) >= rejected].astype(float)
    return scores, np.arange(members + nonmembers) < members, 0.5


def test_an_accuracy_over_points_of_one_trial_joins_the_exact_intervals_of_its_sides():
    found = metrics.accuracy_over_points([trial_of(9, 10, 12, 20)])
    (tl, th), (fl, fh) = metrics.clopper_pearson(9, 10), metrics.clopper_pearson(12, 20)
    assert found == pytest.approx({"mean": 0.75, "low": 0.75 - np.hypot(0.9 - tl, 0.6 - fl) / 2,
                                   "high": 0.75 + np.hypot(th - 0.9, fh - 0.6) / 2})  # fmt: skip
    rates = ({"mean": m, "low": low, "high": high} for m, low, high in ((0.9, tl, th), (0.4, 1 - fh, 1 - fl)))
    difference = metrics.independent_difference(*rates)
    assert found["low"] == pytest.approx(0.5 + difference["low"] / 2)


def test_an_accuracy_over_points_counts_those_of_all_trials_together():
    trials = [trial_of(4, 4, 2, 4), trial_of(3, 4, 1, 4)]
    found = metrics.accuracy_over_points(trials)
    assert found == metrics.accuracy_over_points([trial_of(7, 8, 3, 8)])
    assert found["mean"] == np.mean([metrics.balanced_accuracy(*trial) for trial in trials])


@pytest.mark.parametrize("n, above_chance", [(1, False), (2, False), (3, False), (4, True), (50, True)])
def test_points_that_are_all_called_rightly_say_as_much_as_their_number_allows(n, above_chance):
    found = metrics.accuracy_over_points([trial_of(1, 1, 1, 1)] * n)
    assert found == metrics.accuracy_over_points([trial_of(n, n, n, n)])
    assert found["mean"] == found["high"] == 1 and (found["low"] > 0.5) == above_chance
    assert found["low"] < 1


@pytest.mark.parametrize("trials, n", [(1, 4), (1, 40), (6, 10)])
@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.9, 0.4), (1.0, 0.05)])
def test_an_accuracy_over_points_covers_the_truth_at_least_as_often_as_it_says(trials, n, rates):
    rng, covered = np.random.default_rng(1), 0
    for _ in range(100):
        true, rejected = (rng.binomial(n, rate, trials) for rate in rates)
        found = metrics.accuracy_over_points([trial_of(t, n, r, n) for t, r in zip(true, rejected, strict=True)])
        covered += found["low"] <= np.mean(rates) <= found["high"]
    assert covered >= stats.binom.ppf(1e-4, 100, 0.95)


def test_an_accuracy_over_points_refuses_scores_that_are_not_numbers():
    scores, is_member, threshold = trial_of(2, 3, 2, 3)
    with pytest.raises(ValueError, match="NaN"):
        metrics.accuracy_over_points([(np.where(is_member, np.nan, scores), is_member, threshold)])


@pytest.mark.parametrize("scores, is_member", CASES)
@pytest.mark.parametrize("least", [1, 3])
def test_the_most_precise_threshold_is_that_of_an_exhaustive_search(scores, is_member, least):
    def share(threshold):
        return is_member[scores >= threshold].mean()

    enough = [t for t in all_thresholds(scores) if (scores >= t).sum() >= least]
    best = max(map(share, enough))
    found = metrics.most_precise_threshold(scores, is_member, least=least)
    assert share(found) == best and (scores >= found).sum() >= least
    assert found == min(t for t in enough if share(t) == best)


def test_the_most_precise_threshold_needs_no_nonmembers():
    assert metrics.most_precise_threshold(np.arange(5.0), np.ones(5, bool), least=2) == 0.0


def test_precision_is_that_at_as_many_members_as_nonmembers():
    for members, nonmembers in ((50, 50), (20, 80), (90, 10)):
        found = metrics.balanced_precision(members // 2, members, nonmembers // 5, nonmembers)
        assert found["mean"] == pytest.approx(0.5 / 0.7), "rates of 1/2 and 1/5, whoever there are more of"
        assert 0 < found["low"] < found["mean"] < found["high"] < 1
    plain = metrics.balanced_precision(15, 50, 5, 50)
    assert plain["mean"] == pytest.approx(0.75)
    assert (plain["low"], plain["high"]) == pytest.approx(metrics.clopper_pearson(15, 20))
    sure = metrics.balanced_precision(4, 50, 0, 50)
    assert sure["mean"] == sure["high"] == 1 and sure["low"] < 0.5, "four are few to be sure of"


def test_precision_of_nobody_called_or_of_one_side_alone_is_nothing():
    assert metrics.balanced_precision(0, 5, 0, 5) is None
    assert metrics.balanced_precision(3, 5, 0, 0) is None and metrics.balanced_precision(0, 0, 3, 5) is None


@pytest.mark.parametrize("counts", [(6, 5, 0, 5), (0, 5, 6, 5), (-1, 5, 1, 5)])
def test_precision_refuses_more_called_than_there_are(counts):
    with pytest.raises(ValueError, match=f"{counts[0]} of 5 and {counts[2]} of 5, expected parts"):
        metrics.balanced_precision(*counts)


def test_the_interval_of_an_independent_difference_is_newcombes():
    """His table II, methods 10: 56 of 70 less 48 of 80 is 0.0524 to 0.3339 by Wilson's intervals."""
    one, other = ({"mean": k / n, "low": low, "high": high} for k, n, (low, high) in
                  ((56, 70, wilson(56, 70)), (48, 80, wilson(48, 80))))  # fmt: skip
    found = metrics.independent_difference(one, other)
    assert [found[key] for key in ("mean", "low", "high")] == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    centre, half = (k + z * z / 2) / (n + z * z), z * np.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return centre - half, centre + half


def test_the_interval_of_an_independent_difference_covers():
    draw, n, level = np.random.default_rng(0), 40, 0.95
    truth, covered = 0.75 - 0.6, []
    for _ in range(300):
        sides = [(k / n, *metrics.clopper_pearson(int(k), n, level)) for k in draw.binomial(n, [0.75, 0.6])]
        found = metrics.independent_difference(*(dict(zip(("mean", "low", "high"), one, strict=True)) for one in sides))
        covered.append(found["low"] <= truth <= found["high"])
    assert np.mean(covered) >= level - 3 * np.sqrt(level * (1 - level) / 300)


def test_the_bound_of_epsilon_is_the_closed_form_for_randomised_response():
    """A bit message truly with probability e^2 / (1 + e^2) is (2, 0)-private, exactly; the bound nears 2 from below."""
    truth = np.exp(2) / (1 + np.exp(2))
    for n, close in ((1000, 0.6), (100_000, 0.06)):
        bound = metrics.epsilon_lower_bound(round(n * truth), n, round(n * (1 - truth)), n, 0.0)
        assert 2 - close < bound < 2


def test_the_bound_of_epsilon_is_wrong_as_seldom_as_it_says():
    rng, truth = np.random.default_rng(0), np.exp(1) / (1 + np.exp(1))
    true, false = rng.binomial(300, truth, 2000), rng.binomial(300, 1 - truth, 2000)
    above = np.mean(
        [metrics.epsilon_lower_bound(int(a), 300, int(b), 300, 0.0) > 1 for a, b in zip(true, false, strict=True)]
    )
    assert above <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("counts, delta", [((0, 50, 0, 50), 0.0), ((25, 50, 25, 50), 1e-5), ((50, 50, 0, 50), 0.99)])
def test_what_proves_nothing_bounds_epsilon_by_zero(counts, delta):
    assert metrics.epsilon_lower_bound(*counts, delta) == 0


def test_the_bound_of_epsilon_agrees_with_jax_privacys_auditor():
    jax_privacy = pytest.importorskip(
        "jax_privacy.auditing", reason="needs jax-privacy 2.0.0, a test oracle of the benchmarks"
    )
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1.5, 1, 400), rng.normal(0, 1, 400)
    auditor = jax_privacy.CanaryScoreAuditor(inside, outside)
    for t in np.quantile(outside, (0.5, 0.9, 0.99)):
        theirs = auditor.epsilon_clopper_pearson(
            0.05, 1e-5, one_sided=False, threshold_strategy=jax_privacy.Explicit(t)
        )
        ours = metrics.epsilon_lower_bound(int((inside >= t).sum()), 400, int((outside >= t).sum()), 400, 1e-5)
        assert ours > 0.1 and theirs == pytest.approx(ours, abs=1e-9)
