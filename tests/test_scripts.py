"""Every script of a table or figure runs at its smoke preset and leaves its record and figure, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# script -> what lies in --out afterwards
LEFT = {
    "fig1_training_size": ["fig1.png", "record.json"],
    "fig2_query_budget": ["fig2.png", "record.json"],
    "figS7_shadow_models": ["figS7.png", "record.json"],
    "table1_images": ["digits/accuracies.png", "digits/record.json"],
    "table2_tabular": ["synthetic-purchase-600/accuracies.png", "synthetic-purchase-600/record.json"],
}


def script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"experiments.{name}", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)


def entries_of(record: dict) -> dict[str, dict]:
    """Every attack in a record, whichever script wrote it."""
    if "attacks" in record:
        return record["attacks"]
    groups = record["shadow_models"] if "shadow_models" in record else record["sizes"]
    return {f"{group} {name}": e for group, part in groups.items() for name, e in part["attacks"].items()}


@pytest.mark.parametrize("name", LEFT)
def test_the_smoke_preset_leaves_record_and_figure(name, tmp_path):
    done = script(name, "--preset=smoke", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == LEFT[name]
    (path,) = tmp_path.rglob("record.json")
    entries = entries_of(json.loads(path.read_text()))
    assert {"gap", "boundary", "noise"} & {name.split()[-1] for name in entries}
    for entry in entries.values():
        accuracy = entry["balanced_accuracy"]
        assert 0 <= accuracy["mean"] <= 1 and len(accuracy["values"]) == 2
        assert entry["queries_per_example"] >= 1
    if name.startswith("table"):
        record = json.loads(path.read_text())["memguard"]
        assert all(record["label_only_identical_to_the_bit"].values()) and record["label_only_identical_to_the_bit"]
        assert record["attacks"]["confidence, not adaptive"]["balanced_accuracy"]["values"] == [0.5, 0.5]


@pytest.mark.parametrize("name", LEFT)
def test_an_unknown_preset_is_one_line(name, tmp_path):
    done = script(name, "--preset=tiny", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        "error: unknown preset 'tiny': known are smoke, cpu, paper"
    ]


def test_a_row_the_preset_does_not_have_is_one_line():
    done = script("table2_tabular", "--preset=cpu", "--only=mnist")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: only=mnist: preset cpu has the data sets location30, adult"
