"""What is said of a run in plain words: the table and the findings."""

import copy
import re

import numpy as np
import pytest

from mi_jax.evaluation import exposed, metrics, text
from mi_jax.evaluation.findings import findings
from tests.evaluation.records import NAMES, modern, synthetic
from tests.evaluation.test_exposed import calibrated


def test_the_table_has_a_row_for_every_attack_and_aligned_columns():
    record, _ = synthetic()
    header, rule, *rows = text.table(record).split("\n")
    assert [row.split()[0] for row in rows] == list(NAMES)
    assert [row.split()[1] for row in rows] == list(NAMES.values())
    assert set(rule) == {"-"}
    for column in text.HEADER:
        start = header.index(column)
        assert all(row[start - 1] == " " and row[start] != " " for row in rows if start)


def test_the_table_shows_the_means_and_intervals_of_the_record():
    record, _ = synthetic()
    record["attacks"]["noise"] |= {
        "queries_per_example": 123.456,
        "balanced_accuracy": {"mean": 0.7123, "low": 0.6, "high": 0.8239, "values": []},
        "auc": {"mean": 0.76543, "low": 0.7, "high": 0.8, "values": []},
    }
    row = text.table(record).split("\n")[3]
    cells = re.split(r"\s{2,}", row)
    assert cells == [
        "noise",
        "label",
        "123.5",
        "71.2 % [60.0, 82.4]",
        "0.765 [0.700, 0.800]",
        "12.5 %",
        *["not resolvable"] * 2,
    ]
    record["attacks"]["noise"]["tpr_at_fpr"]["0.01"] = {"mean": 0.125, "low": 0.02, "high": 0.5, "values": []}
    assert text.table(record).split("\n")[3].endswith("12.5 %           12.5 % [2.0, 50.0]  not resolvable")


