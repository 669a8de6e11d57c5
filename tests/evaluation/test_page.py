"""The report page: self-contained, complete, and readable on a phone and on paper."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from mi_jax.evaluation import exposed, metrics, page, plots, report
from mi_jax.evaluation.findings import findings
from tests.evaluation.records import NAMES, modern, synthetic
from tests.evaluation.test_exposed import calibrated


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
    assert parsed.rows[0] == head + [f"TPR at {rate}\u00a0% FPR" for rate in ("10", "1", "0.1")]
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
    assert parsed.rows[1][-2:] == ["not resolvable"] * 2 and "not resolvable: a single non-member" in parsed.text
    assert "too coarse:" not in parsed.text
    for field in ("tpr_at_fpr", "achieved_fpr"):
        record["attacks"]["gap"][field]["0.01"] = metrics.summary([0.0] * 3)
    parsed, _ = page_of(record)
    assert parsed.rows[1][-2] == "too coarse" and "too coarse: every threshold" in parsed.text


def test_rates_of_all_targets_together_and_rates_at_chance_are_marked():
    record, _ = modern()
    entry = record["attacks"]["noise"]
    entry["pooled"]["0.01"] = {"mean": 0.25, "low": 0.2, "high": 0.3, "fpr": 0.01}
    entry["pooled"]["0.001"] = {"mean": 0.01, "low": 0.0, "high": 0.02, "fpr": 0.001}
    parsed, _ = page_of(record)
    assert parsed.rows[2][-2:] == [
        "25.0\u00a0% [20.0,\u00a030.0] pooled",
        "1.0\u00a0% [0.0,\u00a02.0] pooled, at chance",
    ]
    assert "at chance: the interval holds this rate itself" in parsed.text
    assert "at chance" not in page_of(synthetic()[0])[0].text


def test_attacks_that_judge_every_point_stand_in_the_threat_model_and_share_their_shadow_queries():
    record, _ = modern()
    assert "judges every point by itself" not in page_of(record)[0].text
    record["attacks"]["noise"]["every_point"] = {"online": True, "pool": None}
    record["attacks"]["confidence_threshold"]["every_point"] = {"online": False, "pool": None}
    parsed, _ = page_of(record)
    assert ["judges every point by itself", "noise, confidence threshold"] in parsed.rows
    assert ["of these offline", "confidence threshold"] in parsed.rows
    assert "ask shadow models once: these queries stand with the first of them." in parsed.text


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


def exposed_page(spoil=lambda record, scores: None) -> tuple[Page, str, exposed.Exposed, dict]:
    """The page of `calibrated()` with its exposed records, these, and the arrays."""
    record, scores = calibrated()
    spoil(record, scores)
    found = exposed.leading_records(record, scores)
    written = page.page(record, {}, found)
    return Page(written), written, found, scores


def table_of(parsed: Page, first: str) -> list[dict[str, str]]:
    """The table whose first column has this name, as dicts."""
    start = next(i for i, row in enumerate(parsed.rows) if row and row[0] == first)
    head, lines = parsed.rows[start], parsed.rows[start + 1 :]
    end = next((i for i, row in enumerate(lines) if len(row) != len(head) or row[0] == "attack"), len(lines))
    return [dict(zip(head, row, strict=True)) for row in lines[:end]]


def test_exposed_records_stand_after_the_attacks_strongest_first():
    parsed, written, found, scores = exposed_page()
    headings = re.findall("<h2>(.*?)</h2>", written)
    assert headings[headings.index("Attacks") + 1] == "Exposed records"
    for sentence in exposed.exposed_sentences(found):
        assert sentence in parsed.text
    shown = table_of(parsed, "row")
    assert len(shown) == page.SHOWN
    for cells, row in zip(shown, exposed.strongest(found.rows, page.SHOWN), strict=True):
        t, i = np.argwhere(scores["rows"] == row["row"])[0]
        is_member, alone = scores["is_member"][t, i], scores["alone"][t, i]
        assert [cells[key] for key in ("row", "target", "label")] == [str(row["row"]), str(t), str(row["label"])]
        assert cells["in fact"] == ("member" if is_member else "non-member")
        assert (cells["alone"], cells["group"]) == ("yes" if alone else "no", scores["group"][t, i])
        assert cells["mislabelled"] == ("no" if scores["attack/gap/scores"][t, i] else "yes")


def test_a_record_of_several_targets_is_shown_once_with_on_how_many_it_is_named():
    """Of three targets two are trained with row 0, and one of these names it; another row stands in one alone."""

    def spoil(record, scores):
        scores["rows"][:, 0], scores["is_member"][:, 0] = 0, [True, True, False]
        scores["attack/chosen/false_positive_rate"][:] = 0.9
        scores["attack/chosen/false_positive_rate"][:, 0] = [1e-6, 0.8, 0.7]

    shown = table_of(exposed_page(spoil)[0], "row")
    (cells,) = [line for line in shown if line["row"] == "0"]
    assert (cells["named"], cells["target"], cells["in fact"]) == ("1\u00a0of\u00a02", "0", "member")
    assert {line["named"] for line in shown if line["row"] != "0"} <= {"0\u00a0of\u00a00", "0\u00a0of\u00a01"}


@pytest.mark.parametrize(
    "score, p, ratio, rate",
    [
        (np.log(200), 0.5, "10^2.3", "50\u00a0%"),
        (-0.01, 1.0, "10^0.0", "100\u00a0%"),
        (14.0, 1e-5, "> 10^6", "0.001\u00a0%"),
        (np.inf, 1e-6, "> 10^6", "0.0001\u00a0%"),
        (-14.0, 1e-9, "< 10^-6", "< 0.0001\u00a0%"),
    ],
)
def test_ratios_are_powers_of_ten_and_no_rate_is_shown_finer_than_it_can_be_known(score, p, ratio, rate):
    def spoil(record, scores):
        scores["attack/chosen/scores"][:], scores["attack/chosen/false_positive_rate"][:] = score, p

    cells = table_of(exposed_page(spoil)[0], "row")[0]
    assert (cells["likelihood ratio"], cells["false positive rate"], cells["false discovery rate"]) == (
        ratio,
        rate,
        rate,
    )


def test_images_of_exposed_records_are_inside_the_page():
    parsed, written, found, _ = exposed_page()
    first = exposed.strongest(found.rows, page.SHOWN)
    sources = re.findall('<img src="data:image/png;base64,([^"]*)" alt="([^"]*)">', written)
    assert len(sources) == len(first) == parsed.tags.count("img") == len(parsed.addresses)
    for (data, words), row in zip(sources, first, strict=True):
        decoded = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
        np.testing.assert_array_equal(np.round(255 * decoded[..., :1]), found.images[row["row"]])
        assert words == f"row {row['row']}, label {row['label']}"
    assert "image" not in table_of(exposed_page(lambda record, scores: scores.pop("images").any() and
                                                scores.pop("image_rows").any())[0], "row")[0]  # fmt: skip


@pytest.mark.parametrize("shape", [(8, 8, 1), (200, 100, 3), (97, 5, 4)])
def test_an_image_is_small_and_keeps_its_pixels(shape):
    image = np.random.default_rng(0).integers(1, 256, shape, np.uint8)
    decoded = np.round(255 * matplotlib.image.imread(io.BytesIO(plots.image_png(image))))
    step = -(-max(shape[:2]) // 96)
    kept = image[::step, ::step]
    np.testing.assert_array_equal(decoded[..., : shape[2]], kept)
    assert max(kept.shape) <= 96 < max(shape[:2]) or step == 1


def test_classes_and_groups_are_counted_and_many_are_cut_short():
    parsed, _, found, _ = exposed_page()
    lines = table_of(parsed, "records")
    names = ["all", "labelled correctly", "mislabelled", "not alone", "alone", "group =1+1", "group Dalmatia"]
    assert [line["records"] for line in lines] == names + [f"class {i}" for i in range(10)]
    assert lines[0]["members"] == lines[0]["non-members"] == "60"
    total = exposed.count_named(found.rows)
    assert lines[0]["named members"].startswith(f"{total['named_members']}: ")
    assert sum(int(line["named members"].partition(":")[0]) for line in lines[-10:]) == total["named_members"]

    def spoil(record, scores):
        scores["labels"] = scores["rows"] % 31

    parsed, *_ = exposed_page(spoil)
    shown = [int(line["named members"].partition(":")[0]) for line in table_of(parsed, "records")[-page.SHOWN_GROUPS :]]
    assert shown == sorted(shown, reverse=True) and "The 30 of 31 classes with the most named members." in parsed.text


def test_what_was_not_measured_of_exposed_records_has_no_column():
    def spoil(record, scores):
        for name in ("alone", "group", "images", "image_rows", "attack/gap/scores"):
            del scores[name]
        for name, array in scores.items():
            scores[name] = array[:1]

    parsed, *_ = exposed_page(spoil)
    head = ["row", "label", "likelihood ratio", "false positive rate", "false discovery rate", "in fact"]
    assert list(table_of(parsed, "row")[0]) == head
    assert [line["records"] for line in table_of(parsed, "records")] == ["all", *(f"class {i}" for i in range(10))]


def test_the_page_escapes_groups_and_attacks_of_exposed_records():
    evil = "<script>\"x\"&'y'"

    def spoil(record, scores):
        scores["group"] = np.full(scores["rows"].shape, evil)
        record["attacks"][evil] = record["attacks"].pop("chosen")
        for what in ("scores", "false_positive_rate"):
            scores[f"attack/{evil}/{what}"] = scores.pop(f"attack/chosen/{what}")

    parsed, *_ = exposed_page(spoil)
    assert "script" not in parsed.tags and table_of(parsed, "row")[0]["group"] == evil
    assert f"“{evil}” names" in parsed.text and table_of(parsed, "records")[5]["records"] == f"group {evil}"


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
