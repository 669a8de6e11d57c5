"""What a script leaves: its record with what every record holds, its figures, and none of what they were made from."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from matplotlib import pyplot as plt

from mi_jax import store
from mi_jax.evaluation import plots, report

_STARTED = time.monotonic()
OF_THIS_MACHINE = ("-out", "-data_dir", "-checkpoint")  # flags that name places


def leave(folder: Path, record: dict, places: dict[Path, dict] | None = None, *, differs: tuple[str, ...],
          **figures: Callable[[dict], plt.Figure]) -> None:  # fmt: skip
    """`write`, then `clear` of this folder and of `places`."""
    write(folder, record, differs=differs, **figures)
    clear(folder, {folder: record, **(places or {})})


def write(folder: Path, record: dict, *, differs: tuple[str, ...], **figures: Callable[[dict], plt.Figure]) -> None:
    """Writes record.json and then the figures NAME.png, each drawn by a function of the record.

    Beside what a script measured a record holds the `command` that made it, the `seconds` since that program began
    (what an earlier run had finished was not computed again: `environment` says how much of it was found), and in
    what it `differs` from the paper. Where a row holds the paper's number and is further than 3 percentage points
    from it, the reason, found out by hand, stands beside the record in why.json.
    """
    told = {"command": command(), "seconds": round(time.monotonic() - _STARTED), "differs": list(differs)}
    folder.mkdir(parents=True, exist_ok=True)
    store.write_file(folder / "record.json", (json.dumps(report.jsonable(told | record), indent=1) + "\n").encode())
    for name, draw in figures.items():
        store.write_file(folder / f"{name}.png", plots.png(draw(record)))


def clear(folder: Path, places: dict[Path, dict]) -> None:
    """Removes the parts that finished records were put together from, and folders in `folder` that hold nothing else.

    `places`: folder of a study -> its entry, whose `environment` names the parts.
    """
    for place, entry in places.items():
        if "environment" in entry:
            store.remove(place / "cache" / entry["environment"]["run_digest"])
        while place != folder and not (place.is_dir() and any(place.iterdir())):
            if place.is_dir():
                place.rmdir()
            place = place.parent


def command() -> str:
    """The command line of this program, without the places of this machine."""
    spec = sys.modules["__main__"].__spec__
    said, words = [], iter(sys.argv[1:])
    for word in words:
        flag, _, value = word.partition("=")
        if "-" + flag.lstrip("-") not in OF_THIS_MACHINE:
            said.append(word)
        elif not value:
            next(words, None)  # written --out DIR
    return " ".join(["python", "-m", spec.name if spec else Path(sys.argv[0]).stem, *said])
