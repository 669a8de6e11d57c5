"""Two reports compared: paired where the points are the same, independent otherwise, and said which."""

import copy
from pathlib import Path

import numpy as np
import pytest

from mi_jax.evaluation import compare, metrics, paired, report
from tests.evaluation.records import modern
from tests.evaluation.test_page import Page

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"


@pytest.fixture(scope="module")
def digits():
    return report.read(RECORDS / "audit-digits")


def test_an_audit_less_itself_is_nothing(digits):
    found = compare.compare_audits(digits, digits)
    assert found["paired"] and not found["why"] and found["only"] == [[], []]
    for entry in found["attacks"].values():
        accuracy = entry["balanced_accuracy"]
        assert accuracy["mean"] == entry["auc"]["mean"] == 0 and accuracy["low"] < 0 < accuracy["high"]


def test_paired_accuracies_are_those_of_paired_and_the_rest_is_target_by_target():
    before = modern()
    after = copy.deepcopy(before)
    for name in ("noise", "boundary"):
        if name in after[0]["attacks"]:
            scores = after[1][f"attack/{name}/scores"] = np.random.default_rng(1).random((3, 40))
            of = [metrics.auc(s, m) for s, m in zip(scores, after[1]["is_member"], strict=True)]
            after[0]["attacks"][name]["auc"] = metrics.summary(of)
    found = compare.compare_audits(before, after)
    expected = paired.difference(paired.hits("noise", *after), paired.hits("noise", *before))
    change = metrics.paired_interval(after[0]["attacks"]["noise"]["auc"]["values"],
                                     before[0]["attacks"]["noise"]["auc"]["values"])  # fmt: skip
    assert found["paired"] and found["attacks"]["noise"]["balanced_accuracy"]["mean"] == expected["mean"]
    assert found["attacks"]["noise"]["auc"] == {end: change[end] for end in ("mean", "low", "high")}


def test_targets_that_change_alike_are_compared_by_their_points():
    """Student's interval of equal differences has no width; these TPRs of 0.125 are equal for all targets."""
    change = compare.compare_audits(modern(), modern())["attacks"]["noise"]["tpr_at_fpr"]["0.1"]
    assert change["low"] < -0.01 and change["mean"] == 0 and change["high"] > 0.01


def test_other_audits_are_independent(digits):
    found = compare.compare_audits(digits, report.read(RECORDS / "audit-digits-disjoint"))
    change = found["attacks"]["gap"]["auc"]
    assert not found["paired"] and found["why"] == "another split" and change["low"] < change["mean"] < change["high"]
    assert found["only"][1] == ["rotation", "translation", "confidence_threshold", "confidence_network"]
    said = compare.comparison_table(found)
    assert "other points (another split)" in said and "Only in the second audit: rotation" in said


@pytest.mark.parametrize(
    "array, why", [("rows", "other rows"), ("labels", "other labels"), ("is_member", "other members")]
)
def test_the_same_split_of_other_data_is_not_paired(array, why):
    """Row numbers, which a digest is made of, are alike in any two sets of as many rows."""
    before, after = modern(), modern()
    after[1][array] = after[1][array][:, ::-1]
    assert compare.compare_audits(before, after)["why"] == why
    changed = modern()
    changed[0]["split_digest"] = "f" * 16
    assert compare.compare_audits(before, changed)["why"] == "another split"


def one_target(seed, shift, number=150):
    """(record, scores) of one target with normal scores, those of members shifted; the same points for every seed."""
    record, scores = modern(targets=1, n=number)
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).normal(size=scores["is_member"].shape)
    record["attacks"] = {"noise": copy.deepcopy(record["attacks"]["noise"])}
    scores["attack/noise/scores"] = drawn = base + 0.3 * rng.normal(size=base.shape) + shift * scores["is_member"]
    record["attacks"]["noise"]["auc"] = metrics.summary([metrics.auc(drawn[0], scores["is_member"][0])])
    record["attacks"]["noise"]["tuned"]["threshold"] = [0.0]
    return record, scores


def test_a_single_target_has_intervals_over_points_and_pairs_narrow_them():
    before, after = one_target(0, 1.0), one_target(1, 0.5)
    found = compare.compare_audits(before, after)["attacks"]["noise"]
    other = copy.deepcopy(after)
    other[0]["split_digest"] = "f" * 16
    independent = compare.compare_audits(before, other)["attacks"]["noise"]
    means = [one[0]["attacks"]["noise"]["auc"]["mean"] for one in (before, after)]
    assert found["auc"]["mean"] == pytest.approx(means[1] - means[0], abs=1e-12)  # sums of 150 shares
    for measure in ("auc", "balanced_accuracy"):
        width, wider = (one[measure]["high"] - one[measure]["low"] for one in (found, independent))
        assert 0 < width < wider
    assert found["tpr_at_fpr"]["0.1"]["low"] < found["tpr_at_fpr"]["0.1"]["high"] and not found["tpr_at_fpr"]["0.001"]


def test_the_interval_of_an_auc_has_the_width_of_a_bootstrap():
    """Both estimate the same variance; 1,000 resamples know a standard deviation to 2.2 %, 150 points to some more."""
    before, after = one_target(0, 1.0), one_target(1, 0.5)
    interval = compare.compare_audits(before, after)["attacks"]["noise"]["auc"]
    rng, is_member = np.random.default_rng(0), before[1]["is_member"][0]
    pair = [one[1]["attack/noise/scores"][0] for one in (before, after)]
    changes = []
    for _ in range(1000):
        drawn = np.concatenate([rng.choice(np.flatnonzero(is_member == side), 150) for side in (True, False)])
        first, second = (metrics.auc(scores[drawn], is_member[drawn]) for scores in pair)
        changes.append(second - first)
    assert (interval["high"] - interval["low"]) / (2 * 1.96) == pytest.approx(np.std(changes), rel=0.1)


def test_points_that_only_one_audit_finished_are_left_out_of_pairs():
    before, after = one_target(0, 1.0), one_target(1, 0.5)
    after[1]["attack/noise/scores"][0, ::7] = np.nan
    found = compare.compare_audits(before, after)["attacks"]["noise"]
    assert found["auc"]["low"] < found["auc"]["high"] and found["balanced_accuracy"]["low"] < 0


def test_accuracies_of_models_have_intervals_too():
    before, after = one_target(0, 1.0), one_target(1, 0.5)
    after[0]["models"]["test_accuracy"] = metrics.summary([0.6])
    change = compare.compare_audits(before, after)["models"]["test_accuracy"]
    assert change["mean"] == pytest.approx(-0.3) and change["low"] < -0.3 < change["high"] < 0


def test_two_reports_without_a_common_attack_are_refused(digits):
    record, scores = digits
    with pytest.raises(ValueError, match="expected a common one"):
        compare.compare_audits(digits, (record | {"attacks": {}}, scores))


def test_a_folder_without_a_report_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: expected a folder with report.json"):
        compare.compare_folders(RECORDS / "audit-digits", tmp_path)


def test_the_page_holds_the_table_and_escapes_names(digits):
    found = compare.compare_audits(digits, digits)
    hostile = "<script>alert(1)</script>\"'>"
    found["attacks"][hostile] = found["attacks"].pop("noise")
    written = compare.comparison_page(found, (hostile, "after"))
    parsed = Page(written)
    assert "script" not in parsed.tags and not parsed.addresses and "http" not in written
    assert parsed.rows[0][0] == "attack" and len(parsed.rows) == 1 + len(digits[0]["attacks"])
    assert parsed.rows[-1][0] == hostile and "the same points" in parsed.text
