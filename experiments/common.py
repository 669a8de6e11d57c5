"""What the scripts of tables and figures share: presets of their own, the part of them that was asked for."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from mi_jax.cli import config_from_flags, define_flags, main, out_folder, parse

flags.disclaim_key_flags()  # so that --help of a script lists these flags as its own


def of_preset(
    presets: dict[str, Any], name: str, own_defense: str = "", own: tuple[str, ...] = ()
) -> tuple[Any, dict[str, Any], Path]:
    """(what the preset holds, the flags that were said, the folder of the records) of a script with its own presets.

    A script that chooses defenses itself says so in `own_defense`, and --defense is refused with these words; flags
    it sets itself are named in `own` and refused too. All of them choose their attacks.
    """
    preset = flags.FLAGS.preset
    if preset not in presets:
        raise ValueError(f"unknown preset {preset!r}: known are {', '.join(presets)}")
    given = dataclasses.asdict(config_from_flags())
    said = {field: value for field, value in given.items() if flags.FLAGS[field].present}
    if own_defense and "defense" in said:
        raise ValueError(f"defense={said['defense']}: expected none, {own_defense}")
    for field in ("attacks", *own):
        if field in said:
            value = ",".join(said[field]) if field == "attacks" else said[field]
            raise ValueError(f"{field}={value}: expected nothing, {name} chooses its own")
    return presets[preset], said, out_folder(flags.FLAGS.out or f"results/records/{name}-{preset}", "")


def chosen(rows: dict[str, Any], what: str) -> list[str]:
    """The keys of a preset's rows that --only asks for, or all of them."""
    asked = flags.FLAGS.only or list(rows)
    unknown = [name for name in asked if name not in rows]
    if unknown:
        raise ValueError(f"only={unknown[0]}: preset {flags.FLAGS.preset} has the {what}s {', '.join(rows)}")
    return asked


def start(body: Callable[[], None], **lists: str) -> None:
    """Runs a script of a table or figure; `lists`: its own flags that take a list -> their help."""
    define_flags()
    flags.DEFINE_string("out", None, "folder of the record; default: results/records/NAME-PRESET")
    for name, text in lists.items():
        flags.DEFINE_list(name, None, text)
        flags.register_validator(name, lambda asked: asked != [], "expected at least one, or no such flag for all")
    app.run(lambda argv: sys.exit(main(body)(argv)), flags_parser=parse)
