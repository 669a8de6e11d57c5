"""What every record holds, and what is left of the parts it was made from."""

import json
import sys
from pathlib import Path

import pytest

from experiments.claims import __main__ as claims
from experiments.paper import records, tables
from mi_jax import store

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"
COMMITTED = sorted(RECORDS.rglob("record.json"))


def rows_beside_the_paper(node: object, path: str = "") -> dict[str, tuple[float, float]]:
    """Path of a row in a record -> (our accuracy, the paper's), both in per cent."""
    if not isinstance(node, dict):
        return {}
    if isinstance(node.get("paper"), int | float) and "balanced_accuracy" in node:
        return {path: (100 * node["balanced_accuracy"]["mean"], node["paper"])}
    found = [rows_beside_the_paper(value, f"{path}/{name}".strip("/")) for name, value in node.items()]
    return {name: row for part in found for name, row in part.items()}


def test_rows_beside_the_paper_are_found_wherever_they_stand():
    row = {"balanced_accuracy": {"mean": 0.8}, "paper": 75}
    record = {"sizes": {"100": {"attacks": {"gap": row, "noise": row | {"paper": None}}}}, "command": "x"}
    assert rows_beside_the_paper(record) == {"sizes/100/attacks/gap": (80, 75)}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.parent.relative_to(path.parents[2])))
def test_a_number_far_from_the_papers_has_its_reason_beside_it(path):
    far = {name for name, (ours, paper) in rows_beside_the_paper(json.loads(path.read_text())).items()
           if abs(ours - paper) > 3}  # fmt: skip
    why = path.with_name("why.json")
    reasons = json.loads(why.read_text()) if why.is_file() else {}
    of_claims = {name for name in reasons if name.startswith("claim ")}
    assert reasons.keys() - of_claims == far and all(isinstance(t, str) and len(t) > 20 for t in reasons.values())
    assert of_claims <= {f"claim {name}" for name in failing(path)}


def failing(path: Path) -> set[str]:
    """The claims that a record decides and that fail."""
    lines = list(claims.check_claims(RECORDS))
    return {name for line, (name, claim) in zip(lines, claims.CLAIMS.items(), strict=True)
            if line.startswith("fails") and RECORDS / claim.source.record == path}  # fmt: skip


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.parent.relative_to(path.parents[2])))
def test_a_committed_record_holds_its_command_and_what_it_differs_in(path):
    record = json.loads(path.read_text())
    assert record["command"].startswith("python -m experiments.") and record["seconds"] >= 0 and record["differs"]


@pytest.mark.parametrize("path", [path for path in COMMITTED if "fig5_6" in str(path)], ids=lambda p: p.parent.name)
def test_no_two_defenses_of_a_record_gave_the_same_answers(path):
    """As they would if one's models stood under the other's name."""
    seen = {}
    for text, entry in json.loads(path.read_text())["defenses"].items():
        answers = json.dumps(entry["not_adaptive"], sort_keys=True)
        assert seen.setdefault(answers, text) == text


def test_the_cache_of_a_record_is_removed_when_all_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--preset=cpu", "--out=/some/place", "--data_dir", "/other"])
    own, entry = tmp_path / "a" / "b", {"environment": {"run_digest": "12"}}
    store.cache_in(own / "cache" / "12")("part", lambda: {"x": 1})
    run = {"command": "python -m x --seed=1 --out=/some/place --data_dir /other --only=a,b"}
    records.write(tmp_path, {"number": 1.5, "rows": {"a": {"environment": run}}}, differs=("in this",))
    assert (own / "cache" / "12").is_dir()
    found = json.loads((tmp_path / "record.json").read_text())
    assert found["command"].endswith(" --preset=cpu") and found["differs"] == ["in this"] and found["number"] == 1.5
    assert found["rows"]["a"]["environment"]["command"] == "python -m x --seed=1 --only=a,b"
    records.remove_caches(tmp_path, entry)
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_row_of_one_target_shows_the_interval_over_points():
    many = {"balanced_accuracy": {"mean": 0.75, "low": 0.7, "high": 0.8}, "paper": 76.1}
    one = {"balanced_accuracy": {"mean": 0.75, "low": None, "high": None},
           "over_points": {"mean": 0.75, "low": 0.72, "high": 0.78}, "paper": None}  # fmt: skip
    assert tables.format_accuracy(many) == "75.0 % [70.0, 80.0] (paper 76.1)"
    assert tables.format_accuracy(one) == "75.0 % [72.0, 78.0] over points"
