"""A run: what its results depend on, how much of it is finished already, and the bar that shows how it goes."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mi_jax import store
from mi_jax.study.config import Config
from mi_jax.types import Dataset, Defense, Params, Recipe

_PACKAGE = Path(__file__).resolve().parent.parent


def surroundings(
    config: Config, dataset: Dataset, recipe: Recipe, defense: Defense = Defense(), *, split: str = ""
) -> dict:
    """The environment of a run, with a digest of all that its results depend on: settings, data, versions, code."""
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("attacks", "data_dir")
    }
    settings |= {"recipe": recipe, "pool": [zlib.crc32(np.ascontiguousarray(a)) for a in (dataset.x, dataset.y)]}
    settings |= {"split_digest": split}
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(defense.strength)]
    settings |= {"strength": [zlib.crc32(np.ascontiguousarray(leaf)) for leaf in leaves]}
    settings |= {name: value for name, value in environment().items() if name != "commit"}
    beside = _PACKAGE.parent / "experiments"  # its scripts, in a checkout
    return environment() | {"run_digest": store.digest(settings, [_PACKAGE, *([beside] if beside.is_dir() else [])])}


def keeper(out: Path | None, environment: dict) -> store.Keep:
    """Keeps what is finished of a run in `out`, where the same run finds it again; how much it found is on record."""
    if out is None:
        return store.keep_nothing
    folder = parts(out, environment)
    environment["parts_found"] = len(list(folder.iterdir())) if folder.is_dir() else 0
    if environment["parts_found"]:
        print(f"going on with the {environment['parts_found']} finished parts in {folder}", file=sys.stderr)
    return store.keep_in(folder)


def of_grid(keep: store.Keep, told: list[dict]) -> store.Keep:
    """The Keep of models that are trained together, under names of their own for every set of strengths."""
    if len(told) == 1:
        return keep
    name = zlib.crc32(" ".join(environment["run_digest"] for environment in told).encode())
    return lambda part, compute: keep(f"grid-{name:08x}-{part}", compute)


def of_weights(keep: store.Keep, params: Params) -> store.Keep:
    """The Keep of what these models answer, under names that change with any of their weights.

    Models trained side by side in another company may differ in rounding, and old answers would not be theirs.
    """
    told = functools.reduce(lambda crc, leaf: zlib.crc32(np.ascontiguousarray(leaf), crc), jax.tree.leaves(params), 0)
    return lambda part, compute: keep(f"{told:08x}-{part}", compute)


def parts(out: Path, environment: dict) -> Path:
    """The folder in `out` of what is finished of a run: another one for other settings or another line of code."""
    return out / "parts" / environment["run_digest"]


class bar:
    """A tqdm bar with the time left, as a context; called with (done, total, what is being done)."""

    def __init__(self, title: str, unit: str, total: int | None = None):
        # miniters=0: by the clock, or an epoch would not be shown before another model is done.
        how = {"unit_scale": unit == "query", "dynamic_ncols": True, "miniters": 0}
        self.bar = tqdm(desc=title, unit=unit, total=total, **how)

    def __enter__(self) -> "bar":
        return self

    def __exit__(self, *_):
        self.bar.close()

    def __call__(self, done: int, total: int, what: str) -> None:
        self.bar.total = total
        self.bar.set_postfix_str(what, refresh=False)
        self.add(done - self.bar.n)

    def add(self, more: int) -> None:
        self.bar.update(more)


def environment() -> dict:
    """Versions, device and commit of this run."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the checkout this file stands in, with + where the tree differs; 'unknown' outside of one."""
    if "site-packages" in _PACKAGE.parts:  # of an environment that may lie in another checkout
        return "unknown"
    try:
        ask = ["git", "-C", str(_PACKAGE), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
