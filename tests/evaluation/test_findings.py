"""What is said of a run in plain words: the table and the findings."""

import re

import pytest

from mi_jax.evaluation import metrics, text
from mi_jax.evaluation.findings import findings
from tests.evaluation.records import NAMES, modern, synthetic


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
    assert cells == ["noise", "label", "123.5", "71.2 % [60.0, 82.4]", "0.765 [0.700, 0.800]", "not resolvable"]
    record["attacks"]["noise"]["tpr_at_fpr"]["0.01"] = {"mean": 0.125, "low": 0.0, "high": 0.5, "values": []}
    assert text.table(record).split("\n")[3].endswith("12.5 % [0.0, 50.0]")


def test_a_single_target_has_numbers_without_intervals_everywhere(tmp_path, blank):
    record, scores = synthetic(targets=1)
    report.write(tmp_path, record, scores)
    assert "[" not in text.table(record)
    assert "None" not in text.table(record) + " ".join(findings(record))
    read, _ = report.read(tmp_path)
    assert read["attacks"]["gap"]["auc"]["low"] is None


def test_a_single_target_at_chance_is_not_said_to_leak():
    record, _ = synthetic(targets=1)
    for entry in record["attacks"].values():
        entry["balanced_accuracy"] = {"mean": 0.5, "low": None, "high": None, "values": [0.5]}
    assert ") distinguishes members from non-members" not in " ".join(findings(record))


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
    assert text.table(record).split("\n")[3].endswith("  0 at FPR <= 1 % (scores too coarse)")
    assert " ".join(findings(record)).count("many points share the highest one") == 2  # labels, probabilities
    for entry in record["attacks"].values():
        entry["tpr_at_fpr"]["0.01"] = metrics.summary([0.1, 0.0, 0.2])
    assert "too coarse" not in text.table(record) and text.table(record).count("10.0 % [") == 3
    assert " ".join(findings(record)).count("At 1 % false positives it finds 10.0 %") == 2


def test_findings_name_access_cost_and_what_was_not_tested():
    record, _ = synthetic()
    said = " ".join(findings(record))
    assert "predicted labels alone" in said and "the probability vector" in said
    best = max(("gap", "noise"), key=lambda name: record["attacks"][name]["balanced_accuracy"]["mean"])
    assert f"{record['attacks'][best]['queries_per_example']:.1f} queries per example" in said
    assert f"best attack ({best})" in said
    untested = next(sentence for sentence in findings(record) if sentence.startswith("Not tested: "))
    for name in ("rotation", "translation", "confidence network", "decision boundary"):
        assert name in untested
    for name in ("gap", "noise", "confidence threshold"):
        assert name not in untested


def test_findings_say_no_more_of_the_setting_than_the_record_does():
    record, _ = synthetic()
    record["config"] = {"dataset": "mine", "num_shadows": 2}  # as audit.audit leaves it
    said = " ".join(findings(record))
    assert "defenses other than the targets' own" in said and "2 shadow models per target, trained like it. An" in said
    for split, rows in {"disjoint": "on rows disjoint", "swap": "on its own", "balanced": "on random halves"}.items():
        record["config"]["split"] = split
        assert f"trained like it {rows}" in " ".join(findings(record))


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
