"""A run on disk: written whole or not at all, and read back as it was."""

import copy
import json
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.evaluation import exposed, plots, report
from tests.evaluation.records import modern, synthetic
from tests.evaluation.test_exposed import calibrated


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with the run of `synthetic()`, never changed."""
    folder = tmp_path_factory.mktemp("finished")
    report.write(folder, *synthetic())
    return folder


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def blank(monkeypatch):
    """Figures cost a second each; where only files matter, they are drawn and not rendered."""
    monkeypatch.setattr(plots, "png", lambda figure: b"\x89PNG")
    monkeypatch.setattr(plots, "svg", lambda figure: "<svg></svg>")


def test_a_run_is_read_back_as_it_was_written(tmp_path, blank):
    record, scores = synthetic()
    before = copy.deepcopy(record)
    report.write(tmp_path, record, scores)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.FILES)
    read, arrays = report.read(tmp_path)
    assert record == before  # writing changes nothing in memory
    expected = copy.deepcopy(record)
    expected["attacks"]["noise"]["tuned"]["threshold"][-1] = "inf"
    assert read == expected
    assert arrays.keys() == scores.keys()
    for name, array in scores.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_report_json_is_plain_json_without_infinities(finished):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads((finished / "report.json").read_text(), parse_constant=refuse)


def test_redrawing_changes_neither_the_record_nor_a_byte_of_what_is_drawn(folder):
    before = {name: (folder / name).read_bytes() for name in report.FILES}
    for name in ("roc.png", "scores.png", "report.html"):
        (folder / name).unlink()
    drawn = report.draw(folder)
    assert {name: (folder / name).read_bytes() for name in report.FILES} == before
    assert report.table(drawn) == report.table(synthetic()[0])


def test_a_run_may_be_drawn_into_another_folder(finished, tmp_path, blank):
    report.draw(finished, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "roc.png", "scores.png"]


def test_a_per_example_attack_adds_the_list_of_exposed_records_and_redrawing_makes_it_again(tmp_path, blank):
    record, scores = calibrated()
    report.write(tmp_path, record, scores)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*report.FILES, report.EXPOSED])
    before = {name: (tmp_path / name).read_bytes() for name in (report.EXPOSED, "report.html")}
    assert before[report.EXPOSED] == exposed.csv_bytes(exposed.exposed_records(record, scores, "chosen"))
    assert b"<h2>Exposed records</h2>" in before["report.html"]
    (tmp_path / report.EXPOSED).unlink()
    report.draw(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    report.draw(tmp_path, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / report.EXPOSED).read_bytes() == before[report.EXPOSED]


def test_the_list_of_another_run_does_not_stay_beside_a_run_without_one(tmp_path, blank):
    report.write(tmp_path, *calibrated())
    report.write(tmp_path, *modern())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.FILES)
    assert b"Exposed records" not in (tmp_path / "report.html").read_bytes()


def test_rates_that_are_no_probabilities_are_refused_before_a_file_is_written(tmp_path, blank):
    record, scores = calibrated()
    scores["attack/chosen/false_positive_rate"][0, 0] = 2
    with pytest.raises(ValueError, match="^record: .*expected a vector of probabilities"):
        report.write(tmp_path / "run", record, scores)
    assert not (tmp_path / "run").exists()


def test_files_can_be_read_by_others(finished):
    assert {path.stat().st_mode & 0o777 for path in finished.iterdir()} == {0o644}


@pytest.mark.parametrize("failing", report.FILES)
def test_a_write_that_fails_leaves_no_temporary_and_no_half_written_file(tmp_path, monkeypatch, blank, failing):
    record, scores = synthetic()
    replace = os.replace

    def fail(source, target):
        if Path(target).name == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        report.write(tmp_path, record, scores)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= set(report.FILES) - {failing}


def test_a_failing_rewrite_keeps_the_old_file(folder, monkeypatch):
    record, scores = synthetic()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        report.write(folder, record | {"split_digest": "another"}, scores)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name, key", [("models", "train_accuracy"), ("attacks", "noise")])
def test_a_record_that_cannot_be_drawn_leaves_nothing_behind(tmp_path, name, key):
    record, scores = synthetic()
    if name == "models":
        record[name][key]["mean"] = float("nan")
    else:
        record[name][key]["tuned"]["threshold"] = "x"  # only a figure needs it
    with pytest.raises(ValueError, match="^record: report.json cannot be drawn .*, expected the record of a run$"):
        report.write(tmp_path, record, scores)
    assert not list(tmp_path.iterdir())


MALFORMED = {
    "attacks a list": lambda record: record.update(attacks=[]),
    "an attack null": lambda record: record["attacks"].update(gap=None),
    "auc null": lambda record: record["attacks"]["gap"].update(auc=None),
    "data a number": lambda record: record.update(data=5),
    "threshold": lambda record: record["attacks"]["gap"]["tuned"].update(threshold="x"),
    "access": lambda record: record["attacks"]["gap"].update(access="x"),
    "no shadow models": lambda record: record["config"].update(num_shadows="x"),
}


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_record_is_refused_in_one_line_that_names_its_folder(folder, spoil, blank):
    record = json.loads((folder / "report.json").read_text())
    spoil(record)
    (folder / "report.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="expected the record of a run") as caught:
        report.draw(folder)
    assert str(caught.value).startswith(f"{folder}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [[], ["noise"]])
def test_a_record_without_attacks_or_without_gap_is_drawn(folder, kept, blank):
    record = json.loads((folder / "report.json").read_text())
    record["attacks"] = {name: record["attacks"][name] for name in kept}
    record["config"]["dataset"] = 5
    (folder / "report.json").write_text(json.dumps(record))
    assert report.draw(folder) == record


ODD = {
    "a path": (Path("a/b"), "a/b"),
    "bytes": (b"\xff", "b'\\xff'"),
    "complex": (1 + 2j, "(1+2j)"),
    "NaN": (float("nan"), "nan"),
    "NumPy's NaN": (np.float64("nan"), "nan"),
    "a set": (frozenset({"b", "a"}), ["a", "b"]),
    "a long double": (np.longdouble(1), "1.0"),
    "an array": (np.array([1.0, np.inf]), [1.0, "inf"]),
    "JAX's": ({"a": [jnp.float32(0.5), jnp.arange(2)]}, {"a": [0.5, [0, 1]]}),
    "none": (None, None),
}


@pytest.mark.parametrize("value, expected", ODD.values(), ids=ODD)
def test_whatever_a_user_names_or_sets_is_written_as_json_takes_it(tmp_path, blank, value, expected):
    record, scores = modern(targets=1)
    record["config"]["dataset"] = record["data"]["source"] = value
    record["attacks"]["noise"]["tuned"]["settings"] = [{"own": value}]
    report.write(tmp_path, record, scores)
    read, _ = report.read(tmp_path)
    found = [read["config"]["dataset"], read["data"]["source"], read["attacks"]["noise"]["tuned"]["settings"][0]["own"]]
    assert found == [expected] * 3
    assert json.dumps(report.jsonable(jax.random.key(0)))


def test_characters_that_xml_does_not_allow_are_replaced_where_they_are_drawn(tmp_path):
    record, scores = modern(targets=1)
    name = "a\x01\udcff\x1b"
    record["config"]["dataset"] = record["data"]["source"] = name
    report.write(tmp_path, record, scores)
    assert report.read(tmp_path)[0]["config"]["dataset"] == name
    drawn = (tmp_path / "report.html").read_text()
    assert "a\ufffd\ufffd\ufffd" in drawn and "\x01" not in drawn
    for svg in re.findall("<svg.*?</svg>", drawn, re.DOTALL):
        ElementTree.fromstring(svg.replace("xlink:", ""))


@pytest.mark.parametrize("missing", ["report.json", "scores.npz"])
def test_a_folder_without_a_record_is_refused_by_name(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        report.read(folder)


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "overwritten": lambda content: content[:200] + b"\xff" * 200 + content[400:],
    "text": lambda content: b"not a record",
    "binary": lambda content: b"\x80\x04\x95\x00",
}


@pytest.mark.parametrize("name", ["report.json", "scores.npz"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_refused_in_one_line(folder, name, damage):
    (folder / name).write_bytes(DAMAGE[damage]((folder / name).read_bytes()))
    with pytest.raises(ValueError, match="the record cannot be read") as caught:
        report.read(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"attacks": {}}'])
def test_json_that_is_no_record_is_refused(folder, content, blank):
    (folder / "report.json").write_text(content)
    with pytest.raises(ValueError, match="expected the record of a run"):
        report.draw(folder)


def test_scores_without_the_arrays_of_an_attack_are_refused(folder):
    _, scores = synthetic()
    del scores["attack/noise/scores"]
    np.savez(folder / "scores.npz", **scores)
    with pytest.raises(ValueError, match="attack/noise/scores"):
        report.draw(folder)


def test_scores_that_hold_objects_are_refused(folder):
    """An object array is a pickle, and a pickle runs code."""
    _, scores = synthetic()
    np.savez(folder / "scores.npz", **scores | {"rows": np.array([{"a": 1}], object)})
    with pytest.raises(ValueError, match="the record cannot be read"):
        report.read(folder)


def test_whatever_an_audit_returns_is_written_in_one_call_and_read_back(tmp_path, blank):
    """As a user of `audit.audit` has it: NumPy's numbers, and no flags, environment or seconds."""
    record, scores = modern(targets=1)
    for key in ("environment", "seconds", "split_digest", "data", "split", "queries"):
        del record[key]
    record["attacks"]["noise"]["tuned"] |= {
        "threshold": [np.float32(np.inf)],
        "settings": ({"sigma": np.float64(0.5)},),
    }
    report.write(str(tmp_path / "mine"), record, scores)
    read, _ = report.read(str(tmp_path / "mine"))
    assert read["attacks"]["noise"]["tuned"]["threshold"] == ["inf"]
    assert read["attacks"]["noise"]["tuned"]["settings"] == [{"sigma": 0.5}]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == sorted(report.FILES)
    page = (tmp_path / "mine" / "report.html").read_text()
    assert "noise" in page and "None" not in page and "null" not in page


@pytest.mark.parametrize(
    "path", ["config", "config/num_shadows", "models/flip_rate", "attacks/noise/auc", "attacks/gap/tuned/threshold"]
)
def test_a_record_without_what_a_report_needs_is_refused_before_a_file_is_written(tmp_path, path):
    record, scores = modern()
    *parents, last = path.split("/")
    inside = record
    for key in parents:
        inside = inside[key]
    del inside[last]
    with pytest.raises(ValueError, match=f"^record: expected what audit.audit returns, {path}[a-z/]* is missing$"):
        report.write(tmp_path / "run", record, scores)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_read_is_named_by_its_folder_and_by_no_flag(tmp_path):
    with pytest.raises(ValueError) as caught:
        report.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: expected a folder with report.json") and "--" not in str(
        caught.value
    )
