"""The command `mi_jax audit-model`: a model that was trained elsewhere, and files of known rows; a report."""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from mi_jax import external
from mi_jax.cli import program
from mi_jax.evaluation import report
from mi_jax.external import audits, files, shadows, targets

flags.disclaim_key_flags()  # so that --help of a script lists these flags
_AUDIT = ("budget", "num_shadows", "num_points", "cap", "group", "seed", "allow_random_target")
_SERVER = ("token_variable", "timeout", "deadline", "rate", "rows_per_request", "max_in_flight")


def define_model_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("target", None, f"the model: {targets.EXPECTED}")
    flags.DEFINE_string("members", None, f"rows that it was trained on: {files.EXPECTED}")
    flags.DEFINE_string("nonmembers", None, "rows that it was not trained on, from the same pool")
    flags.DEFINE_string("label", None, "the column of labels in .csv and .parquet files")
    fit = "shadow models: package.module:name of a function (x, y) -> model or of an estimator, "
    fit += f"or {shadows.SURROGATE}; default: none, thresholds are cross-fitted"
    flags.DEFINE_string("fit", None, fit)
    flags.DEFINE_list("attacks", None, "names of attacks; default: those that suit")
    flags.DEFINE_integer("budget", audits.BUDGET, "queries of an attack for one point")
    flags.DEFINE_integer("num_shadows", audits.NUM_SHADOWS, "shadow models, an odd number")
    flags.DEFINE_integer("num_points", None, "the most members, and non-members, that are attacked; default: all")
    flags.DEFINE_integer("cap", None, "the largest number of queries of an attack")
    flags.DEFINE_string("group", None, "a column whose values are subgroups of the exposed records")
    flags.DEFINE_string("name", None, "the name of the model, under which its answers are stored; default: --target")
    flags.DEFINE_integer("seed", 0, "of all that is drawn at random")
    flags.DEFINE_bool("allow_random_target", False, "audit a model that answers the same question differently")
    flags.DEFINE_bool("trust", False, "load a pickle, which runs whatever code its author put into it")
    _define_server_flags()
    program.define_limits()
    program.define_out("folder of the report; default: a dated folder in results/")


def _define_server_flags() -> None:
    flags.DEFINE_string("token_variable", None, "the environment variable that holds the token of a server")
    flags.DEFINE_float("timeout", 30.0, "seconds that a server has for one request")
    flags.DEFINE_float("deadline", 600.0, "seconds after which a request is tried no more")
    flags.DEFINE_float("rate", None, "the most requests a second; default: no limit")
    flags.DEFINE_integer("rows_per_request", 256, "the most rows in one request")
    flags.DEFINE_integer("max_in_flight", 4, "requests at the same time")


def audit_model_from_flags() -> None:
    """Runs the audit, or shows a finished one in --out."""
    given = flags.FLAGS
    for name in ("target", "members", "nonmembers"):
        if not getattr(given, name):
            raise ValueError(f"--{name} is missing: expected {flags.FLAGS[name].help}")
    stated = program.stated_limits()
    folder = program.out_folder(given.out, Path(given.target).name)
    settings = {name: getattr(given, name) for name in ("target", "members", "nonmembers", "label", "fit", *_AUDIT)}
    settings["attacks"] = given.attacks
    named = {name: settings[name] for name in ("target", "members", "nonmembers")}
    settings["digests"] = {name: files.file_digest(path) for name, path in named.items() if Path(path).exists()}
    if program.kept(folder / "report.json", lambda record: record["command"] == settings):
        program.say_finished(folder)
        record, scores = report.read(folder)
        audited = external.Audited(record | stated, scores, None).write(folder)
    else:
        with program.resumable(f"the same command with --out={folder} resumes"):
            audited = _audit(settings, folder, stated | {"command": settings})
    print(audited)
    program.judge(*audited[:2])


def _audit(settings: dict[str, Any], folder: Path, stated: dict[str, Any]) -> external.Audited:
    given = flags.FLAGS
    members, nonmembers = (files.read_rows(getattr(given, side), given.label) for side in ("members", "nonmembers"))
    model = targets.load_target(given.target, trust=given.trust, **{name: getattr(given, name) for name in _SERVER})
    fit = targets.load_object(given.fit) if given.fit and given.fit != shadows.SURROGATE else given.fit
    options = {name: settings[name] for name in _AUDIT}
    name = given.name or " ".join([given.target, settings["digests"].get("target", "")])
    with tqdm(total=0, unit=" queries", unit_scale=True, disable=not sys.stderr.isatty(), leave=False) as bar:

        def progress(done: int, total: int, attack: str) -> None:
            bar.total, bar.n = total, done
            bar.set_description(attack, refresh=False)
            bar.refresh()

        return external.audit_model(
            model, members, nonmembers, fit=fit, attacks=given.attacks, out=folder, name=name,
            dataset=Path(given.members).name, stated=stated, progress=progress, **options,
        )  # fmt: skip


def run_audit_model(argv: list[str] | None = None) -> None:
    """The audit of a model as a program; `argv` is the program's name and its arguments."""
    define_model_flags()
    program.run_as_program(audit_model_from_flags, argv)
