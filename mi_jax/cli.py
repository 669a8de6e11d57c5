"""The command `mi_jax audit --dataset=... --attacks=...` of the installed package, and the flags of all programs.

`python -m experiments.audit` is the same program. A wrong argument gives one line on standard error and exit code 2.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from absl import app, flags

import mi_jax
from mi_jax import data, store, study
from mi_jax.evaluation import exposed, report
from mi_jax.study import plugins
from mi_jax.study.config import HELP, Config, default_split, resolve

flags.disclaim_key_flags()  # so that --help of a script lists these flags
COMMANDS = ("audit",)
USAGE = """mi_jax audit [--dataset=NAME] [--attacks=A,B] [--defense=NAME:STRENGTH] [--out=DIR]

Trains target and shadow models, attacks the targets, and writes a report: `mi_jax audit --help` lists all flags.
mi_jax --version prints the version."""


def define_flags() -> None:
    """Defines one absl flag for every field of Config."""
    for field in dataclasses.fields(Config):
        text, default = HELP[field.name], cast(Any, field.default)
        default = None if field.name == "split" else default  # that of the data set
        if field.name == "attacks":
            flags.DEFINE_list(field.name, default, text)
        elif field.name == "plugin":
            flags.DEFINE_multi_string(field.name, default, text)
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
    values["split"] = values["split"] or default_split(values["dataset"], values["preset"])
    values["plugin"] = tuple(file for text in values["plugin"] for file in text.split(","))
    plugins.load_plugins(values["plugin"])
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


def finish(folder: Path, record: dict, scores: dict[str, np.ndarray]) -> None:
    """Writes a run, removes its cache, and prints its table."""
    report.write(folder, record, scores)
    store.remove(folder / "cache" / record["environment"]["run_digest"])
    show(record, folder, scores)


def show(record: dict, folder: Path, scores: dict[str, np.ndarray] | None = None) -> None:
    """Prints the table of a record, the path of its report, and above them, of its `scores`, whom labels name."""
    config, models, seconds = record["config"], record["models"], record.get("seconds", {})
    settings = [config["dataset"], *([config["model"], f"n={config['n_train']}"] if "model" in config else [])]
    settings = ", ".join([*settings, f"{len(models['train_accuracy']['values'])} targets"])
    train, test = (report.percent(models[f"{side}_accuracy"]) for side in ("train", "test"))
    print(f"\n{settings}: train accuracy {train}, test {test}\n")
    if "privacy" in models:
        print(f"{models['privacy']['statement']}\n")
    if scores and (found := exposed.leading_records(record, scores)):
        print(f"{exposed.exposed_sentences(found)[0]}\n")
    print(report.table(record))
    total = seconds.get("total", sum(seconds.values()))
    print(f"\nmean over targets [95 % interval]; {total:.0f} s; see {folder / 'report.html'}")


def audit_from_flags() -> None:
    """Runs an audit, or shows a finished one: that in --out if it is the same, that in --from with new figures."""
    if flags.FLAGS["from"].value is not None:
        redraw(Path(flags.FLAGS["from"].value))
        return
    config = config_from_flags()
    folder = out_folder(flags.FLAGS.out, config.dataset)
    _refuse_private_settings(config)
    if is_finished(folder, config):
        say_finished(folder)
        show(report.draw(folder), folder, report.read(folder)[1])
        return
    option = os.environ.get("MI_JAX_OUT", "--out")  # make sets it: there the option has another name
    with resumable(f"the same command with {option}={folder} resumes"):
        record, scores = study.run(config, out=folder)
        finish(folder, record, scores)


def is_finished(folder: Path, config: Config) -> bool:
    """Does `folder` hold the run of `config`, finished? ValueError if it holds another, unless --overwrite."""
    file = folder / "report.json"
    if flags.FLAGS.overwrite or not file.exists():
        return False
    expected, digest = study.identify(config)

    def is_same(record: dict) -> bool:
        return record["environment"]["run_digest"] == digest and set(record["attacks"]) == set(expected.attacks)

    return kept(file, is_same) is not None


def redraw(source: Path) -> None:
    """Draws table, figures and page of the run in `source`, with a copy of it if --out names another folder."""
    given = [name for name in HELP if flags.FLAGS[name].present]
    if given:
        raise ValueError(f"--{given[0]}: expected only --out beside --from, which computes nothing")
    record, scores = report.read(source)
    folder = out_folder(flags.FLAGS.out or str(source), "")
    elsewhere = folder.absolute() != source.absolute()
    if elsewhere:
        kept(folder / "report.json", lambda other: other == record)
    record = report.draw(source, folder)
    for name in ("scores.npz", "report.json") if elsewhere else ():
        store.write_file(folder / name, (source / name).read_bytes())
    show(record, folder, scores)


def _refuse_private_settings(config: Config) -> None:
    """Raises ValueError for a flag of private training with a defense whose training is not private."""
    given = [name for name in ("clip", "delta", "private_epochs", "private_rate") if flags.FLAGS[name].present]
    if given:
        dataset = data.load(config.dataset, config.data_dir)
        _, (defense,) = study.build_defenses(resolve(config, dataset), dataset, [config.defense])
        if defense.mechanism is None:
            value = getattr(config, given[0])
            raise ValueError(f"{given[0]}={value}: expected none with defense={config.defense}, which is not private")


def run_audit(argv: list[str] | None = None) -> None:
    """The audit as a program, with its flags; `argv` is the program's name and its arguments."""
    define_flags()
    define_out("folder of the results; default: a dated folder in results/")
    flags.DEFINE_string("from", None, "folder of a finished run, whose table, figures and page are redrawn")
    run_as_program(audit_from_flags, argv)


def define_out(text: str, *, keeps: bool = True) -> None:
    """Defines --out, and --overwrite for a program that otherwise keeps what it finds there."""
    flags.DEFINE_string("out", None, text)
    if keeps:
        flags.DEFINE_bool("overwrite", False, "replace another run in --out, and run again what is finished there")


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
    sys.modules["__main__"].__doc__ = USAGE  # absl shows it above the flags
    run_audit([f"{sys.argv[0]} {command}", *sys.argv[2:]])
