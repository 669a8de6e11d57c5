"""The pages say what the records say, their links lead somewhere, and their examples run."""

import json
import re
from pathlib import Path

import pytest

from docs import generate
from mi_jax import study
from mi_jax.study import plugins

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = generate.pages()
MARKDOWN = [*PAGES, *(REPOSITORY / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "experiments/README.md"))]
README = REPOSITORY / "README.md"
MAX_README_LINES = 150
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def prose(text: str) -> str:
    """A page without what is generated, its code and the addresses of its links."""
    text = FENCE.sub("", generate.BLOCK.sub("", text))
    return re.sub(r"`[^`]*`", "", re.sub(r"\]\([^)]*\)", "]", text))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of one."""
    broken = []
    for link in LINK.findall(FENCE.sub("", text)):
        if link.startswith(("http://", "https://")):
            continue
        address, _, anchor = link.partition("#")
        target = (page.parent / address).resolve() if address else page
        if not target.exists() or anchor and anchor not in anchors(target):
            broken.append(link)
    return broken


@pytest.fixture(params=PAGES, ids=page_name)
def page(request) -> Path:
    return request.param


def test_a_page_is_what_make_docs_would_write(page):
    text = page.read_text()
    assert generate.rendered(text) == text, "run `make docs`"


def test_pages_of_results_show_records():
    shown = {page.stem for page in PAGES if generate.BLOCK.search(page.read_text())}
    assert shown >= {"README", "performance", "reproducing", "results", "threat_models"}


def test_a_changed_number_is_noticed_and_written_anew():
    text = README.read_text()
    block = generate.BLOCK.search(text)
    changed = text.replace(block[3], re.sub(r"\d", "7", block[3]), 1)
    assert changed != text and generate.rendered(changed) == text


def test_markers_are_paired_and_known(page):
    text = page.read_text()
    assert text.count("<!-- generated: ") == text.count("<!-- end -->") == len(generate.BLOCK.findall(text))


def test_a_marker_inside_of_a_line_does_not_begin_it(page):
    """Markdown shows the rest of a line that begins with a comment as plain HTML."""
    assert not re.search(r"^<!--[^>]*-->.", page.read_text(), re.MULTILINE)


def test_a_block_that_nobody_makes_is_refused():
    with pytest.raises(ValueError, match="generated: tabel: known are commands, audit"):
        generate.rendered("<!-- generated: tabel --><!-- end -->")


def test_prose_holds_no_measurement_that_no_command_wrote(page):
    """A number with a decimal point or a per cent sign is a definition, or stands beside the word paper."""
    definitions = {"50 %", "95 %", "1 %", "3.11", "2007.14321"}
    for paragraph in re.split(r"\n\n|\n(?=[*|#])", prose(page.read_text())):
        found = {number for number in re.findall(r"\d+\.\d+|\d+ ?%", paragraph)} - definitions
        assert not found or "paper" in paragraph, (sorted(found), paragraph)


@pytest.mark.parametrize("page", MARKDOWN, ids=page_name)
def test_links_lead_to_files_and_headings(page):
    assert broken_links(page, page.read_text()) == []


def test_a_link_that_leads_nowhere_is_noticed():
    text = "[a](docs/none.md) [b](LICENSE) [c](README.md#the-tree) [d](README.md#nowhere) [e](https://example.org/)"
    assert broken_links(README, text) == ["docs/none.md", "README.md#nowhere"]


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


def test_every_page_is_linked_from_another():
    linked = {(page.parent / link.partition("#")[0]).resolve()
              for page in MARKDOWN for link in LINK.findall(page.read_text())}  # fmt: skip
    assert set(PAGES) - {README} <= linked


def test_every_committed_record_stands_in_the_map():
    text, records = (REPOSITORY / "docs" / "reproducing.md").read_text(), generate.RECORDS
    found = {path.parent if path.name in ("record.json", "report.json") else path for path in records.rglob("*.json")}
    names = {path.relative_to(records).as_posix() for path in found} - {generate.TEST_SUITE}
    missing = {name for name in names if not name.endswith("why.json") and f"generated: status {name} " not in text}
    assert not missing


def test_a_status_counts_the_numbers_that_are_the_papers(monkeypatch, tmp_path):
    accuracies = (("gap", 0.75), ("noise", 0.78), ("rays", 0.7801))
    attacks = {name: {"balanced_accuracy": {"mean": mean}, "paper": 75.0} for name, mean in accuracies}
    (tmp_path / "figure").mkdir()
    (tmp_path / "figure" / "record.json").write_text(json.dumps({"sizes": {"100": {"attacks": attacks}}}))
    monkeypatch.setattr(generate, "RECORDS", tmp_path)
    assert generate.status("figure") == "[run](../results/records/figure); 2 of 3 numbers within 3 pp of the paper's"
    (tmp_path / "figure" / "why.json").write_text("{}")
    assert generate.status("figure").endswith(" ([reasons](../results/records/figure/why.json))")
    assert generate.status("another") == "not yet run"


def test_how_long_a_run_took_is_that_of_its_record():
    seconds = json.loads((generate.RECORDS / "audit-digits" / "report.json").read_text())["seconds"]["total"]
    assert f"{seconds / 60:.1f} minutes on two cores" in README.read_text()


EXAMPLES = [(page, i, code) for page in PAGES for i, code in enumerate(EXAMPLE.findall(page.read_text()))]


def test_there_are_examples_of_all_that_can_be_added():
    found = [page_name(page) for page, _, _ in EXAMPLES]
    assert found.count("README.md") == 2 and found.count("docs/extending.md") == 9


@pytest.fixture
def catalogues(monkeypatch):
    """The catalogues of all that can be added, as before once a test is done."""
    before = {name: dict(entries) for name, entries in plugins.CATALOGUES.items()}
    monkeypatch.setattr(plugins, "_loaded", {})
    yield plugins.CATALOGUES
    for name, entries in before.items():
        plugins.CATALOGUES[name].clear()
        plugins.CATALOGUES[name].update(entries)


def test_the_command_with_the_plugin_runs(catalogues, monkeypatch, tmp_path):
    """All that its flags name is found and checked, as before the first model is trained."""
    plugin, command = re.search(r"This one is `mine.py`:\n\n```python\n(.*?)```\n\n```\n(mi_jax audit .*?)\n```",
                                (REPOSITORY / "docs/extending.md").read_text(), re.DOTALL).groups()  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(plugin)
    options = dict(option.removeprefix("--").split("=") for option in command.split()[2:])
    lists = {name: tuple(options[name].split(",")) for name in ("plugin", "attacks")}
    resolved, _ = study.identify(study.Config(**options | lists))
    assert resolved.attacks == ("gap", "brightness") and catalogues["MODELS"].keys() >= {"narrow"}


@pytest.mark.parametrize(
    ("page", "code"),
    [(page, code) for page, _, code in EXAMPLES],
    ids=[f"{page_name(page)}-{i}" for page, i, _ in EXAMPLES],
)
def test_an_example_runs_by_itself(page, code, catalogues, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page_name(page), "exec"), {"__name__": "example"})
