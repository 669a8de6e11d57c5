"""Limits on what a model may leak: who breaks them, who keeps them, and what these data do not decide."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import mi_jax
from mi_jax.evaluation import gate, metrics, report
from tests import programs

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"
DIGITS = RECORDS / "audit-digits"


@pytest.fixture(scope="module")
def digits():
    return report.read(DIGITS)


def drawn_alike(seed, points=200, names=("gap", "noise", "chosen:5"), targets=1):
    """(record, scores) of targets whose members and non-members are alike, with thresholds fixed beforehand."""
    rng, shape = np.random.default_rng(seed), (targets, 2 * points)
    is_member = np.tile(np.arange(2 * points) < points, (targets, 1))
    scores = {"is_member": is_member, "rows": np.tile(np.arange(2 * points), (targets, 1))}
    attacks = {}
    for name in names:
        scores[f"attack/{name}/scores"] = drawn = rng.normal(size=shape)
        values = [metrics.balanced_accuracy(s, m, 0.0) for s, m in zip(drawn, is_member, strict=True)]
        attacks[name] = {"access": "label", "queries_per_example": 1.0, "balanced_accuracy": metrics.summary(values),
                         "tuned": {"threshold": [0.0] * targets}}  # fmt: skip
    return {"attacks": attacks, "models": {"train_accuracy": {"values": [1.0] * targets}}}, scores


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
             "exposed@0.1:0", "advantages:0.1", "tpr@:0.1",
             "exposed:inf", "advantage:nan", "tpr@nan:0.1", "<script>:0.1"]
)  # fmt: skip
def test_a_limit_that_is_none_is_named(text):
    with pytest.raises(ValueError, match=re.escape(f"limit {text!r}: expected advantage:NUMBER")):
        gate.parse_limits([text])


def test_rates_of_members_drawn_alike_keep_the_gate():
    """A limit at the rate itself: guessing reaches it, and at most 5 of 100 seeds break it, for one target and four."""
    limits, broken = gate.parse_limits(["tpr@0.01:0.01", "tpr@0.1:0.1"]), np.zeros(2, int)
    for seed in range(100):
        for targets in (1, 4):
            checked = gate.check_limits(*drawn_alike(seed, targets=targets), limits)
            broken[targets > 1] += any(one.verdict == gate.BROKEN for one in checked)
    assert (broken <= 5).all(), broken


@pytest.mark.slow
def test_a_null_control_of_a_whole_audit_passes_the_gate():
    """Known rows drawn alike, a model that knows none, thresholds cross-fitted: at most 5 of 100 seeds break."""
    limits, broken = gate.parse_limits(["advantage:0.05", "tpr@0.1:0.1", "exposed:0"]), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x, weights = rng.random((400, 4)), rng.normal(size=4)
        y = ((x - 0.5) @ weights + 0.3 * rng.normal(size=400) > 0).astype(int)
        known = (x[:200], y[:200]), (x[200:], y[200:])
        audited = mi_jax.audit_model(lambda rows, w=weights: ((rows - 0.5) @ w > 0).astype(int), *known,
                                     attacks=["gap", "noise"], budget=10, seed=seed)  # fmt: skip
        broken += gate.any_broken(gate.check_limits(audited.record, audited.scores, limits))
    assert broken <= 5


def test_targets_that_agree_are_judged_by_their_points():
    """Student's interval of equal values has no width; it would break any limit below them."""
    record, scores = drawn_alike(0, points=50, targets=2, names=("gap",))
    record["attacks"]["gap"]["balanced_accuracy"] = {"mean": 0.56, "values": [0.56, 0.56]}
    (found,) = gate.check_limits(record, scores, gate.parse_limits(["advantage:0.1"]))
    assert found.verdict == gate.UNDECIDED and "over points" in found.reason
    assert found.measured["high"] - found.measured["low"] > 0.1


def test_intervals_are_over_targets_where_they_differ_and_over_all_points_for_a_rate_that_none_resolves(digits):
    advantage, coarse, fine = gate.check_limits(
        *digits, gate.parse_limits(["advantage:0.1", "tpr@0.01:0.05", "tpr@0.001:0.01"])
    )
    assert "over targets" in advantage.reason and "over targets" in coarse.reason and "over points" in fine.reason
    assert all("the strongest of 8 attacks on labels" in one.reason for one in (advantage, coarse, fine))
    assert advantage.measured == gate.advantage(*digits, "chosen:25", 1 - 0.05 / 8)


def test_a_rate_that_one_attack_does_not_resolve_is_not_kept():
    record, scores = drawn_alike(0, points=1000, names=("gap", "noise"))
    assert gate.check_limits(record, scores, gate.parse_limits(["tpr@0.01:0.2"]))[0].verdict == gate.KEPT
    scores["attack/noise/scores"][:, 1050:] = np.nan  # a cap left these non-members unfinished
    (found,) = gate.check_limits(record, scores, gate.parse_limits(["tpr@0.01:0.2"]))
    assert found.verdict == gate.UNDECIDED and "do not resolve a rate of 0.01" in str(found)


def test_a_rate_at_which_nobody_is_named_is_kept_and_said_to_be_out_of_reach():
    record, scores = drawn_alike(0, points=1000, names=("gap",))
    scores["attack/gap/scores"] = (scores["attack/gap/scores"] > -1).astype(float)
    (found,) = gate.check_limits(record, scores, gate.parse_limits(["tpr@0.01:0.05"]))
    assert found.verdict == gate.KEPT and "calls anybody a member at so low a rate" in found.reason


def judging_every_point(named_members, named_others, points=400):
    """(record, scores) of an attack that names so many members and non-members, and surely no others."""
    record, scores = drawn_alike(0, points=points, names=("chosen:5",))
    rate = np.full((1, 2 * points), 0.9)
    rate[0, :named_members] = rate[0, points : points + named_others] = 1e-9
    scores |= {"labels": np.zeros_like(scores["rows"]), "attack/chosen:5/false_positive_rate": rate}
    record["attacks"]["chosen:5"] = record["attacks"]["chosen:5"] | {"every_point": {"online": True, "pool": None}}
    return record, scores


@pytest.mark.parametrize(
    "named, limit, verdict",
    [((0, 0), 0, "kept"), ((5, 5), 0, "undecided"), ((5, 5), 5, "kept"), ((60, 0), 0, "broken"),
     ((60, 0), 59, "undecided")],
)  # fmt: skip
def test_exposed_counts_members_that_chance_does_not_name(named, limit, verdict):
    (found,) = gate.check_limits(*judging_every_point(*named), gate.parse_limits([f"exposed:{limit}"]))
    assert found.verdict == verdict and found.measured["high"] == named[0]
    assert f"{named[0]} of 400 members and {named[1]} of 400 non-members" in found.reason


def test_without_an_attack_on_labels_nothing_is_decided(digits):
    record, scores = digits
    seen = record | {"attacks": {"lira": record["attacks"]["lira"]}}
    limits = gate.parse_limits(["advantage:0.1", "tpr@0.01:0.1", "exposed:0"])
    assert {one.verdict for one in gate.check_limits(seen, scores, limits)} == {gate.UNDECIDED}


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
