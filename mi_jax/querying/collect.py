"""Collects what a model answers about the rows it is attacked on, in chunks that a cache may hold already."""

import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mi_jax import store
from mi_jax.querying import driver, oracle, white_box
from mi_jax.types import Answers, Attack, Dataset, Split

CHUNK = 10 * driver.POINTS  # points of a cache entry; their answers take a large network minutes


class Points(NamedTuple):
    """The rows of the pool a model is attacked on, members first."""

    rows: np.ndarray  # [2n]
    is_member: np.ndarray  # [2n] bool

    def first(self, most: int) -> "Points":
        """The first `most` members and the first `most` non-members."""
        rank = np.where(self.is_member, np.cumsum(self.is_member), np.cumsum(~self.is_member))
        return Points(self.rows[rank <= most], self.is_member[rank <= most])


def select_points(split: Split, k: int, num_points: int | None) -> Points:
    """The rows model k is attacked on: its first `num_points` members and non-members (None: all)."""
    members, nonmembers = split.members[k][:num_points], split.nonmembers[k][:num_points]
    is_member = np.arange(len(members) + len(nonmembers)) < len(members)
    return Points(np.concatenate([members, nonmembers]), is_member)


Collect = Callable[..., Answers]  # (attack, model, points, cap=None) -> what that model answers about these points
Target = Callable[[int, str], oracle.Oracle | white_box.WhiteBox]  # (model, access) -> that model as an attack sees it


def collector(
    key: jax.Array,
    dataset: Dataset,
    target: Target,
    *,
    cache: store.Cache = store.no_cache,
    progress: Callable[[int], None] = lambda queries: None,
) -> Collect:
    """A `Collect` about rows of the pool, in chunks of CHUNK points that `cache` may hold already.

    `progress` is called with the queries made since its last call; a finished chunk counts as what it costs if all
    of its points are labelled correctly.
    """

    def collect(attack: Attack, k: int, points: Points, cap: int | None = None) -> Answers:
        check_cap(attack, cap)
        left, chunks = cap, []
        for start in range(0, len(points.rows), CHUNK):
            rows, reported = points.rows[start : start + CHUNK], 0

            def report(queries: int) -> None:
                nonlocal reported
                reported += queries
                progress(queries)

            def compute(rows=rows, left=left, report=report) -> store.Entry:
                seen, x, y = target(k, attack.access), dataset.x[rows], dataset.y[rows]
                if attack.access == "gradient":
                    return _entry(white_box.distances(seen, x, y))
                model_key = jax.random.fold_in(key, k)
                return _entry(driver.query(seen, attack, model_key, x, y, rows, cap=left, progress=report))

            chunks.append(_answers(cache(_entry_name(attack, cap, k, points.rows, start), compute)))
            progress(len(rows) * max_cost(dataset, attack) - reported)
            if cap is not None:
                left = left - int(chunks[-1].queries.sum()) if chunks[-1].finished.all() else 0
        return _concatenated(chunks)

    return collect


def _entry_name(attack: Attack, cap: int | None, k: int, rows: np.ndarray, start: int) -> str:
    """The name of a cache entry. Its checksum separates what only signs or brackets differ in: -0.1 and 0.1."""
    settings = attack.settings | ({"cap": cap} if cap else {})
    settings = " ".join(f"{name} {value}" for name, value in settings.items())
    asked = f"model {k} points {start} of {len(rows)} {zlib.crc32(rows.tobytes()):08x}"
    full = f"{attack.name} {settings} {asked}"
    readable = re.sub(r"[^\w.]+", "-", full)
    return f"{readable}-{zlib.crc32(full.encode()):08x}"


def check_cap(attack: Attack, cap: int | None) -> None:
    """ValueError for an attack that no cap on queries bounds."""
    if cap is not None and attack.access == "gradient":
        raise ValueError(f"cap={cap}: expected none with {attack.name}, which computes gradients")


def cache_by_model(cache_of: Callable[[int], store.Cache]) -> store.Cache:
    """A Cache that leaves what model k answered to `cache_of(k)`."""

    def cache(name: str, compute: Callable[[], store.Entry]) -> store.Entry:
        return cache_of(int(re.search(r"-model-(\d+)-points-", name)[1]))(name, compute)

    return cache


def max_cost(dataset: Dataset, attack: Attack) -> int:
    """The most queries, or gradients, that one point may take."""
    if attack.access == "gradient":
        return white_box.Settings().searches * white_box.Settings().iterations
    return driver.max_queries(attack, dataset.x.shape[1:], dataset.num_classes)


def _entry(answers: Answers) -> store.Entry:
    phases = {f"phase {name}": np.int64(queries) for name, queries in answers.phases.items()}
    return {"features": answers.features, "queries": answers.queries, "finished": answers.finished, **phases}


def _answers(entry: store.Entry) -> Answers:
    phases = {name.removeprefix("phase "): int(value) for name, value in entry.items() if name.startswith("phase ")}
    return Answers(entry["features"], entry["queries"], entry["finished"], phases)


def _concatenated(chunks: list[Answers]) -> Answers:
    arrays = [np.concatenate(columns) for columns in zip(*(chunk[:3] for chunk in chunks), strict=True)]
    names = dict.fromkeys(name for chunk in chunks for name in chunk.phases)
    return Answers(*arrays, {name: sum(chunk.phases.get(name, 0) for chunk in chunks) for name in names})
