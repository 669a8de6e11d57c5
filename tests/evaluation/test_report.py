"""A run on disk: written whole or not at all, read back as it was, and said in plain words."""

import copy
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mi_jax.evaluation import metrics, plots, report

NAMES = {"gap": "label", "noise": "label", "confidence_threshold": "confidence"}


def synthetic(*, targets: int = 3, n: int = 20) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) as an audit makes them: three attacks, one with an infinite threshold, TPR null at 1 %."""
    rng = np.random.default_rng(0)
    is_member = np.tile(np.arange(2 * n) < n, (targets, 1))  # [T 2n]
    rows = np.arange(targets * 2 * n, dtype=np.int32).reshape(targets, 2 * n)
    scores = {"rows": rows, "labels": rows % 10, "is_member": is_member}
    scores |= {f"shadow/{name}": array for name, array in scores.items()}
    attacks = {}
    for i, (name, access) in enumerate(NAMES.items()):
        own = np.round(rng.random((targets, 2 * n)) + 0.3 * i * is_member, 1)
        scores[f"attack/{name}/scores"] = scores[f"shadow/attack/{name}/scores"] = own
        scores[f"attack/{name}/queries"] = np.full(own.shape, 1 + 10 * i)
        attacks[name] = _entry(access, own, is_member, queries=1.0 + 10 * i)
    attacks["noise"]["tuned"]["threshold"][-1] = float("inf")
    accuracies = {"train_accuracy": 1.0, "test_accuracy": 0.9, "flip_rate": 0.0}
    return {
        "config": {"dataset": "digits", "model": "mlp", "n_train": n, "num_targets": targets, "num_shadows": 2}
        | {"attacks": list(NAMES), "defense": "none", "seed": 0},
        "environment": {"python": "3.11", "jax": "0.10.2", "device": "1 x cpu", "commit": "unknown"},
        "split_digest": "0123456789abcdef",
        "models": {name: metrics.summary([value] * targets) for name, value in accuracies.items()},
        "attacks": attacks,
        "seconds": {"training": 1.0, "total": 2.0},
    }, scores


def _entry(access: str, scores: np.ndarray, is_member: np.ndarray, *, queries: float) -> dict:
    pairs = list(zip(scores, is_member, strict=True))
    return {
        "access": access,
        "queries_per_example": queries,
        "balanced_accuracy": metrics.summary([metrics.balanced_accuracy(s, m, 0.5) for s, m in pairs]),
        "auc": metrics.summary([metrics.auc(s, m) for s, m in pairs]),
        "tpr_at_fpr": {"0.1": metrics.summary([0.125] * len(pairs)), "0.01": None, "0.001": None},
        "achieved_fpr": {"0.1": metrics.summary([0.05] * len(pairs)), "0.01": None, "0.001": None},
        "finished": 1.0,
        "tuned": {"settings": [{}] * len(pairs), "threshold": [0.5] * len(pairs)},
    }


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

    def png(figure):
        plots.plt.close(figure)
        return b"\x89PNG"

    monkeypatch.setattr(plots, "png", png)


class Page(HTMLParser):
    """The tags of a page, its addresses, its text and the rows of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.rows, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.tags and self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def page_of(record: dict) -> Page:
    return Page(report.page(record, {"roc.png": b"\x89PNG", "scores.png": b"\x89PNG"}))


def test_the_table_has_a_row_for_every_attack_and_aligned_columns():
    record, _ = synthetic()
    header, rule, *rows = report.table(record).split("\n")
    assert [row.split()[0] for row in rows] == list(NAMES)
    assert [row.split()[1] for row in rows] == list(NAMES.values())
    assert set(rule) == {"-"}
    for column in report.HEADER:
        start = header.index(column)
        assert all(row[start - 1] == " " and row[start] != " " for row in rows if start)


def test_the_table_shows_the_means_and_intervals_of_the_record():
    record, _ = synthetic()
    record["attacks"]["noise"] |= {
        "queries_per_example": 123.456,
        "balanced_accuracy": {"mean": 0.7123, "low": 0.6, "high": 0.8239, "values": []},
        "auc": {"mean": 0.76543, "low": 0.7, "high": 0.8, "values": []},
    }
    row = report.table(record).split("\n")[3]
    cells = re.split(r"\s{2,}", row)
    assert cells == ["noise", "label", "123.5", "71.2 % [60.0, 82.4]", "0.765 [0.700, 0.800]", "not resolvable"]
    record["attacks"]["noise"]["tpr_at_fpr"]["0.01"] = {"mean": 0.125, "low": 0.0, "high": 0.5, "values": []}
    assert report.table(record).split("\n")[3].endswith("12.5 % [0.0, 50.0]")


def test_a_single_target_has_numbers_without_intervals_everywhere(tmp_path, blank):
    record, scores = synthetic(targets=1)
    report.write(tmp_path, record, scores)
    assert "[" not in report.table(record)
    assert "None" not in report.table(record) + " ".join(report.findings(record))
    read, _ = report.read(tmp_path)
    assert read["attacks"]["gap"]["auc"]["low"] is None


def test_a_single_target_at_chance_is_not_said_to_leak():
    record, _ = synthetic(targets=1)
    for entry in record["attacks"].values():
        entry["balanced_accuracy"] = {"mean": 0.5, "low": None, "high": None, "values": [0.5]}
    assert ") distinguishes members from non-members" not in " ".join(report.findings(record))


