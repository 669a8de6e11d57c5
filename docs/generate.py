"""Writes the numbers of README.md and docs/ from the committed records.

Artefact: README.md and docs/*.md. What stands between <!-- generated: NAME ... --> and <!-- end --> is replaced by what
          the function NAME of BLOCKS returns for the words after it; everything else stays as it is.
Command:  make docs        or        python -m docs.generate
Method:   reads results/records, trains and measures nothing; seconds. A test fails where a page differs from what this
          command would write.
"""

import functools
import importlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import app

from experiments import exposed_defenses, race
from experiments.claims import __main__ as claims
from mi_jax import cli
from mi_jax.evaluation import pareto, plots, report

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "results" / "records"
BLOCK = re.compile(r"(<!-- generated: ([^>]+?) -->)(.*?)(<!-- end -->)", re.DOTALL)
LIKE_THE_PAPER = 3.0  # percentage points; a number farther away has its reason in why.json
BUDGETS = (20, 100, 400, 2000)  # queries, columns of the table of figure 2
GROUPS = ("sizes", "distances", "strengths", "ways", "defenses")  # of a record: setting -> entry
STATUSES = {"holds": "hold", "fails": "fail", "open": "open", "not yet run": "not yet run"}
TEST_SUITE = "test-suite.json"


def pages() -> list[Path]:
    """The files that this command writes."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str) -> str:
    """A page with each of its generated blocks as the records have it now. ValueError for a block nobody makes."""

    def fill(match: re.Match) -> str:
        opening, words, old, closing = match.groups()
        name, *arguments = words.split()
        if name not in BLOCKS:
            raise ValueError(f"generated: {name}: known are {', '.join(BLOCKS)}")
        new = BLOCKS[name](*arguments)
        return opening + (f"\n{new}\n" if old.startswith("\n") else new) + closing

    return BLOCK.sub(fill, text)


def read(record: str) -> dict:
    """A committed record: a file, or the report.json or record.json of a folder."""
    place = RECORDS / record
    names = [place, place / "report.json", place / "record.json"]
    return json.loads(next(path for path in names if path.is_file()).read_text())


def fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes on two cores"


def commands() -> str:
    """The two commands of the README and how long they take."""
    found, suite = read("audit-digits"), RECORDS / TEST_SUITE
    taken = minutes(read(TEST_SUITE)["seconds"]) if suite.is_file() else "a few minutes on two cores"
    what = (
        f"{len(found['models']['epochs'])} models on scikit-learn's digits, {len(found['attacks'])} attacks, a report"
    )
    lines = f"make audit   # {what}: {minutes(found['seconds']['total'])}\nmake test    # the fast test suite: {taken}"
    return f"```\n{lines}\n```"


def audit(record: str) -> str:
    """The table of an audit."""
    return fenced(report.table(read(record)))


def setting(record: str) -> str:
    """What an audit trained, in one sentence."""
    found = read(record)
    config, accuracy = found["config"], found["models"]
    return (
        f"{config['dataset']}, model {config['model']}, {config['n_train']:,} training rows; {config['num_targets']} "
        f"targets, each with {config['num_shadows']} shadow model{'s' * (config['num_shadows'] > 1)}; train accuracy "
        f"{report.percent(accuracy['train_accuracy'])}, test accuracy {report.percent(accuracy['test_accuracy'])}; "
        f"{minutes(found['seconds']['total'])}."
    )


def value(record: str, path: str, form: str = "") -> str:
    """One number of a record, by the keys that lead to it, in a format of Python's."""
    return format(functools.reduce(lambda found, key: found[key], path.split("/"), read(record)), form)


def defenses(dataset: str) -> str:
    """Every defense of a data set, by the accuracy of the strongest attack."""
    return fenced(pareto.format_defenses(read(f"fig5_6-cpu/{dataset}")["defenses"]))


def levels(dataset: str) -> str:
    """The best test accuracy where no attack is above a level."""
    found = pareto.best_at_levels(read(f"fig5_6-cpu/{dataset}")["defenses"])
    rows = [
        [f"{level} %", f"`{best['defense']}`", f"{best['test_accuracy']:.1f} %", f"{best['label_only']:.1f} %"]
        for level, best in found.items()
        if best
    ]
    return markdown(["every attack at most", "defense", "test accuracy", "label-only attack"], rows)


