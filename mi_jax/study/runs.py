"""A run: its digest, its cache, and its progress bar."""

import dataclasses
import datetime
import sys
import time
import uuid
import zlib
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mi_jax import defenses, store
from mi_jax.data.groups import groups_of
from mi_jax.environment import OF_ONE_RUN, environment
from mi_jax.study import plugins
from mi_jax.study.config import Config
from mi_jax.types import Dataset, Defense, Recipe

SECONDS_BETWEEN_LINES = 10
_PACKAGE = Path(__file__).resolve().parent.parent


def run_environment(
    config: Config, dataset: Dataset, recipe: Recipe, defense: Defense = Defense(), *, split: str = ""
) -> dict:
    """The environment of a run, with a digest of everything its results depend on: settings, data, versions, code."""
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("attacks", "data_dir")
    }
    optimizer = recipe.optimizer
    if not isinstance(optimizer, str):  # an object: nothing says whether that of another run is the same
        optimizer = f"object {uuid.uuid4()}"
    settings |= {"recipe": recipe._replace(optimizer=optimizer)}
    settings |= {"pool": [zlib.crc32(array.tobytes()) for array in (dataset.x, dataset.y)]}
    settings |= {"split_digest": split}
    if config.group is not None:
        settings |= {"groups": zlib.crc32("\0".join(groups_of(dataset, config.group)).encode())}
    settings |= {"plugins": plugins.digest(config.plugin, config.model or "", defenses.split_names(config.defense))}
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(defense.strength)]
    settings |= {"strength": [zlib.crc32(leaf.tobytes()) for leaf in leaves]}
    current = environment()
    settings |= {name: value for name, value in current.items() if name not in OF_ONE_RUN}
    scripts = _PACKAGE.parent / "experiments"  # in a checkout
    code = [_PACKAGE, *([scripts] if scripts.is_dir() else [])]
    return current | {"run_digest": store.run_digest(settings, code)}


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


def cache_path(out: Path, environment: dict) -> Path:
    """The folder of a run's cache in `out`; it changes with the settings and with any line of code."""
    return out / "cache" / environment["run_digest"]


class ProgressBar:
    """The progress of a job with the time that is left, on standard error; a context.

    It is called with (done, total, description). Where `total` changes or `done` falls, another stage begins, whose
    remaining time follows from its own speed: queries of one attack take other times than those of the next. A
    terminal gets a bar; a file gets a line, every ten seconds at most.
    """

    def __init__(self, title: str, unit: str, total: int | None = None):
        self.title, self.unit, self.done, self.total, self.description = title, unit, 0, total, ""
        self.started = self.said = time.monotonic()
        # miniters=0: refresh by time, or an epoch would not be shown before another model is done. smoothing=0: the
        # mean speed, because the speed of single batches jumps.
        options = {"unit_scale": unit == "query", "dynamic_ncols": True, "miniters": 0, "smoothing": 0}
        self.bar = tqdm(desc=title, unit=unit, total=total, disable=not sys.stderr.isatty(), **options)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_):
        self.bar.close()

    def __call__(self, done: int, total: int, description: str) -> None:
        if done < self.done or self.total not in (None, total):
            self.bar.reset(total)
            self.done, self.started = 0, time.monotonic()
        self.total = self.bar.total = total
        self.description = description
        self.bar.set_postfix_str(description, refresh=False)
        self.add(done - self.done)

    def add(self, more: int) -> None:
        """Counts `more` units as done."""
        self.done += more
        self.bar.update(more)
        if self.bar.disable and time.monotonic() - self.said >= SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """What is done and what is left, as one line for a file."""
        units = {"query": "queries"}.get(self.unit, f"{self.unit}s")
        parts = [f"{self.done:,}{f' of {self.total:,}' if self.total else ''} {units}"]
        parts += [self.description] if self.description else []
        if self.total and self.done:
            seconds = (time.monotonic() - self.started) * max(0, self.total - self.done) / self.done
            parts.append(f"about {datetime.timedelta(seconds=round(seconds))} left of this stage")
        return f"{self.title}: {'; '.join(parts)}"