def test_a_rate_that_targets_do_not_resolve_is_that_of_their_points_together():
    record, _ = synthetic()
    entry = record["attacks"]["noise"]
    entry["pooled"] = {"0.1": None, "0.01": {"mean": 0.25, "low": 0.2, "high": 0.3, "fpr": 0.01}, "0.001": None}
    assert text.table(record).split("\n")[3].endswith("25.0 % [20.0, 30.0] pooled  not resolvable")
    assert text.rate(entry, "0.1") == "12.5 %"  # targets come first
    entry["pooled"]["0.1"] = entry["pooled"]["0.01"]  # all targets agree, so that they have no interval
    assert text.rate(entry, "0.1") == "25.0 % [20.0, 30.0] pooled"
    entry["tpr_at_fpr"]["0.1"] = {"mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.4, 0.6]}
    assert text.rate(entry, "0.1") == "50.0 % [40.0, 60.0]"


def test_a_single_target_has_its_rates_over_points():
    record, _ = synthetic(targets=1)
    entry = record["attacks"]["noise"]
    entry["pooled"] = {"0.1": {"mean": 0.25, "low": 0.2, "high": 0.3, "fpr": 0.01}}
    assert text.rate(entry, "0.1") == "25.0 % [20.0, 30.0] over points" and "pooled" not in text.table(record)


def test_scores_that_are_too_coarse_for_all_targets_together_are_neither_a_rate_nor_at_chance():
    record, _ = synthetic()
    entry = record["attacks"]["noise"]
    entry["pooled"] = {"0.001": {"mean": 0.0, "low": 0.0, "high": 0.01, "fpr": 0.0}}
    assert text.rate(entry, "0.001") == "too coarse" and not text.at_chance(entry, "0.001")
    entry["pooled"]["0.001"] |= {"fpr": 0.0005}  # a threshold that only finds a non-member
    assert text.rate(entry, "0.001") == "0.0 % [0.0, 1.0] pooled" and text.at_chance(entry, "0.001")


def test_no_line_below_a_table_is_wider_than_a_terminal():
    record, _ = synthetic()
    at_chance = {"mean": 0.1, "low": 0.0, "high": 0.5, "values": [0.0, 0.5]}
    for i in range(20):
        record["attacks"][f"an attack with a long name {i}"] = record["attacks"]["noise"]
        record["attacks"]["noise"]["tpr_at_fpr"] = dict.fromkeys(text.RATES, at_chance)
    notes = text.table(record).split("\n\n")[1].splitlines()
    assert len(notes) > 1 and max(map(len, notes)) <= 148
    assert " ".join(" ".join(notes).split()).count(" at 10 %, 1 %, 0.1 %") == 21


@pytest.mark.parametrize("low, chance", [(0.0, True), (0.01, True), (0.02, False)])
def test_a_rate_whose_interval_holds_the_false_positive_rate_is_at_chance(low, chance):
    record, _ = synthetic()
    record["attacks"]["noise"]["tpr_at_fpr"]["0.01"] = {"mean": 0.1, "low": low, "high": 0.5, "values": []}
    assert text.at_chance(record["attacks"]["noise"], "0.01") is chance
    assert ("noise at 1 %" in text.table(record)) is chance


def test_a_single_target_without_an_interval_over_points_has_numbers_alone():
    record, _ = synthetic(targets=1)
    said = " ".join(findings(record))
    assert "[" not in text.table(record) and "None" not in text.table(record) + said
    assert not re.search(r"(gap|noise|threshold) distinguishes", said) and "which does not show how reliably" in said


def test_a_single_target_has_its_interval_over_points_and_is_called_one_target():
    record, scores = modern(targets=1)
    row = text.table(record).split("\n")[3]
    low, high = (100 * record["attacks"]["noise"]["over_points"][end] for end in ("low", "high"))
    assert f" [{low:.1f}, {high:.1f}] over points" in row
    for entry in record["attacks"].values():
        entry["over_points"] |= {"low": 0.51}
    assert "distinguishes members from non-members of this one target: " in " ".join(findings(record))
    for entry in record["attacks"].values():
        entry["over_points"] |= {"low": 0.5}
    assert "distinguishes members" not in " ".join(findings(record))


def test_equal_values_of_few_points_are_shown_with_their_interval_over_points_and_end_in_no_verdict():
    """Two targets, two points each, all four called rightly: Student's interval is [1, 1]."""
    record, _ = modern(targets=2, n=1)
    trial = (np.array([1.0, 0.0]), np.array([True, False]), 0.5)
    over_points = metrics.accuracy_over_points([trial] * 2)
    for entry in record["attacks"].values():
        entry |= {"balanced_accuracy": metrics.summary([1.0, 1.0]), "over_points": over_points}
    assert f"100.0 % [{100 * over_points['low']:.1f}, 100.0] over points" in text.table(record)
    said = " ".join(findings(record))
    assert "does not reliably distinguish" in said and "distinguishes" not in said
    for entry in record["attacks"].values():  # an older record
        del entry["over_points"]
    said = " ".join(findings(record))
    assert "has the same accuracy on all targets, which does not show how reliably" in said
    assert "[100.0, 100.0]" not in said + text.table(record)


@pytest.mark.parametrize("over_targets", [0.45, 0.55])
@pytest.mark.parametrize("over_points", [0.45, 0.55])
def test_a_verdict_needs_the_interval_over_targets_and_the_one_over_points(over_targets, over_points):
    record, _ = modern()
    for entry in record["attacks"].values():
        entry["balanced_accuracy"] = {"mean": 0.6, "low": over_targets, "high": 0.7, "values": [0.5, 0.6, 0.7]}
        entry["over_points"] = {"mean": 0.6, "low": over_points, "high": 0.7}
    said = " ".join(findings(record))
    assert said.count(" distinguishes members from non-members: ") == 2 * (over_targets > 0.5 < over_points)
    assert said.count("(over points the interval is [45.0, 70.0])") == 2 * (over_points < 0.5 < over_targets)


def test_a_single_target_at_chance_is_not_said_to_leak():
    record, _ = synthetic(targets=1)
    for entry in record["attacks"].values():
        entry["balanced_accuracy"] = {"mean": 0.5, "low": None, "high": None, "values": [0.5]}
    assert not re.search(r"(gap|noise|threshold) distinguishes", " ".join(findings(record)))


@pytest.mark.parametrize("low, reliable", [(0.49, False), (0.5, False), (0.51, True)])
def test_findings_call_an_attack_reliable_only_if_its_interval_is_above_chance(low, reliable):
    record, _ = synthetic()
    for entry in record["attacks"].values():
        entry["balanced_accuracy"] = {"mean": 0.6, "low": low, "high": 0.7, "values": [0.6] * 3}
    said = [sentence for sentence in findings(record) if sentence.startswith("From ")]
    assert len(said) == 2  # labels, probabilities
    assert all(("does not reliably distinguish" in sentence) != reliable for sentence in said)


def test_scores_too_coarse_for_one_per_cent_are_named_in_table_and_findings():
    record, _ = synthetic()
    for entry in record["attacks"].values():
        entry["tpr_at_fpr"]["0.01"] = entry["achieved_fpr"]["0.01"] = metrics.summary([0.0] * 3)
    assert text.table(record).split("\n")[3].endswith("  too coarse  not resolvable")
    assert " ".join(findings(record)).count("many points share the highest one") == 2  # labels, probabilities
    for entry in record["attacks"].values():
        entry["tpr_at_fpr"]["0.01"] = metrics.summary([0.1, 0.0, 0.2])
    assert "too coarse" not in text.table(record) and text.table(record).count("10.0 % [") == 3
    assert " ".join(findings(record)).count("At 1 % false positives it finds 10.0 %") == 2


def test_findings_name_access_cost_and_what_was_not_tested():
    record, _ = synthetic()
    said = " ".join(findings(record))
    assert "predicted labels alone" in said and "the probability vector" in said
    assert "noise distinguishes members from non-members: with 11.0 queries per example" in said
    untested = next(sentence for sentence in findings(record) if sentence.startswith("Not tested: "))
    for name in ("rotation", "translation", "confidence network", "decision boundary"):
        assert name in untested
    for name in ("gap", "noise", "confidence threshold"):
        assert name not in untested


def test_the_attack_that_is_named_did_best_on_shadow_models_and_not_on_the_targets():
    record, _ = modern()
    noise, gap = record["attacks"]["noise"], record["attacks"]["gap"]
    assert noise["balanced_accuracy"]["mean"] > gap["balanced_accuracy"]["mean"]
    said = " ".join(findings(record))
    assert "From predicted labels alone, gap does not" in said and "From predicted labels alone, noise" not in said
    assert said.count("Of 2 attacks it is the one with the best accuracy on shadow models.") == 1
    assert "+10.0 [+5.0, +15.0] percentage points above the gap attack" in said  # of the confidence attack
    for entry in record["attacks"].values():  # an older record
        del entry["tuned"]["shadow_accuracy"]
    said = " ".join(findings(record))
    assert "From predicted labels alone, noise" in said and "on the targets themselves, which flatters it" in said


def test_findings_say_no_more_of_the_setting_than_the_record_does():
    record, _ = synthetic()
    record["config"] = {"dataset": "mine", "num_shadows": 2}  # as audit.audit leaves it
    said = " ".join(findings(record))
    assert "defenses other than the targets' own" in said and "2 shadow models per target, trained like it. An" in said
    for split, rows in {"disjoint": "on rows disjoint", "swap": "on its own", "balanced": "on random halves"}.items():
        record["config"]["split"] = split
        assert f"trained like it {rows}" in " ".join(findings(record))


M = {"mean": 0.125, "low": 0.1, "high": 0.15, "values": [0.1, 0.15]}
POOLED = {"mean": 0.05, "low": 0.04, "high": 0.06, "fpr": 0.001}


def naming(**changes) -> dict:
    """A record in which labels that judge every point resolve 1 %, and together 0.1 %; changes are of that entry."""
    record, _ = calibrated()
    for name in ("chosen", "lira"):
        record["attacks"][name] = copy.deepcopy(record["attacks"][name])
        record["attacks"][name]["tpr_at_fpr"]["0.01"] = record["attacks"][name]["achieved_fpr"]["0.01"] = M
        record["attacks"][name]["pooled"]["0.001"] = POOLED
    record["attacks"]["chosen"] |= {"queries_per_example": 5.0} | changes
    record["attacks"]["chosen"]["tuned"] |= {"settings": [{"queries": 5, "of": 295}] * 3, "shadow_accuracy": [0.95] * 3}
    return record


def test_what_labels_name_stands_beside_lira_and_once():
    said = findings(naming())
    assert (
        "With 5 queries per point, chosen for it on shadow models, labels alone (chosen) name 12.5 % [10.0, 15.0] of "
        "the members at 1 % false positives, and 5.0 % [4.0, 6.0] pooled at 0.1 %; lira, which sees probabilities, "
        "names 12.5 % [10.0, 15.0], and 5.0 % [4.0, 6.0] pooled at 0.1 %."
    ) in said
    of_labels = next(sentence for sentence in said if sentence.startswith("From predicted labels alone, chosen "))
    assert "false positives" not in of_labels
    assert any(
        sentence.startswith("From the probability vector") and "it finds 12.5 %" in sentence for sentence in said
    )


def test_what_labels_name_is_said_of_the_attack_that_did_best_on_shadow_models():
    record = naming()
    record["attacks"]["calibrated"]["tpr_at_fpr"]["0.01"] = M | {"mean": 0.5}  # better, but on the targets
    assert "labels alone (chosen) name" in " ".join(findings(record))
    record["attacks"]["gap"]["tuned"]["shadow_accuracy"] = [1.0] * 3  # named for its access, not for single points
    said = " ".join(findings(record))
    assert "From predicted labels alone, gap " in said and "labels alone (chosen) name 12.5 %" in said


def test_labels_that_name_nobody_are_not_said_to_name():
    wide = M | {"low": 0.0}
    record = naming(tpr_at_fpr={"0.1": M, "0.01": wide, "0.001": None})
    assert "of the members at 1 % false positives (guessing may find as many)" in " ".join(findings(record))
    record = naming(
        tpr_at_fpr={"0.1": M, "0.01": None, "0.001": None}, achieved_fpr=dict.fromkeys(text.RATES), pooled={}
    )
    said = " ".join(findings(record))
    assert "labels alone (chosen) name" not in said and "Its TPR at 1 % FPR is not resolvable" in said
    none = metrics.summary([0.0] * 3)
    record = naming(tpr_at_fpr=dict.fromkeys(text.RATES, none), achieved_fpr=dict.fromkeys(text.RATES, none))
    said = " ".join(findings(record))
    assert "labels alone (chosen) name" not in said and "Its TPR is 0 at FPR <= 1 %" in said


def test_lira_is_named_beside_labels_where_it_was_run_and_offline_beside_offline():
    record = naming()
    record["attacks"]["lira_offline"] = record["attacks"]["lira"]
    assert "%; lira, which sees" in " ".join(findings(record))
    record["attacks"]["chosen"]["every_point"] = {"online": False, "pool": None}
    assert "%; lira offline, which sees" in " ".join(findings(record))
    del record["attacks"]["lira"], record["attacks"]["lira_offline"]
    assert "which sees probabilities" not in " ".join(findings(record)) and "pooled at 0.1 %." in " ".join(
        findings(record)
    )


def test_the_exposed_records_are_counted_after_what_labels_reveal():
    record, scores = calibrated()
    found = exposed.leading_records(record, scores)
    said = findings(record, found)
    (place,) = [i for i, sentence in enumerate(said) if sentence == exposed.exposed_sentences(found)[0]]
    assert said[place - 1].startswith("From predicted labels") and said[place + 1].startswith("From the probability")
    assert [sentence for i, sentence in enumerate(said) if i != place] == findings(record)


def test_all_queries_that_are_said_add_up_to_the_total():
    record, _ = modern()
    record["queries"] |= {"repeated": 7, "failed": 5, "total": record["queries"]["total"] + 12}
    sentence = next(sentence for sentence in findings(record) if sentence.startswith("Every query counted"))
    total, *parts = (int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", sentence))
    assert total == sum(parts) == 6392


def test_attacks_that_judge_every_point_are_missed_one_by_one_once_one_of_them_ran():
    def untested(record: dict) -> str:
        return next(sentence for sentence in findings(record) if sentence.startswith("Not tested: "))

    record, _ = modern()
    assert "all that judge every point by itself" in untested(record) and "oslo" not in untested(record)
    record["attacks"]["chosen:5"] = record["attacks"]["noise"] | {"every_point": {"online": True, "pool": None}}
    assert "chosen crafted" in untested(record) and "chosen," not in untested(record)
    assert "oslo" in untested(record) and "all that judge every point" not in untested(record)


def test_a_balanced_split_is_that_of_an_attacker_with_the_candidates_and_said_once():
    record, _ = modern()
    record["split"]["shadow_overlap"] = {"members": 1.0, "nonmembers": 1.0}
    assert "100% of a target's members" in " ".join(findings(record))
    record["config"] |= {"split": "balanced", "tuning_shadows": 1}
    said = " ".join(findings(record))
    assert (
        "2 shadow models per target, those with one threshold on 1 of them, trained like it on random halves of the "
        in said
    )
    assert "the attacker who can train on the candidates themselves" in said and "of a target's members" not in said


def test_findings_mention_a_cap_and_a_target_that_changed_its_answers():
    record, _ = synthetic()
    plain = " ".join(findings(record))
    assert "unfinished" not in plain and "Queried again" not in plain
    record["attacks"]["noise"]["finished"] = 0.75
    record["models"]["flip_rate"] = metrics.summary([0.0, 0.25, 0.5])
    said = " ".join(findings(record))
    assert "noise (25%)" in said and "Queried again, targets changed 25.0 %" in said


@pytest.mark.parametrize("name", NAMES)
def test_findings_can_be_said_of_any_single_attack(name):
    record, _ = synthetic()
    record["attacks"] = {name: record["attacks"][name]}
    said = " ".join(findings(record))
    assert ("predicted labels alone" in said) == (NAMES[name] == "label")
    assert ("the probability vector" in said) == (NAMES[name] == "confidence")
    assert ("gap attack (member iff labelled correctly) was not run" in said) == (name != "gap")


def test_an_epsilon_stands_in_the_report_with_all_it_depends_on():
    record, _ = synthetic()
    assert not any("private" in sentence for sentence in findings(record))
    record["models"]["privacy"] = {"epsilon": 8.0, "delta": 0.01, "statement": "epsilon 8 at delta 0.01 for one row"}
    assert "Training was private: epsilon 8 at delta 0.01 for one row." in findings(record)


def test_findings_name_what_is_odd_and_nothing_where_all_is_well():
    record, _ = modern()
    plain = findings(record)
    record["data"] |= {"duplicate_rows": 12, "classes_without_rows": [3, 7]}
    record["split"] |= {"shadow_overlap": {"members": 0.5, "nonmembers": 0.25}, "note": "All rows are used."}
    record["queries"]["failed"] = 1300
    record["attacks"]["noise"]["never_flipped"] = 0.125
    record["attacks"]["noise"]["tuned"]["at_edge"] = ["sigma=0.3 is the largest tried", None, None]
    odd = [sentence for sentence in findings(record) if sentence not in plain]
    for part in (
        "12 of the 1,797 rows of the pool equal an earlier one",
        "no rows of 2 of its 10 classes: 3, 7.",
        "trained on 50% of a target's members and 25% of its non-members",
        "All rows are used.",
        "they count as the farthest: noise (12.5%).",
        "noise (sigma=0.3 is the largest tried for 1 of 3 targets)",
        "6,380 times: attacks put 300 queries to targets and 6,000 to shadow models, 80 measured accuracy and checked "
        "answers; 1,300 queries got no answer",
    ):
        assert [part in sentence for sentence in odd].count(True) == 1, part
    assert len(odd) == 7 and len(findings(record)) == len(plain) + 6  # that on queries is always there


def test_an_attack_on_gradients_adds_no_queries():
    record, _ = modern()
    record["attacks"]["noise"]["access"] = "gradient"
    assert "attacks put 200 queries to targets and 4,000 to shadow models, 80 " in " ".join(findings(record))


@pytest.mark.parametrize(
    "settings, said",
    [
        ([{}, {}], ""),
        ([], ""),
        ([{"sigma": 0.2, "queries": 500}] * 2, "sigma 0.2; queries 500"),
        ([{"p": 0.0224215}, {"p": 0.1}, {"p": 0.1}], "p 0.1 (2), p 0.02242 (1)"),
        ([{"statistic": "logit of the true label"}], "statistic logit of the true label"),
    ],
)
def test_chosen_settings_are_words(settings, said):
    assert text.chosen_settings(settings) == said
