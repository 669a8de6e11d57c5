"""A command as a program: one line and exit code 2 for a wrong argument, what is resumed after a stop, its folder."""

import contextlib
import datetime
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from mi_jax.evaluation import gate, verdict

flags.disclaim_key_flags()  # so that --help of a script lists these flags


def parse(argv: list[str]) -> list[str]:
    """The arguments that are not flags; --help ends the program, and so does a wrong flag, with one line and code 2."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except SystemExit:  # --help, for which absl has exit code 1
        sys.exit(0)


def main(body: Callable[[], None]) -> Callable[[list[str]], int]:
    """`body` as a program.

    A ValueError becomes one line on standard error and exit code 2, a KeyboardInterrupt one line and exit code 130.
    """

    def program(argv: list[str]) -> int:
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # it reports every accelerator we lack
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}: expected options as --name=value")
            body()
        except ValueError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            print("; ".join(["stopped", *map(str, stop.args)]), file=sys.stderr)
            return 130
        return 0

    return program


@contextlib.contextmanager
def resumable(how: str) -> Iterator[None]:
    """Says, where the program is stopped inside, how it is resumed."""
    _how_to_resume.append(how)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None
    finally:
        _how_to_resume.pop()


_how_to_resume: list[str] = []


def _stop(number: int, frame: Any) -> None:
    """Handles Ctrl-C and SIGTERM: one line, exit code 130, at once.

    Files are written whole or not at all, so nothing has to be tidied up. A KeyboardInterrupt would be lost in a
    callback of XLA, whose threads may also crash while Python shuts down.
    """
    del number, frame
    print("; ".join(["stopped", *_how_to_resume]), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)


def run_as_program(body: Callable[[], None], argv: list[str] | None = None) -> None:
    """Runs `body` as `main` does, and ends the process; `argv` is the program's name and its arguments."""

    def program(argv: list[str]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        sys.exit(main(body)(argv))

    app.run(program, argv=argv, flags_parser=parse)


def out_folder(out: str | None, name: str) -> Path:
    """The folder of this run, checked to be writable before anything is computed; created with the first result."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder = Path(out) if out else Path("results") / f"{stamp}-{name.replace(':', '-').replace('/', '-')}"
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"--out={folder}: expected a writable folder ({error.strerror})") from None
    return folder


def define_out(text: str, *, keeps: bool = True) -> None:
    """Defines --out, and --overwrite for a program that otherwise keeps what it finds there."""
    flags.DEFINE_string("out", None, text)
    if keeps:
        flags.DEFINE_bool("overwrite", False, "replace another run in --out, and run again what is finished there")


def define_limits() -> None:
    """Defines the flags of a gate: limits, and a price of queries for the verdict."""
    flags.DEFINE_list("fail_above", [], f"limits; exit code 1 where one is broken: {gate.EXPECTED}")
    flags.DEFINE_float("price_per_1000", None, "what 1,000 queries of the model cost, for the verdict", lower_bound=0)


def stated_limits() -> dict[str, Any]:
    """The entries of a record that the flags state: limits and a price. ValueError for a limit that is none."""
    texts, price = flags.FLAGS.fail_above, flags.FLAGS.price_per_1000
    gate.parse_limits(texts)
    return ({"limits": texts} if texts else {}) | ({} if price is None else {"price_per_1000": price})


def unstated(record: dict) -> dict:
    """The record without what `stated_limits` adds, which is no part of a run."""
    return {key: value for key, value in record.items() if key not in ("limits", "price_per_1000")}


def judge(record: dict, scores: dict[str, np.ndarray]) -> None:
    """Prints whether the limits of a record are kept, and ends the program with exit code 1 where one is broken."""
    checked = verdict.checked_limits(record, scores)
    for one in checked:
        print(f"limit {one}")
    if gate.any_broken(checked):
        sys.stdout.flush()
        raise SystemExit(1)


def kept(file: Path, is_same: Callable[[dict], bool]) -> dict | None:
    """The record in `file` if it is of the same run; None if there is no file, or --overwrite is given.

    ValueError for the record of another run.
    """
    if flags.FLAGS.overwrite or not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        if is_same(record):
            return record
    except (ValueError, KeyError, TypeError):  # cut off, or no record at all
        pass
    other = "it holds another run, or this one with other data, versions or code"
    raise ValueError(f"--out={file.parent}: {other}; expected another folder, or --overwrite")


def say_finished(folder: Path) -> None:
    """Says on standard error that nothing is computed."""
    print(f"{folder} holds this run, finished; --overwrite runs it again", file=sys.stderr)
