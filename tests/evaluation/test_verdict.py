"""The verdict of a report: what it says to who signs off, and that no text of a user becomes a part of the page."""

import re
from pathlib import Path

import numpy as np
import pytest

from mi_jax.evaluation import gate, report, verdict
from tests.evaluation.records import modern
from tests.evaluation.test_exposed import calibrated
from tests.evaluation.test_page import Page

HOSTILE = "<script>alert('1')</script>\"'><img src=x onerror=alert(1)>&amp;"


@pytest.fixture(scope="module")
def digits():
    return report.read(Path(__file__).resolve().parents[2] / "results" / "records" / "audit-digits")


def test_the_verdict_says_who_learns_what_at_what_cost_and_what_was_not_tested(digits):
    record, scores = digits
    said = verdict.sentences(record | {"price_per_1000": 2.0}, scores)
    words = {
        "Labels alone": ("can tell members", "“chosen:25” with 25 queries", "at 0.1 % false positives", "99.4 %"),
        "Records": ("At a false discovery rate of at most 10 %", "of 6,400 members", "members of class “8”"),
        "Confidences": ("“lira”", "percentage points beside “chosen:25”"),
        "Threat model": ("63 shadow models like the target, some of them with each candidate",),
        "Cost": ("queries to each target", "at 2 for 1,000"),
        "Sample": ("no false positive rate below 1 in 6,400",),
        "Not tested": ("parameters and gradients", "distances to the decision boundary", "attribute inference"),
    }  # fmt: skip
    assert list(said) == list(words)
    for subject, parts in words.items():
        for part in parts:
            assert part in said[subject], (subject, part)
    assert "chosen or crafted" not in said["Not tested"] and "sees probabilities" not in said["Not tested"]


def test_what_the_verdict_says_of_labels_is_what_the_gate_measures(digits):
    (found,) = gate.check_limits(*digits, gate.parse_limits(["advantage:0"]))
    low, mean, high = (f"{100 * found.measured[end]:.1f}" for end in ("low", "mean", "high"))
    assert f"{mean} % [{low}, {high}]" in verdict.sentences(*digits)["Labels alone"]


def test_terms_of_nist_owasp_and_mitre_are_named(digits):
    box = verdict.box(*digits)
    for term in ("NIST AI 100-2", "membership inference", "privacy compromise", "black-box", "label-only",
                 "OWASP AISVS C11.3", "MITRE ATLAS", "AML.T0024.000", "infer training data membership",
                 "exfiltration via an inference API"):  # fmt: skip
        assert term in box, term


@pytest.mark.parametrize(
    "limits, headline, advice, kind",
    [
        ([], "No limit was stated", "Differential privacy alone bounds", ""),
        (["advantage:0.1", "advantage:0.9"], "1 of 2 limits broken.", "Differential privacy alone bounds", "broken"),
        (["tpr@1e-6:0.5", "advantage:0.9"], "No limit is broken; 1 of 2 undecided", "do not decide", "undecided"),
        (["advantage:0.9"], "The limit is kept.", "Another may", "kept"),
    ],
)
def test_the_box_begins_with_the_limits_and_ends_with_advice(digits, limits, headline, advice, kind):
    record, scores = digits
    box = verdict.box(record | {"limits": limits}, scores)
    assert f'<p class="{kind}"><b>{headline}' in box and advice in box and box.count("<li") == len(limits) + 7


def test_a_model_that_leaks_nothing_is_not_said_to():
    record, scores = modern(n=40)
    for name in record["attacks"]:
        scores[f"attack/{name}/scores"] = np.random.default_rng(0).random(scores["is_member"].shape)
        values = [0.5, 0.52, 0.48]
        record["attacks"][name]["balanced_accuracy"] = {"mean": 0.5, "low": 0.45, "high": 0.55, "values": values}
    said = verdict.sentences(record, scores)
    assert "is not shown to beat guessing" in said["Labels alone"] and "nobody could be named" in said["Records"]


def test_one_target_and_a_record_without_rows_have_a_verdict():
    """Older records lack the array; the threshold of a record that was read from a file may be text."""
    record, scores = modern(targets=1)
    record["attacks"]["noise"]["tuned"]["threshold"] = ["inf"]
    del scores["rows"], scores["labels"]
    assert "over guessing" not in verdict.box(record, scores) and "“lira”" not in verdict.box(record, scores)
    assert "An advantage" not in verdict.sentences(record, scores)["Labels alone"]


def test_without_shadow_models_the_thresholds_are_said_to_come_from_known_members():
    record, scores = modern()
    record["config"]["num_shadows"] = 0
    assert "which an attacker seldom has" in verdict.sentences(record, scores)["Threat model"]


def test_without_an_attack_on_labels_the_verdict_says_so():
    record, scores = modern()
    record["attacks"] = {name: entry for name, entry in record["attacks"].items() if entry["access"] != "label"}
    said = verdict.sentences(record, scores)
    assert said["Labels alone"] == "No attack of this audit sees labels alone." and "labels alone" in said["Not tested"]
    assert "No limit was stated" in verdict.box(record, scores)


def test_the_box_stands_first_in_the_page_and_is_self_contained(tmp_path):
    record, scores = calibrated()
    report.write(tmp_path, record | {"limits": ["advantage:0.1"], "price_per_1000": 1.0}, scores)
    page = (tmp_path / "report.html").read_text()
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    assert headings[:2] == ["Verdict", "Findings"] and "script" not in Page(page).tags and "http" not in page


def test_text_of_the_user_is_text_in_the_page(tmp_path):
    """The names of data set, attacks, groups, classes, target and command, in box, tables, figures and notes."""
    record, scores = calibrated()
    hostile = f"{HOSTILE}:5"
    record["config"]["dataset"] = record["environment"]["command"] = HOSTILE
    record["target"] = {"model": HOSTILE, "answers": {HOSTILE: HOSTILE}, "classes": [HOSTILE, "b"], "known": {}}
    record["attacks"][hostile] = record["attacks"].pop("chosen")
    for name in ("scores", "queries", "false_positive_rate"):
        if f"attack/chosen/{name}" in scores:
            scores[f"attack/{hostile}/{name}"] = scores.pop(f"attack/chosen/{name}")
    scores["group"] = np.where(scores["rows"] % 2 > 0, HOSTILE, "b")
    record["queries"]["by_attack"] = {name: {"target": 1, "shadow": 1} for name in record["attacks"]}
    report.write(tmp_path, record | {"limits": ["advantage:0.1"]}, scores)
    page = (tmp_path / "report.html").read_text()
    parsed = Page(page)
    assert "script" not in parsed.tags and not [one for one in parsed.addresses if not one.startswith("data:image/png")]
    assert not re.search(r"<[^>]*\sonerror=", re.sub(r'"[^"]*"', '""', page)) and "<script" not in page.lower()
    assert HOSTILE in parsed.text and "alert('1')</script>" in verdict.sentences(record, scores)["Records"]
    box = verdict.box(record, scores)
    assert set(Page(box).tags) == {"section", "h2", "p", "b", "ul", "li"} and "&lt;script&gt;" in box


def test_the_name_of_an_attack_that_breaks_a_limit_is_text():
    record, scores = modern()
    record["attacks"] = {HOSTILE: record["attacks"]["noise"]}
    scores[f"attack/{HOSTILE}/scores"] = scores["is_member"].astype(float)
    box = verdict.box(record | {"limits": ["advantage:0", "tpr@0.1:0"]}, scores)
    assert set(Page(box).tags) == {"section", "h2", "p", "b", "ul", "li"} and box.count("&lt;script&gt;") >= 3
