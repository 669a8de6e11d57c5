"""A run: its environment and digest, its cache, and its progress bar."""

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


def run_environment(
    config: Config, dataset: Dataset, recipe: Recipe, defense: Defense = Defense(), *, split: str = ""
) -> dict:
    """The environment of a run, with a digest of everything its results depend on: settings, data, versions, code."""
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("attacks", "data_dir")
    }
    settings |= {"recipe": recipe, "pool": [zlib.crc32(array.tobytes()) for array in (dataset.x, dataset.y)]}
    settings |= {"split_digest": split}
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(defense.strength)]
    settings |= {"strength": [zlib.crc32(leaf.tobytes()) for leaf in leaves]}
    settings |= {name: value for name, value in environment().items() if name != "commit"}
    scripts = _PACKAGE.parent / "experiments"  # in a checkout
    code = [_PACKAGE, *([scripts] if scripts.is_dir() else [])]
    return environment() | {"run_digest": store.run_digest(settings, code)}


def open_cache(out: Path | None, environment: dict) -> store.Cache:
    """The cache of a run in `out`, found again by the same run; `environment` gets the number of its entries."""
    if out is None:
        return store.no_cache
    folder = cache_path(out, environment)
    environment["parts_found"] = len(list(folder.iterdir())) if folder.is_dir() else 0
    if environment["parts_found"]:
        print(f"resuming: {environment['parts_found']} cached results in {folder}", file=sys.stderr)
    return store.cache_in(folder)


def grid_cache(cache: store.Cache, environments: list[dict]) -> store.Cache:
    """A Cache of models that are trained together; its names depend on the set of strengths."""
    if len(environments) == 1:
        return cache
    digests = " ".join(environment["run_digest"] for environment in environments)
    name = zlib.crc32(digests.encode())
    return lambda entry, compute: cache(f"grid-{name:08x}-{entry}", compute)


def weights_cache(cache: store.Cache, params: Params) -> store.Cache:
    """A Cache of the answers of these models; its names change with any weight.

    Models trained together with others may differ in rounding, and so may their answers.
    """
    leaves = jax.tree.leaves(params)
    checksum = functools.reduce(lambda crc, leaf: zlib.crc32(np.asarray(leaf).tobytes(), crc), leaves, 0)
    return lambda entry, compute: cache(f"{checksum:08x}-{entry}", compute)


def cache_path(out: Path, environment: dict) -> Path:
    """The folder of a run's cache in `out`; it changes with the settings and with any line of code."""
    return out / "cache" / environment["run_digest"]


class ProgressBar:
    """A tqdm bar with the remaining time, as a context; called with (done, total, description)."""

    def __init__(self, title: str, unit: str, total: int | None = None):
        # miniters=0: refresh by time, or an epoch would not be shown before another model is done.
        options = {"unit_scale": unit == "query", "dynamic_ncols": True, "miniters": 0}
        self.bar = tqdm(desc=title, unit=unit, total=total, **options)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_):
        self.bar.close()

    def __call__(self, done: int, total: int, description: str) -> None:
        self.bar.total = total
        self.bar.set_postfix_str(description, refresh=False)
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
    """The commit of the checkout of this file, with + if the tree differs; 'unknown' outside of a checkout."""
    if "site-packages" in _PACKAGE.parts:  # an environment may lie inside another checkout
        return "unknown"
    try:
        command = ["git", "-C", str(_PACKAGE), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
