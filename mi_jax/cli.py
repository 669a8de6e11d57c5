"""The command `mi_jax audit --dataset=... --attacks=...` of the installed package, and the flags of all programs.

`python -m experiments.audit` is the same program. A wrong argument gives one line on standard error and exit code 2.
"""

import dataclasses
import datetime
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from absl import app, flags

import mi_jax
from mi_jax import store, study
from mi_jax.evaluation import report
from mi_jax.study.config import HELP, Config

flags.disclaim_key_flags()  # so that --help of a script lists these flags
COMMANDS = ("audit",)
USAGE = """mi_jax audit [--dataset=NAME] [--attacks=A,B] [--defense=NAME:STRENGTH] [--out=DIR]

Trains target and shadow models, attacks the targets, and writes a report: `mi_jax audit --help` lists all flags.
mi_jax --version prints the version."""


def define_flags() -> None:
    """Defines one absl flag for every field of Config."""
    for field in dataclasses.fields(Config):
        text, default = HELP[field.name], cast(Any, field.default)
        if field.name == "attacks":
            flags.DEFINE_list(field.name, default, text)
        elif field.type is bool:
            flags.DEFINE_bool(field.name, default, text)
        elif "float" in str(field.type):
            flags.DEFINE_float(field.name, default, text)
        elif "int" in str(field.type):
            flags.DEFINE_integer(field.name, default, text)
        else:
            flags.DEFINE_string(field.name, default, text)


def config_from_flags() -> Config:
    """The flags as a Config; `study.config.resolve` fills in defaults and checks it."""
    values = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(Config)}
    if values["attacks"] is not None:
        values["attacks"] = tuple(values["attacks"])
    return Config(**values)


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


def parse(argv: list[str]) -> list[str]:
    """The arguments that are not flags; a wrong flag ends the program with one line and exit code 2."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def main(body: Callable[[], None]) -> Callable[[list[str]], int]:
    """`body` as a program: a ValueError becomes one line on standard error and exit code 2."""

    def program(argv: list[str]) -> int:
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}: expected options as --name=value")
            body()
        except ValueError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        return 0

    return program


def finish(folder: Path, record: dict, scores: dict[str, np.ndarray]) -> None:
    """Writes a run, removes its cache, and prints its table."""
    report.write(folder, record, scores)
    store.remove(folder / "cache" / record["environment"]["run_digest"])
    show(record, folder)


def show(record: dict, folder: Path) -> None:
    """Prints the table of a record and the path of its report."""
    models = record["models"]
    print(
        f"\n{record['config']['dataset']}, {record['config']['model']}, n={record['config']['n_train']}, "
        f"{record['config']['num_targets']} targets: train accuracy {report.percent(models['train_accuracy'])}, "
        f"test {report.percent(models['test_accuracy'])}\n"
    )
    if "privacy" in models:
        print(f"{models['privacy']['statement']}\n")
    print(report.table(record))
    print(f"\nmean over targets [95 % interval]; {record['seconds']['total']:.0f} s; see {folder / 'report.html'}")


def audit_from_flags() -> None:
    """Runs an audit, or redraws a finished one with --from."""
    if flags.FLAGS["from"].value is not None:
        source = Path(flags.FLAGS["from"].value)
        report.read(source)
        folder = out_folder(flags.FLAGS.out or str(source), "")
        show(report.draw(source, folder), folder)
        return
    config = config_from_flags()
    folder = out_folder(flags.FLAGS.out, config.dataset)
    record, scores = study.run(config, out=folder)
    finish(folder, record, scores)


def run_audit(argv: list[str] | None = None) -> None:
    """The audit as a program, with its flags; `argv` is the program's name and its arguments."""
    define_flags()
    flags.DEFINE_string("out", None, "folder of the results; default: a dated folder in results/")
    flags.DEFINE_string("from", None, "folder of a finished run, whose table, figures and page are redrawn")
    app.run(lambda argv: sys.exit(main(audit_from_flags)(argv)), argv=argv, flags_parser=parse)


def run_command() -> None:
    """`mi_jax COMMAND [--flag=value ...]`."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "--version"):
        print(f"mi_jax {mi_jax.__version__}" if command == "--version" else USAGE)
        sys.exit(0)
    if command not in COMMANDS:
        expected = f"expected one of {', '.join(COMMANDS)}, as in mi_jax audit --help"
        print(f"error: command {command!r}: {expected}", file=sys.stderr)
        sys.exit(2)
    run_audit([f"{sys.argv[0]} {command}", *sys.argv[2:]])