@pytest.mark.parametrize("low, reliable", [(0.49, False), (0.5, False), (0.51, True)])
def test_findings_call_an_attack_reliable_only_if_its_interval_is_above_chance(low, reliable):
    record, _ = synthetic()
    for entry in record["attacks"].values():
        entry["balanced_accuracy"] = {"mean": 0.6, "low": low, "high": 0.7, "values": [0.6] * 3}
    said = [sentence for sentence in report.findings(record) if sentence.startswith("From ")]
    assert len(said) == 2  # labels, probabilities
    assert all(("does not reliably distinguish" in sentence) != reliable for sentence in said)


def test_scores_too_coarse_for_one_per_cent_are_named_in_table_and_findings():
    record, _ = synthetic()
    for entry in record["attacks"].values():
        entry["tpr_at_fpr"]["0.01"] = entry["achieved_fpr"]["0.01"] = metrics.summary([0.0] * 3)
    assert report.table(record).split("\n")[3].endswith("  0 at FPR <= 1 % (scores too coarse)")
    assert " ".join(report.findings(record)).count("many points share the highest one") == 2  # labels, probabilities
    for entry in record["attacks"].values():
        entry["tpr_at_fpr"]["0.01"] = metrics.summary([0.1, 0.0, 0.2])
    assert "too coarse" not in report.table(record) and report.table(record).count("10.0 % [") == 3
    assert " ".join(report.findings(record)).count("At 1 % false positives it finds 10.0 %") == 2


def test_findings_name_access_cost_and_what_was_not_tested():
    record, _ = synthetic()
    said = " ".join(report.findings(record))
    assert "predicted labels alone" in said and "the probability vector" in said
    best = max(("gap", "noise"), key=lambda name: record["attacks"][name]["balanced_accuracy"]["mean"])
    assert f"{record['attacks'][best]['queries_per_example']:.1f} queries per example" in said
    assert f"best attack ({best})" in said
    untested = next(sentence for sentence in report.findings(record) if sentence.startswith("Not tested: "))
    for name in ("rotation", "translation", "confidence network", "decision boundary"):
        assert name in untested
    for name in ("gap", "noise", "confidence threshold"):
        assert name not in untested


def test_findings_say_no_more_of_the_setting_than_the_record_does():
    record, _ = synthetic()
    record["config"] = {"dataset": "mine", "num_shadows": 2}  # as audit.audit leaves it
    said = " ".join(report.findings(record))
    assert "defenses other than the targets' own" in said and "2 shadow models per target, trained like it. An" in said
    for split, rows in {"disjoint": "on rows disjoint", "swap": "on its own", "balanced": "on random halves"}.items():
        record["config"]["split"] = split
        assert f"trained like it {rows}" in " ".join(report.findings(record))


def test_findings_mention_a_cap_and_a_target_that_changed_its_answers():
    record, _ = synthetic()
    plain = " ".join(report.findings(record))
    assert "unfinished" not in plain and "Queried again" not in plain
    record["attacks"]["noise"]["finished"] = 0.75
    record["models"]["flip_rate"] = metrics.summary([0.0, 0.25, 0.5])
    said = " ".join(report.findings(record))
    assert "noise (25%)" in said and "Queried again, targets changed 25.0 %" in said


@pytest.mark.parametrize("name", NAMES)
def test_findings_can_be_said_of_any_single_attack(name):
    record, _ = synthetic()
    record["attacks"] = {name: record["attacks"][name]}
    said = " ".join(report.findings(record))
    assert ("predicted labels alone" in said) == (NAMES[name] == "label")
    assert ("the probability vector" in said) == (NAMES[name] == "confidence")
    assert ("gap attack (member iff labelled correctly) was not run" in said) == (name != "gap")


def test_the_page_is_self_contained(finished):
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert len(page.addresses) == 2  # the two figures
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in text and "@import" not in text and "http" not in text


def test_the_page_shows_the_table_the_findings_the_settings_and_the_split():
    record, _ = synthetic()
    page = page_of(record)
    assert page.rows[0] == report.HEADER
    assert [row[0] for row in page.rows[1:4]] == ["gap", "noise", "confidence threshold"]
    assert all(len(row) == len(report.HEADER) for row in page.rows[:4])
    for sentence in report.findings(record):
        assert sentence in page.text
    for key in ("config", "environment", "seconds"):
        assert [name for name in record[key] if name not in [row[0] for row in page.rows]] == []
        assert all([str(k), str(v)] in page.rows for k, v in record[key].items() if not isinstance(v, list))
    assert record["split_digest"] in page.text


def test_the_page_escapes_every_name():
    evil = "<script>\"x\"&'y'"
    record, _ = synthetic()
    for section in ("config", "environment"):
        record[section] = {evil if key == "seed" else key: evil for key in record[section]} | {"num_shadows": 1}
    record["split_digest"] = evil
    record["attacks"] = {evil: record["attacks"]["gap"]}
    page = Page(report.page(record, {evil: b""}))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 8  # the title twice, findings, table, settings, environment and the split
    assert page.rows[1][0] == evil


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


def test_a_record_that_json_cannot_hold_leaves_nothing_behind(tmp_path):
    record, scores = synthetic()
    record["seconds"]["total"] = float("nan")
    with pytest.raises(ValueError):
        report.write(tmp_path, record, scores)
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(ValueError, match="--from="):
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


def test_an_epsilon_stands_in_the_report_with_all_it_depends_on():
    record, _ = synthetic()
    assert not any("private" in sentence for sentence in report.findings(record))
    record["models"]["privacy"] = {"epsilon": 8.0, "delta": 0.01, "statement": "epsilon 8 at delta 0.01 for one row"}
    assert "Training was private: epsilon 8 at delta 0.01 for one row." in report.findings(record)
