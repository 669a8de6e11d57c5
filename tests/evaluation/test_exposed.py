"""Exposed records: the false discovery rate by its definition, the list, its file and its groups."""

import copy
import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from mi_jax.evaluation import exposed, metrics
from tests.evaluation.records import modern, synthetic


def calibrated() -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of `modern` with three attacks that are calibrated per example, and all optional arrays.

    Two in five members leak: their statistic is normal with mean 4, that of all others with mean 0.
    """
    record, scores = modern()
    rng, shape = np.random.default_rng(3), scores["is_member"].shape
    leaks = scores["is_member"] & (scores["rows"] % 5 < 2)
    for name, access, accuracy in (("calibrated", "label", 0.6), ("chosen", "label", 0.7), ("lira", "confidence", 0.8)):
        z = rng.normal(size=shape) + 4 * leaks
        record["attacks"][name] = copy.deepcopy(record["attacks"]["noise"]) | {"access": access}
        record["attacks"][name]["every_point"] = {"online": True, "pool": None}
        record["attacks"][name]["tuned"]["shadow_accuracy"] = [accuracy] * len(z)
        scores[f"attack/{name}/scores"], scores[f"attack/{name}/false_positive_rate"] = 4 * z - 8, stats.norm.sf(z)
    scores["attack/gap/scores"] = (rng.random(shape) > 0.1).astype(np.float32)
    scores["alone"] = leaks & (scores["rows"] % 3 > 0)
    scores["group"] = np.where(scores["rows"] % 4 > 0, "Dalmatia", "=1+1")
    scores["image_rows"] = np.unique(scores["rows"])[::-1]
    scores["images"] = rng.integers(0, 256, (len(scores["image_rows"]), 8, 8, 1), np.uint8)
    return record, scores


def rejected(p: np.ndarray, level: float) -> np.ndarray:
    """Which tests the step-up procedure rejects, as Benjamini and Hochberg put it: the k smallest p-values, for the
    largest k with p_(k) <= k * level / m."""
    m, k = len(p), 0
    for i, value in enumerate(sorted(p), 1):
        if value <= i * level / m:
            k = i
    return np.argsort(np.argsort(p, kind="stable"), kind="stable") < k


@pytest.mark.parametrize("seed", range(5))
def test_a_test_is_named_at_exactly_the_levels_at_which_the_procedure_rejects_it(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(40) ** rng.choice([1, 6], 40)
    p[:10] = np.round(p[:10], 1)  # with ties, and 0
    q = exposed.false_discovery_rate(p)
    levels = np.concatenate([rng.random(50), q[q < 1] * (1 - 1e-9), q[q < 1] * (1 + 1e-9)])
    for level in levels:
        np.testing.assert_array_equal(q <= level, rejected(p, level))


def test_any_dependence_costs_the_harmonic_sum():
    p = np.array([0.001, 0.02, 0.03, 0.9])
    expected = np.minimum(1, exposed.false_discovery_rate(p) * (1 + 1 / 2 + 1 / 3 + 1 / 4))
    np.testing.assert_allclose(exposed.false_discovery_rate(p, method="by")[:3], expected[:3])


def test_unfinished_points_are_no_tests():
    p = np.array([0.01, np.nan, 0.02, np.nan, 0.5])
    q = exposed.false_discovery_rate(p)
    np.testing.assert_array_equal(np.isnan(q), np.isnan(p))
    np.testing.assert_array_equal(q[~np.isnan(q)], exposed.false_discovery_rate(p[~np.isnan(p)]))
    assert np.isnan(exposed.false_discovery_rate(np.full(2, np.nan))).all()
    assert exposed.false_discovery_rate(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("p", [[0.5, 1.5], [-0.1], [[0.5]], [np.inf]])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match="expected a vector of probabilities"):
        exposed.false_discovery_rate(np.array(p))
    with pytest.raises(ValueError, match="method='holm', expected 'bh' or 'by'"):
        exposed.false_discovery_rate(np.array([0.5]), method="holm")


def one_attack(p: np.ndarray, is_member: np.ndarray, score: np.ndarray | None = None) -> tuple[dict, dict]:
    """(record, scores) of one calibrated attack, [T 2n] each."""
    rows = np.arange(p.size, dtype=np.int32).reshape(p.shape)
    arrays = {"rows": rows, "labels": rows % 3, "is_member": is_member}
    arrays |= {"attack/mine/scores": -np.log(p) if score is None else score, "attack/mine/false_positive_rate": p}
    return {"attacks": {"mine": {"access": "label", "tuned": {"shadow_accuracy": [0.6] * len(p)}}}}, arrays


def test_a_list_made_of_chance_names_almost_nobody():
    """Where no point leaks, any name is false: the FDR is the probability that somebody is named, at most 10 %."""
    p = 1 - np.random.default_rng(0).random((400, 200))
    rows = exposed.exposed_records(*one_attack(p, np.tile(np.arange(200) < 100, (400, 1))), "mine")
    targets_with_names = {row["target"] for row in rows if row["named"]}
    assert 0 < len(targets_with_names) <= stats.binom.ppf(0.999, 400, 0.1)


def test_planted_members_are_named_and_few_of_the_names_are_false():
    """One in ten members leaks. The false discovery proportion of 200 models is on average what the level and the
    share of true nulls give (0.1 * 380 / 400), and below the level."""
    rng, targets, n = np.random.default_rng(1), 200, 200
    is_member = np.tile(np.arange(2 * n) < n, (targets, 1))
    z = rng.normal(size=is_member.shape) + 6 * (np.arange(2 * n) < n // 10)
    rows = exposed.exposed_records(*one_attack(stats.norm.sf(z), is_member), "mine")
    named = [[row for row in rows if row["target"] == t and row["named"]] for t in range(targets)]
    planted = [[row["row"] % (2 * n) < n // 10 for row in one] for one in named]
    assert np.mean([sum(one) for one in planted]) > 0.98 * n // 10
    proportions = [1 - np.mean(one) for one in planted]
    error = np.std(proportions) / math.sqrt(targets)
    assert abs(np.mean(proportions) - 0.1 * 380 / 400) < 4 * error < 0.03
    # What an auditor sees is less: half of the points that do not leak are members.
    assert np.mean([np.mean([not row["is_member"] for row in one]) for one in named]) < 0.06


def test_the_list_has_every_finished_point_by_target_and_p_value():
    record, scores = calibrated()
    scores["attack/chosen/scores"][0, 3] = scores["attack/chosen/false_positive_rate"][1, 5] = np.nan
    rows = exposed.exposed_records(record, scores, "chosen")
    shape = scores["is_member"].shape
    assert len(rows) == math.prod(shape) - 2 and all(tuple(row) == exposed.FIELDS for row in rows)
    order = [(row["target"], row["false_positive_rate"]) for row in rows]
    assert order == sorted(order)
    found = {(row["target"], row["row"]) for row in rows}
    expected = {(t, int(scores["rows"][t, i])) for t, i in np.ndindex(shape)}
    assert expected - found == {(0, int(scores["rows"][0, 3])), (1, int(scores["rows"][1, 5]))} and found < expected


def test_each_line_says_what_the_arrays_say_of_its_point():
    record, scores = calibrated()
    rows = exposed.exposed_records(record, scores, "chosen", level=0.2)
    p = scores["attack/chosen/false_positive_rate"]
    for row in rows:
        t = row["target"]
        i = int(np.flatnonzero(scores["rows"][t] == row["row"])[0])
        assert row["label"] == scores["labels"][t, i] and row["is_member"] is bool(scores["is_member"][t, i])
        assert row["score"] == scores["attack/chosen/scores"][t, i] and row["false_positive_rate"] == p[t, i]
        assert row["likelihood_ratio"] == pytest.approx(math.exp(row["score"]))
        assert row["fdr"] == exposed.false_discovery_rate(p[t])[i] and row["named"] is (row["fdr"] <= 0.2)
        assert row["mislabelled"] is bool(scores["attack/gap/scores"][t, i] == 0)
        assert row["alone"] is bool(scores["alone"][t, i]) and row["group"] == scores["group"][t, i]
    assert {row["named"] for row in rows} == {row["mislabelled"] for row in rows} == {True, False}


def test_what_was_not_measured_is_none():
    record, scores = calibrated()
    for name in ("alone", "group", "attack/gap/scores"):
        del scores[name]
    rows = exposed.exposed_records(record, scores, "chosen")
    assert {(row["mislabelled"], row["alone"], row["group"]) for row in rows} == {(None, None, None)}
    assert [exposed.by_group(rows, key) for key in ("mislabelled", "alone", "group")] == [[], [], []]
    scores["attack/gap/scores"] = np.where(scores["rows"] == 7, np.nan, 1.0)
    of_row = {row["row"]: row["mislabelled"] for row in exposed.exposed_records(record, scores, "chosen")}
    assert of_row.pop(7) is None and set(of_row.values()) == {False}


def test_targets_are_judged_separately():
    record, scores = calibrated()
    both = exposed.exposed_records(record, scores, "chosen")
    scores = {name: array[1:] if array.shape[:1] == (3,) else array for name, array in scores.items()}
    fdr = {row["row"]: row["fdr"] for row in exposed.exposed_records(record, scores, "chosen")}
    assert fdr == {row["row"]: row["fdr"] for row in both if row["target"] > 0}


def test_a_likelihood_ratio_may_overflow_and_equal_rates_are_ordered_by_score():
    p = np.array([[0.01, 0.01, 0.01, 0.5]])
    score = np.array([[1.0, 1e4, 1.0, -1e4]])
    rows = exposed.exposed_records(*one_attack(p, np.array([[True, True, False, False]]), score), "mine")
    assert [row["row"] for row in rows] == [1, 0, 2, 3]
    assert (rows[0]["likelihood_ratio"], rows[3]["likelihood_ratio"]) == (math.inf, 0)


def test_what_does_not_fit_is_refused_in_one_line():
    record, scores = calibrated()
    for name, wrong in (("gap", "attack 'gap', expected one with"), ("none", "attack 'none', expected one with")):
        with pytest.raises(ValueError, match=wrong):
            exposed.exposed_records(record, scores, name)
    with pytest.raises(ValueError, match="level=1, expected"):
        exposed.exposed_records(record, scores, "chosen", level=1)
    for place in ("attack/chosen/false_positive_rate", "alone", "group"):
        with pytest.raises(ValueError, match=f"{place} of shape .*, expected that of is_member"):
            exposed.exposed_records(record, scores | {place: scores[place][:, 1:]}, "chosen")
    for wrong in ({"images": scores["images"] / 255.0}, {"image_rows": scores["image_rows"][1:]}):
        with pytest.raises(ValueError, match="expected uint8"):
            exposed.leading_records(record, scores | wrong)


def test_the_leading_attack_is_the_best_on_shadow_models_of_those_with_rates_and_labels():
    record, scores = calibrated()
    assert exposed.leading_attack(record, scores) == "chosen"  # "lira" is better, and sees confidences
    record["attacks"]["calibrated"]["tuned"]["shadow_accuracy"] = [0.99] * 3
    assert exposed.leading_attack(record, scores) == "calibrated"
    del record["attacks"]["calibrated"]["tuned"]["shadow_accuracy"]
    assert exposed.leading_attack(record, scores) == "chosen"
    assert exposed.leading_attack(*synthetic()) is None and exposed.leading_records(*synthetic()) is None
    for name in ("chosen", "calibrated"):
        del scores[f"attack/{name}/false_positive_rate"]
    assert exposed.leading_attack(record, scores) is None


def test_the_leading_records_come_with_their_images():
    record, scores = calibrated()
    found = exposed.leading_records(record, scores)
    assert found.name == "chosen" and found.rows == exposed.exposed_records(record, scores, "chosen")
    assert found.images.keys() == set(scores["image_rows"].tolist())
    np.testing.assert_array_equal(found.images[scores["image_rows"][2]], scores["images"][2])
    assert exposed.leading_records(record, scores | {"images": np.repeat(scores["images"], 2, -1)}).images == {}
    scores["attack/chosen/scores"][:] = np.nan
    assert exposed.leading_records(record, scores) is None


def test_the_strongest_are_those_with_the_lowest_rates_of_all_targets():
    rows = exposed.exposed_records(*calibrated(), "chosen")
    first = exposed.strongest(rows, 7)
    lowest = sorted(row["false_positive_rate"] for row in rows)[:7]
    assert [row["false_positive_rate"] for row in first] == lowest and len({row["target"] for row in first}) > 1


def test_a_row_of_several_targets_fills_one_place_among_the_strongest():
    """Its own: the lowest rate, and the higher score where rates are equal."""
    places = [(1, 0.2, 5.0), (2, 0.3, 4.0), (1, 0.1, 3.0), (2, 0.3, 6.0), (3, 0.4, 9.0)]
    rows = [{"row": row, "false_positive_rate": rate, "score": score} for row, rate, score in places]
    assert [(one["row"], one["score"]) for one in exposed.strongest(rows, 2)] == [(1, 3.0), (2, 6.0)]
    assert len(exposed.strongest(rows, 9)) == 3


@pytest.mark.parametrize("key", ["label", "group", "mislabelled", "alone"])
def test_groups_add_up(key):
    rows = exposed.exposed_records(*calibrated(), "chosen")
    groups, total = exposed.by_group(rows, key), exposed.count_named(rows)
    assert [one["value"] for one in groups] == sorted({row[key] for row in rows})
    for count in ("points", "members", "nonmembers", "named_members", "named_nonmembers"):
        assert sum(one[count] for one in groups) == total[count]
    assert total["points"] == total["members"] + total["nonmembers"] == len(rows)
    assert total["named_members"] + total["named_nonmembers"] == sum(row["named"] for row in rows)


def test_shares_of_a_group_have_exact_intervals():
    def line(is_member: bool, named: bool) -> dict:
        return {"is_member": is_member, "named": named, "label": 4}

    rows = 3 * [line(True, True)] + 5 * [line(True, False)] + [line(False, True)] + 9 * [line(False, False)]
    (found,) = exposed.by_group(rows, "label")
    counts = {"members": 8, "nonmembers": 10, "named_members": 3, "named_nonmembers": 1}
    assert found["value"] == 4 and {name: found[name] for name in counts} == counts
    for name, k, n in (("tpr", 3, 8), ("fpr", 1, 10), ("false_discovery_proportion", 1, 4)):
        low, high = metrics.clopper_pearson(k, n)
        assert found[name] == {"mean": k / n, "low": low, "high": high}
    (found,) = exposed.by_group([line(True, False)], "label")
    assert found["tpr"]["mean"] == 0 and found["fpr"] is found["false_discovery_proportion"] is None
    with pytest.raises(ValueError, match="key='row', expected"):
        exposed.by_group(rows, "row")


def test_the_file_is_read_back_as_it_was():
    rows = exposed.exposed_records(*calibrated(), "chosen")
    text = exposed.csv_bytes(rows).decode()
    assert text.splitlines()[0] == ",".join(exposed.FIELDS)
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(rows)
    words = {"True": True, "False": False}
    for line, row in zip(read, rows, strict=True):
        for field in ("is_member", "named", "mislabelled", "alone"):
            assert words[line[field]] is row[field]
        for field in ("target", "row", "label"):
            assert int(line[field]) == row[field]
        for field in ("score", "likelihood_ratio", "false_positive_rate", "fdr"):
            assert float(line[field]) == row[field]
        assert line["group"].removeprefix("'") == row["group"]


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r\n=1", "\uff1d1", '=HYPERLINK("http://x","y")']


@pytest.mark.parametrize("group", [*FORMULAS, "plain, with a comma", 'a "quote"', "two\nlines", "", "3-4", "\ud800"])
def test_no_text_of_a_user_becomes_a_formula(group):
    row = dict.fromkeys(exposed.FIELDS) | {"score": -1.5, "group": group}
    _, (*cells, written) = csv.reader(io.StringIO(exposed.csv_bytes([row]).decode(), newline=""))
    assert written == (f"'{group}" if group in FORMULAS else group.replace("\ud800", "\ufffd"))
    assert cells[exposed.FIELDS.index("score")] == "-1.5" and cells[0] == ""  # a number stays one, None is empty


def test_numbers_are_finite_in_the_file():
    row = dict.fromkeys(exposed.FIELDS) | {"likelihood_ratio": math.inf, "score": -math.inf, "fdr": 0.5}
    (line,) = csv.DictReader(io.StringIO(exposed.csv_bytes([row]).decode()))
    assert (float(line["likelihood_ratio"]), float(line["score"]), line["fdr"]) == (1e300, -1e300, "0.5")


def test_sentences_say_who_is_named_and_check_the_rates():
    found = exposed.leading_records(*calibrated())
    counts = exposed.count_named(found.rows)
    true, false = counts["named_members"], counts["named_nonmembers"]
    named, check = exposed.exposed_sentences(found)
    assert (
        f"At a false discovery rate of at most 10 %, the attack “chosen” names {true} of 60 members of 3 targets"
        in named
    )
    assert f"; {false} of the {true + false} records it names" in named
    assert "for 1 of 60 non-members (1.7 % [" in check


def test_where_nobody_is_named_the_smallest_rate_is_said():
    p = np.linspace(0.2, 1, 10)[None]
    found = exposed.leading_records(*one_attack(p, np.arange(10)[None] < 5))
    named = exposed.exposed_sentences(found)[0]
    assert named.endswith("the attack “mine” names no record of 1 target: the smallest it reaches is 100 %.")
