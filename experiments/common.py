"""What the scripts share: the preset and the flags given, the rows that --only names, the program around them."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from mi_jax.cli import config_from_flags, define_flags, define_out, out_folder, resumable, run_as_program

flags.disclaim_key_flags()  # so that --help of a script lists these flags as its own


def parse_preset(
    presets: dict[str, Any], name: str, *, no_defense: str = "", fixed: tuple[str, ...] = ()
) -> tuple[Any, dict[str, Any], Path]:
    """(what the preset holds, the flags given, the folder of the records) of a script with presets of its own.

    Says on standard error if that folder holds a record, which the script is going to replace. ValueError for a flag
    that the script sets itself: --attacks always, those in `fixed`, and --defense where `no_defense` gives the reason.
    """
    preset = flags.FLAGS.preset
    if preset not in presets:
        raise ValueError(f"unknown preset {preset!r}: known are {', '.join(presets)}")
    values = dataclasses.asdict(config_from_flags())
    given = {field: value for field, value in values.items() if flags.FLAGS[field].present}
    if no_defense and "defense" in given:
        raise ValueError(f"defense={given['defense']}: expected none, {no_defense}")
    for field in ("attacks", *fixed):
        if field in given:
            value = ",".join(given[field]) if field == "attacks" else given[field]
            raise ValueError(f"{field}={value}: expected nothing, {name} chooses its own")
    folder = out_folder(flags.FLAGS.out or f"results/records/{name}-{preset}", "")
    if (folder / "record.json").exists() and "overwrite" not in flags.FLAGS:
        print(f"{folder / 'record.json'}: will be replaced", file=sys.stderr)
    return presets[preset], given, folder


def select_datasets(rows: dict[str, Any]) -> list[str]:
    """The data sets of a preset that --only names, or all of them."""
    names = flags.FLAGS.only or list(rows)
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise ValueError(f"only={unknown[0]}: preset {flags.FLAGS.preset} has the data sets {', '.join(rows)}")
    return names


def run(body: Callable[[], None], *, keeps: bool = False, **lists: str) -> None:
    """Runs a script of a table or figure.

    `keeps`: it replaces a record only with --overwrite. `lists`: its own flags that take a list -> their help.
    """
    define_flags()
    define_out("folder of the record; default: results/records/NAME-PRESET", keeps=keeps)
    for name, text in lists.items():
        flags.DEFINE_list(name, None, text)
        flags.register_validator(name, lambda values: values != [], "expected at least one, or no such flag for all")
    run_as_program(resumable("the same command resumes")(body))
