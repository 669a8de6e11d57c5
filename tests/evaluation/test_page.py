"""The report page: self-contained, complete, and readable on a phone and on paper."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mi_jax.evaluation import metrics, page, report
from mi_jax.evaluation.findings import findings
from tests.evaluation.records import NAMES, modern, synthetic


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


def page_of(record: dict) -> tuple[Page, str]:
    written = page.page(record, {"roc": ["<svg></svg>"], "scores": ["<svg></svg>"] * len(record["attacks"])})
    return Page(written), written


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> str:
    """The page of a run with its figures."""
    folder = tmp_path_factory.mktemp("drawn")
    report.write(folder, *modern())
    return (folder / "report.html").read_text()


def test_the_page_is_self_contained(drawn):
    parsed = Page(drawn)
    assert parsed.tags.count("svg") == 1 + len(NAMES) and not parsed.addresses
    assert not {"script", "link", "iframe", "object", "base", "img"} & set(parsed.tags)
    assert "@import" not in drawn and "http" not in drawn
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", drawn))
    assert len(drawn) < 300_000


def test_every_reference_of_a_figure_leads_to_one_element_like_it(drawn):
    ids = re.findall(r' id="([^"]*)"', drawn)
    assert set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', drawn)) <= {(i, "") for i in ids} | {("", i) for i in ids}
    assert not [i for i in ids if "_" in i]  # numbered by matplotlib: two figures would share them


def test_the_page_has_a_width_for_phones_and_a_style_for_paper(drawn):
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in drawn
    assert "@media print" in drawn and "break-inside:avoid" in drawn and "@media screen and (max-width" in drawn
    assert drawn.count("<figcaption>") == 2


def test_the_page_shows_tables_findings_origin_and_settings():
    record, _ = modern()
    record["environment"]["command"] = "mi_jax audit --cap=5"
    parsed, _ = page_of(record)
    head = ["attack", "access", "queries per example", "balanced accuracy", "points above gap", "AUC"]
    assert parsed.rows[0] == head + [f"TPR at {rate} FPR" for rate in ("10 %", "1 %", "0.1 %")]
    names = ["gap", "noise", "confidence threshold"]
    assert [row[0] for row in parsed.rows[1:4]] == names and [row[0] for row in parsed.rows[5:8]] == names
    for sentence in findings(record):
        assert sentence in parsed.text
    for shown in ("2026-11-28T18:41:29+00:00; mi_jax 0.2.0; commit unknown; 1 x cpu", "mi_jax audit --cap=5"):
        assert shown in parsed.text
    for row in (["rows", "1,797"], ["classes without rows", "none"], ["queries in all", "6,380"], ["source", "a file"]):
        assert row in parsed.rows
    assert ["members that shadow models were trained on", "0.0 %"] in parsed.rows
    assert record["split_digest"] in parsed.text and "gate 40, measure 60" in parsed.text


def test_settings_are_words():
    record, _ = synthetic()
    record["config"] |= {"cap": None, "delta": None, "allow_random_target": False, "private_rate": 0.25}
    parsed, written = page_of(record)
    for row in (["allow random target", "no"], ["private rate", "0.25"], ["not set", "cap, delta"],
                ["attacks", "gap, noise, confidence_threshold"]):  # fmt: skip
        assert row in parsed.rows
    assert not re.search(r"\b(None|null|nan|True|False|\[\]|\{\})", written.partition("<h1>")[2])


def test_a_column_that_no_attack_has_is_left_out():
    parsed, _ = page_of(synthetic()[0])
    assert "points above gap" not in parsed.rows[0] and parsed.rows[4] == ["attack", *parsed.rows[4][1:3]]


def test_rates_that_cannot_be_told_have_a_short_form_and_a_note():
    record, _ = modern()
    parsed, _ = page_of(record)
    assert parsed.rows[1][-2:] == ["not resolvable"] * 2 and "not resolvable: one of so few" in parsed.text
    assert "too coarse:" not in parsed.text
    for field in ("tpr_at_fpr", "achieved_fpr"):
        record["attacks"]["gap"][field]["0.01"] = metrics.summary([0.0] * 3)
    parsed, _ = page_of(record)
    assert parsed.rows[1][-2] == "too coarse" and "too coarse: every threshold" in parsed.text


def test_a_strength_at_the_edge_of_its_grid_and_points_never_flipped_stand_beside_what_was_chosen():
    record, _ = modern()
    record["attacks"]["noise"] |= {"never_flipped": 0.125}
    record["attacks"]["noise"]["tuned"] |= {
        "settings": [{"sigma": 0.3}] * 3,
        "at_edge": ["sigma=0.3 is the largest tried"] * 3,
    }
    row = next(row for row in page_of(record)[0].rows[5:] if row[0] == "noise")
    assert row[1] == "sigma 0.3; sigma=0.3 is the largest tried" and "12.5\u00a0%" in row


def test_the_page_escapes_every_name():
    evil = "<script>\"x\"&'y'"
    record, _ = synthetic()
    record["config"] = {evil if key == "seed" else key: evil for key in record["config"]} | {"num_shadows": 1}
    record["environment"] = {key: evil for key in record["environment"]} | {"date": evil, "command": evil}
    record |= {"split_digest": evil, "attacks": {evil: record["attacks"]["gap"]}, "data": {evil: evil}}
    parsed, _ = page_of(record)
    assert "script" not in parsed.tags and parsed.text.count(evil) >= 12
    assert parsed.rows[1][0] == evil


@pytest.mark.parametrize(
    "folder", sorted((Path(__file__).parents[2] / "results" / "records").glob("audit-*")), ids=lambda p: p.name
)
def test_committed_records_have_a_page(folder):
    record, _ = report.read(folder)
    parsed, written = page_of(record)
    assert [row[0] for row in parsed.rows[1 : 1 + len(record["attacks"])]] == [
        n.replace("_", " ") for n in record["attacks"]
    ]
    assert "None" not in written
