"""The command `mi_jax audit --dataset=... --attacks=...`: trains models of ours, attacks them, and writes a report."""

import os
from pathlib import Path

import numpy as np
from absl import flags

from mi_jax import data, store, study
from mi_jax.cli import program
from mi_jax.cli.settings import config_from_flags, define_flags
from mi_jax.evaluation import exposed, report
from mi_jax.study.config import HELP, Config, resolve

flags.disclaim_key_flags()  # so that --help of a script lists these flags


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


def audit_from_flags() -> Path:
    """Runs an audit, or shows a finished one: that in --out if it is the same, that in --from with new figures.

    Returns the folder of the report.
    """
    if flags.FLAGS["from"].value is not None:
        return redraw(Path(flags.FLAGS["from"].value))
    config = config_from_flags()
    folder = program.out_folder(flags.FLAGS.out, config.dataset)
    _refuse_private_settings(config)
    if is_finished(folder, config):
        program.say_finished(folder)
        show(report.draw(folder), folder, report.read(folder)[1])
        return folder
    option = os.environ.get("MI_JAX_OUT", "--out")  # make sets it: there the option has another name
    with program.resumable(f"the same command with {option}={folder} resumes"):
        record, scores = study.run(config, out=folder)
        finish(folder, record, scores)
    return folder


def audit_and_judge() -> None:
    """`audit_from_flags`, then the limits of --fail_above on its report."""
    stated = program.stated_limits()
    folder = audit_from_flags()
    if stated:
        record, scores = report.read(folder)
        report.write(folder, record | stated, scores)
        program.judge(record | stated, scores)


def is_finished(folder: Path, config: Config) -> bool:
    """Does `folder` hold the run of `config`, finished? ValueError if it holds another, unless --overwrite."""
    file = folder / "report.json"
    if flags.FLAGS.overwrite or not file.exists():
        return False
    expected, digest = study.identify(config)

    def is_same(record: dict) -> bool:
        return record["environment"]["run_digest"] == digest and set(record["attacks"]) == set(expected.attacks)

    return program.kept(file, is_same) is not None


def redraw(source: Path) -> Path:
    """Draws table, figures and page of the run in `source`, with a copy of it if --out names another folder.

    Returns the folder of the report.
    """
    given = [name for name in HELP if flags.FLAGS[name].present]
    if given:
        raise ValueError(f"--{given[0]}: expected only --out beside --from, which computes nothing")
    record, scores = report.read(source)
    folder = program.out_folder(flags.FLAGS.out or str(source), "")
    elsewhere = folder.absolute() != source.absolute()
    if elsewhere:
        program.kept(folder / "report.json", lambda other: program.unstated(other) == program.unstated(record))
    record = report.draw(source, folder)
    for name in ("scores.npz", "report.json") if elsewhere else ():
        store.write_file(folder / name, (source / name).read_bytes())
    show(record, folder, scores)
    return folder


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
    program.define_out("folder of the results; default: a dated folder in results/")
    flags.DEFINE_string("from", None, "folder of a finished run, whose table, figures and page are redrawn")
    program.define_limits()
    program.run_as_program(audit_and_judge, argv)
