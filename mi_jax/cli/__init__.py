"""The command `mi_jax` of the installed package, and what every program here shares.

`audit` trains and attacks models of ours; `python -m experiments.audit` is the same program. `audit_model` attacks one
that was trained elsewhere. `program` makes a function a program, `settings` has the flags of Config.
"""

import sys
from collections.abc import Callable

from absl import flags

import mi_jax
from mi_jax.cli.audit import audit_from_flags, run_audit, show
from mi_jax.cli.audit_model import run_audit_model
from mi_jax.cli.compare import run_compare
from mi_jax.cli.program import define_out, kept, main, out_folder, parse, resumable, run_as_program, say_finished
from mi_jax.cli.settings import config_from_flags, define_flags

__all__ = [
    "audit_from_flags",
    "config_from_flags",
    "define_flags",
    "define_out",
    "kept",
    "main",
    "out_folder",
    "parse",
    "resumable",
    "run_as_program",
    "run_audit",
    "run_command",
    "say_finished",
    "show",
]

flags.disclaim_key_flags()  # so that --help of a command lists its flags
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "audit": run_audit,
    "audit-model": run_audit_model,
    "compare": run_compare,
}
USAGE = """mi_jax audit [--dataset=NAME] [--attacks=A,B] [--defense=NAME:STRENGTH] [--out=DIR]
    trains target and shadow models, attacks the targets, and writes a report
mi_jax audit-model --target=MODEL --members=FILE --nonmembers=FILE [--label=COLUMN] [--out=DIR]
    attacks a model that was trained elsewhere
mi_jax compare BEFORE AFTER
    what changed from one report to another
mi_jax COMMAND --help lists all flags; mi_jax --version prints the version."""


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
    COMMANDS[command]([f"{sys.argv[0]} {command}", *sys.argv[2:]])