def entries(record: dict) -> Iterator[tuple[str, dict]]:
    """(setting, entry with `models` and `attacks`) of everything that a record of the paper's artefacts holds."""
    if "models" in record and "attacks" in record:
        yield "all", record
        return
    if "undefended" in record:
        yield "undefended", record["undefended"]
    groups = [record[name] for name in GROUPS if isinstance(record.get(name), dict)]
    for name, entry in itertools.chain(*(group.items() for group in groups)):
        nested = {"": entry} if "attacks" in entry else entry
        for size, one in nested.items():
            yield f"{name} {size}".strip(), one


def cell(row: dict | None) -> str:
    """An attack's accuracy with its interval (a dagger: over points) and the paper's number in parentheses."""
    if row is None:
        return ""
    shown = plots.accuracy_interval(row)
    dagger = "†" if shown is not row["balanced_accuracy"] else ""
    paper = "" if row.get("paper") is None else f" ({row['paper']:.1f})"
    return report.percent(shown).replace(" %", "") + dagger + paper


def beside(record: str, title: str = "setting", *names: str) -> str:
    """Attack accuracies of a table or figure, the paper's number in parentheses."""
    found = list(entries(read(record)))
    columns = names or tuple(dict.fromkeys(name for _, entry in found for name in entry["attacks"]))
    rows = [[f"`{label}`", f"{100 * entry['models']['test_accuracy']['mean']:.1f}",
             *(cell(entry["attacks"].get(name)) for name in columns)] for label, entry in found]  # fmt: skip
    return markdown([title.replace("_", " "), "test accuracy", *(name.replace("_", " ") for name in columns)], rows)


def curves() -> str:
    """Figure 2: the accuracy of attacks on labels with at most so many queries."""
    rows = []
    for name, points in read("fig2-cpu")["curves"].items():
        reached = []
        for budget in (*BUDGETS, float("inf")):
            within = [point for point in points if point["queries"]["mean"] <= budget]
            reached.append(f"{100 * within[-1]['balanced_accuracy']['mean']:.1f}" if within else "")
        rows.append([name, *reached, f"{points[-1]['queries']['mean']:,.0f}"])
    return markdown(["attack", *(f"{budget:,} queries" for budget in BUDGETS), "all", "of them"], rows)


def differences(record: Any) -> Iterator[float]:
    """Ours less the paper's in percentage points, of every number that has one of the paper's."""
    if not isinstance(record, dict):
        return
    if record.get("paper") is not None and "balanced_accuracy" in record:
        yield 100 * record["balanced_accuracy"]["mean"] - record["paper"]
    for inside in record.values():
        yield from differences(inside)


def status(record: str) -> str:
    """Whether an artefact was run, and how many of its numbers are the paper's."""
    place = RECORDS / record
    if not place.exists():
        return "not yet run"
    away = [abs(difference) for difference in differences(read(record))]
    near = sum(round(difference, 6) <= LIKE_THE_PAPER for difference in away)
    numbers = f"; {near} of {len(away)} numbers within {LIKE_THE_PAPER:g} pp of the paper's" if away else ""
    why = place / "why.json"
    reason = f" ([reasons](../results/records/{record}/why.json))" if why.is_file() else ""
    return f"[run](../results/records/{record}){numbers}{reason}"


def deviations() -> str:
    """In what the runs differ from the paper, as the scripts have it, each with where it holds."""
    scripts = sorted((ROOT / "experiments" / "paper").glob("*[0-9]_*.py"))
    found: dict[str, list[str]] = {}
    for script in scripts:
        for sentence in importlib.import_module(f"experiments.paper.{script.stem}").DIFFERS:
            found.setdefault(sentence, []).append(script.stem.split("_")[0] if "5_6" not in script.stem else "fig5_6")
    return "\n".join(f"* {sentence} ({', '.join(names)})" for sentence, names in found.items())


def claims_list() -> str:
    """The claims of the paper as the records decide them."""
    lines = [line.partition("  ") for line in claims.check_claims(RECORDS)]
    return "\n".join(f"* **{status}** {text}" for status, _, text in lines)


