"""The flags of all programs that train models: one for every field of Config."""

import dataclasses
from typing import Any, cast

from absl import flags

from mi_jax.study import plugins
from mi_jax.study.config import HELP, Config, default_split

flags.disclaim_key_flags()  # so that --help of a script lists these flags


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
    flags.DEFINE_alias("tfds_dir", "data_dir")


def config_from_flags() -> Config:
    """The flags as a Config; `study.config.resolve` fills in defaults and checks it."""
    values = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(Config)}
    if values["attacks"] is not None:
        values["attacks"] = tuple(values["attacks"])
    values["split"] = values["split"] or default_split(values["dataset"], values["preset"])
    values["plugin"] = tuple(file for text in values["plugin"] for file in text.split(","))
    plugins.load_plugins(values["plugin"])
    return Config(**values)
