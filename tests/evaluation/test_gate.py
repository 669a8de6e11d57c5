import json
import re
from pathlib import Path

import numpy as np
import pytest

import mi_jax
from mi_jax.evaluation import compare, gate, report, verdict
from tests import programs

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"
DIGITS = RECORDS / "audit-digits"


@pytest.fixture(scope="module")
def digits():
    return report.read(DIGITS)


def drawn_alike(seed, points=200, names=("gap", "noise", "chosen:5")):
    """(record, scores) of one target whose members and non-members are alike, with thresholds fixed beforehand."""
    rng = np.random.default_rng(seed)
    is_member = np.arange(2 * points)[None] < points
    scores = {"is_member": is_member, "rows": np.arange(2 * points)[None]}
    scores |= {f"attack/{name}/scores": rng.normal(size=(1, 2 * points)) for name in names}
    entry = {"access": "label", "queries_per_example": 1.0, "balanced_accuracy": {"mean": 0.5, "values": [0.5]},
             "tuned": {"threshold": [0.0]}}  # fmt: skip
    return {"attacks": dict.fromkeys(names, entry), "models": {"train_accuracy": {"values": [1.0]}}}, scores


def test_a_null_control_passes_the_gate():
    """Members and non-members drawn alike break a limit of no advantage at all in at most 5 of 100 seeds."""
    limits, broken = gate.parse_limits(["advantage:0", "advantage:0.05"]), np.zeros(2, int)
    for seed in range(100):
        checked = gate.check_limits(*drawn_alike(seed), limits)
        broken += [one.verdict == gate.BROKEN for one in checked]
        assert all(one.measured["low"] > one.limit.value for one in checked if one.verdict == gate.BROKEN)
    assert broken[0] <= 5 and broken[1] == 0, broken


def test_a_leak_breaks_the_gate_and_few_points_leave_it_undecided(digits):
    limits = gate.parse_limits(["advantage:0.1", "tpr@0.01:0.05", "exposed:0", "advantage:0.9", "tpr@1e-6:0.5"])
    verdicts = [one.verdict for one in gate.check_limits(*digits, limits)]
    assert verdicts == [gate.BROKEN, gate.BROKEN, gate.BROKEN, gate.KEPT, gate.UNDECIDED]
    (few,) = gate.check_limits(*drawn_alike(0, points=10), gate.parse_limits(["advantage:0.1"]))
    assert few.verdict == gate.UNDECIDED and "at 98.3 %" in str(few)


def test_a_limit_is_kept_only_if_every_attack_keeps_it():
    record, scores = drawn_alike(0, points=2000, names=("gap", "noise"))
    scores["attack/noise/scores"] += scores["is_member"]  # shifted by one deviation
    (found,) = gate.check_limits(record, scores, gate.parse_limits(["advantage:0.2"]))
    assert found.verdict == gate.BROKEN and found.attack == "noise"


@pytest.mark.parametrize(
    "text", ["", "advantage", "advantage:x", "advantage:-1", "advantage:2", "tpr:0.1", "tpr@2:0.1", "tpr@0.1:2",
             "exposed@0.1:0", "advantages:0.1", "tpr@:0.1"]
)  # fmt: skip
def test_a_limit_that_is_none_is_named(text):
    with pytest.raises(ValueError, match=re.escape(f"limit {text!r}: expected advantage:NUMBER")):
        gate.parse_limits([text])


def test_the_verdict_says_who_what_and_what_not(digits):
    record, scores = digits
    said = " ".join(verdict.sentences(record | {"price_per_1000": 2.0}, scores))
    for words in ("by the attack “25 chosen queries”" if "25 chosen" in said else "by the attack", "sees probabilities",
                  "false discovery rate", "at 2 for 1,000", "no rate below 1 in 6,400", "Not tested: "):  # fmt: skip
        assert words in said, words
    box = verdict.box(record | {"limits": ["advantage:0.1", "advantage:0.9"]}, scores)
    assert "1 of 2 limits broken." in box and "AML.T0024" in box and "NIST AI 100-2" in box and "AISVS" in box


def test_text_of_the_user_is_escaped_in_the_verdict():
    record, scores = drawn_alike(0, names=("<script>alert(1)</script>",))
    box = verdict.box(record | {"limits": ["advantage:0.1"]}, scores)
    assert "<script" not in box and "&lt;script" in box


def test_the_same_points_are_compared_point_by_point_and_others_as_independent(digits):
    found = compare.compare_audits(digits, digits)
    assert found["paired"] and found["attacks"]["noise"]["balanced_accuracy"]["mean"] == 0
    assert (
        found["attacks"]["noise"]["balanced_accuracy"]["low"]
        < 0
        < found["attacks"]["noise"]["balanced_accuracy"]["high"]
    )
    others = compare.compare_audits(digits, report.read(RECORDS / "audit-digits-disjoint"))
    change = others["attacks"]["gap"]["auc"]
    assert not others["paired"] and change["low"] < change["mean"] < change["high"]
    assert "other points" in compare.comparison_table(
        others
    ) and "<h1>Compared: &lt;a and b" in compare.comparison_page(others, ("<a", "b"))


def test_two_reports_without_a_common_attack_are_refused(digits):
    record, scores = digits
    with pytest.raises(ValueError, match="expected a common one"):
        compare.compare_audits(digits, (record | {"attacks": {}}, scores))


def test_commands_end_with_1_where_a_limit_is_broken_and_2_where_it_is_none(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    x, y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2

    def predict(rows):  # right on members alone
        return np.where(rows[:, 0] < 40, rows[:, 0] // 2 % 2, 1 - rows[:, 0] // 2 % 2).astype(int)

    audited = mi_jax.audit_model(predict, (x[:20], y[:20]), (x[20:], y[20:]), attacks=["gap"])
    for folder in (run, other):
        audited.write(folder)
    broken = programs.run_program("experiments.audit", f"--from={run}", "--fail_above=advantage:0.5,exposed:0")
    assert broken.returncode == 1 and "limit advantage:0.5: broken" in broken.stdout, broken.stderr
    assert json.loads((run / "report.json").read_text())["limits"] == ["advantage:0.5", "exposed:0"]
    assert "1 of 2 limits broken" in (run / "report.html").read_text()
    kept = programs.run_program("experiments.audit", f"--from={run}", "--fail_above=advantage:1")
    assert kept.returncode == 0 and "limit advantage:1: kept" in kept.stdout
    wrong = programs.run_program("experiments.audit", f"--from={run}", "--fail_above=advantage")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: limit 'advantage': expected")
    compared = programs.run_program("mi_jax", "compare", str(run), str(other), f"--page={tmp_path}/page.html")
    assert compared.returncode == 0 and "the same points" in compared.stdout and (tmp_path / "page.html").exists()
    assert programs.run_program("mi_jax", "compare", str(run)).returncode == 2