def claims_count() -> str:
    """How many claims hold, fail, are open or were not run."""
    found = [line.partition("  ")[0] for line in claims.check_claims(RECORDS)]
    return ", ".join(f"{found.count(status)} {word}" for status, word in STATUSES.items())


def epsilon_bounds() -> str:
    """What labels prove of epsilon beside what the accountant proves."""
    rows = [[f"{level['noise']:g}", f"{max(one['epsilon'] for one in level['attacks'].values()):.2f}",
             f"{float(level['epsilon']):.2f}"] for level in read("dp_audit-cpu")["levels"]]  # fmt: skip
    return markdown(["noise multiplier", "lower bound from labels", "upper bound of the accountant"], rows)


def outliers() -> str:
    """Figure S11: the precision on outliers less that on everybody, in percentage points."""
    paper = importlib.import_module("experiments.paper.figS11_outliers").PAPER
    rows = []
    for name, entry in read("figS11-cpu")["defenses"].items():
        mean, low, high = (100 * entry["over_points"]["improvement"][key] for key in ("mean", "low", "high"))
        theirs = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*paper[name]) if name in paper else ""
        rows.append([f"`{name}`", f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]†", theirs])
    return markdown(["defense", "improvement, pp", "the paper's"], rows)


def training() -> str:
    """The benchmark of training."""
    rows = [[one["job"], one["worker"], one["strategy"], f"{one['ms_per_member_step']:.2f}",
             f"{one['times_pytorch']:.2f}"] for one in read("benchmark-training.json")["results"]]  # fmt: skip
    return markdown(["job", "worker", "strategy", "ms a model and step", "speed relative to PyTorch's loop"], rows)


def distances() -> str:
    """The benchmark of boundary distances: medians over rounds."""
    rows = []
    for name, rounds in read("benchmark-boundary.json")["results"].items():
        if "median" in rounds[0]:
            wall, queries, median = (sorted(one[key] for one in rounds)[len(rounds) // 2]
                                     for key in ("wall", "queries_per_point", "median"))  # fmt: skip
            rows.append([name, f"{wall:.1f}", f"{queries:,.0f}", f"{median:.2f}"])
    return markdown(["library", "seconds", "queries a point", "median distance"], rows)


def private_step() -> str:
    """The benchmark of DP-SGD."""
    found = read("benchmark-dp_sgd.json")
    rows = [[name, f"{rate:.0f}", f"{found['seconds_over_book_keeping'][name]:.2f}",
             f"{found['mebibytes_per_example'][name]:.1f}"]
            for name, rate in found["examples_per_second"].items()]  # fmt: skip
    return markdown(["way", "examples a second", "time relative to ours", "MiB an example"], rows)


def queries() -> str:
    """The benchmark of queries."""
    rows = [[name, f"{one['queries_per_second']:,.0f}", f"{one['share_of_forward']:.2f}"]
            for name, one in read("benchmark-queries.json")["rates"].items()]  # fmt: skip
    return markdown(["what", "queries a second", "share of bare forward passes"], rows)


BLOCKS: dict[str, Callable[..., str]] = {
    "commands": commands,
    "audit": audit,
    "setting": setting,
    "value": value,
    "defenses": defenses,
    "levels": levels,
    "beside": beside,
    "curves": curves,
    "status": status,
    "deviations": deviations,
    "claims": claims_list,
    "claims-count": claims_count,
    "epsilon-bounds": epsilon_bounds,
    "outliers": outliers,
    "training": training,
    "distances": distances,
    "private-step": private_step,
    "queries": queries,
    "race": lambda dataset: fenced(race.table(read(f"race-{dataset}-cpu"))),
    "exposed-defenses": lambda dataset: fenced(exposed_defenses.table(read(f"exposed_defenses-cpu/{dataset}"))),
}


def body() -> None:
    """Every page, rewritten."""
    for page in pages():
        old = page.read_text()
        new = rendered(old)
        if new != old:
            page.write_text(new)
        print(f"{page.relative_to(ROOT)}: {'written' if new != old else 'unchanged'}")


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(cli.main(body)(argv)), flags_parser=cli.parse)
