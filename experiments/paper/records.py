"""The files of a script: its record, with what every record holds, and its figures; no cached results remain."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mi_jax import store
from mi_jax.evaluation import plots, report

_STARTED = time.monotonic()
PATH_FLAGS = ("-out", "-data_dir", "-checkpoint")  # left out of a record's command
Draw = Callable[[dict], Figure]


def finish(folder: Path, record: dict, *, differs: tuple[str, ...], **figures: Draw) -> None:
    """`write`, then `remove_caches`."""
    write(folder, record, differs=differs, **figures)
    remove_caches(folder, record)


def write(folder: Path, record: dict, *, differs: tuple[str, ...], **figures: Draw) -> None:
    """Writes record.json and then the figures NAME.png, each drawn by a function of the record.

    Beside what a script measured, a record holds the `command` that made it, the `seconds` since that program started
    (cached results of an earlier run take none: `environment` has their number), and where it `differs` from the
    paper. Where a row holds the paper's number and is further than 3 percentage points from it, why.json beside the
    record, written by hand, has the reason.
    """
    header = {"command": command(), "seconds": round(time.monotonic() - _STARTED), "differs": list(differs)}
    folder.mkdir(parents=True, exist_ok=True)
    written = report.jsonable(header | _commands_without_paths(record))
    store.write_file(folder / "record.json", (json.dumps(written, indent=1) + "\n").encode())
    for name, draw in figures.items():
        store.write_file(folder / f"{name}.png", plots.png(draw(record)))


def remove_caches(folder: Path, *records: dict) -> None:
    """Removes the cached results below `folder` of the runs that finished records name, and folders left empty."""
    for digest in set().union(*map(run_digests, records)):
        for cache in list(folder.rglob(f"cache/{digest}")):
            store.remove(cache)
            study_folder = cache.parents[1]
            while study_folder != folder and not any(study_folder.iterdir()):
                study_folder.rmdir()
                study_folder = study_folder.parent


def run_digests(record: object) -> set[str]:
    """Every `run_digest` in a record, the names of its caches."""
    if not isinstance(record, dict):
        return set()
    digests = {record["run_digest"]} if "run_digest" in record else set()
    return digests.union(*map(run_digests, record.values()))


def command() -> str:
    """The command line of this program, without the paths of this machine."""
    spec = sys.modules["__main__"].__spec__
    return " ".join(["python", "-m", spec.name if spec else Path(sys.argv[0]).stem, *without_paths(sys.argv[1:])])


def without_paths(words: Iterable[str]) -> list[str]:
    """The words of a command line without PATH_FLAGS."""
    kept, words = [], iter(words)
    for word in words:
        flag, _, value = word.partition("=")
        if "-" + flag.lstrip("-") not in PATH_FLAGS:
            kept.append(word)
        elif not value:
            next(words, None)  # written --out DIR
    return kept


def _commands_without_paths(record: Any) -> Any:
    """The record with every `command` in it so: that of an environment too, of this run or of an earlier one."""
    if not isinstance(record, dict):
        return record
    return {
        key: shlex.join(without_paths(shlex.split(value))) if key == "command" else _commands_without_paths(value)
        for key, value in record.items()
    }
