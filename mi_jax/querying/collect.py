"""Collects the answers of a model for the rows of the pool it is attacked on, in cached chunks."""

import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mi_jax import store
from mi_jax.querying import driver, white_box
from mi_jax.types import Answers, Attack, Dataset, Split

CHUNK = 10 * driver.POINTS  # points per cache entry; a large network takes minutes for them


class Points(NamedTuple):
    """The rows of the pool a model is attacked on, members first."""

    rows: np.ndarray  # [2n]
    is_member: np.ndarray  # [2n] bool

    def first(self, count: int) -> "Points":
        """The first `count` members and the first `count` non-members."""
        rank = np.where(self.is_member, np.cumsum(self.is_member), np.cumsum(~self.is_member))
        return Points(self.rows[rank <= count], self.is_member[rank <= count])


def select_points(split: Split, k: int, num_points: int | None) -> Points:
    """The rows model k is attacked on: its first `num_points` members and non-members (None: all)."""
    members, nonmembers = split.members[k][:num_points], split.nonmembers[k][:num_points]
    is_member = np.arange(len(members) + len(nonmembers)) < len(members)
    return Points(np.concatenate([members, nonmembers]), is_member)


Collect = Callable[..., Answers]  # (attack, k, points, cap=None) -> the answers of model k for these points
Target = Callable[[int, str], Any]  # (model, access) -> its Oracle, or its WhiteBox for "gradient"


def collector(
    key: jax.Array,
    dataset: Dataset,
    target: Target,
    *,
    cache: store.Cache = store.no_cache,
    progress: Callable[[int], None] = lambda queries: None,
) -> Collect:
    """A `Collect` for rows of the pool, in chunks of CHUNK points, each an entry of `cache`.

    `progress` is called with the queries made since its last call. A finished chunk counts as if all of its points
    were labelled correctly, so that the total is the planned one.
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
                model, x, y = target(k, attack.access), dataset.x[rows], dataset.y[rows]
                if attack.access == "gradient":
                    return _entry(white_box.distances(model, x, y))
                model_key = jax.random.fold_in(key, k)
                return _entry(driver.query(model, attack, model_key, x, y, rows, cap=left, progress=report))

            chunks.append(_answers(cache(_entry_name(attack, cap, k, points.rows, start), compute)))
            progress(len(rows) * max_cost(dataset, attack) - reported)
            if left is not None:
                left = left - int(chunks[-1].queries.sum()) if chunks[-1].finished.all() else 0
        return _concatenated(chunks)

    return collect


def _entry_name(attack: Attack, cap: int | None, k: int, rows: np.ndarray, start: int) -> str:
    """The name of a cache entry. The checksum separates settings that differ only in punctuation, as -0.1 and 0.1."""
    settings = attack.settings | ({"cap": cap} if cap else {})
    settings = " ".join(f"{name} {value}" for name, value in settings.items())
    points = f"model {k} points {start} of {len(rows)} {zlib.crc32(rows.tobytes()):08x}"
    full = f"{attack.name} {settings} {points}"
    readable = re.sub(r"[^\w.]+", "-", full)
    return f"{readable}-{zlib.crc32(full.encode()):08x}"


def check_cap(attack: Attack, cap: int | None) -> None:
    """Raises ValueError for a cap on an attack that makes no queries."""
    if cap is not None and attack.access == "gradient":
        raise ValueError(f"cap={cap}: expected none with {attack.name}, which computes gradients")


def cache_by_model(cache_of: Callable[[int], store.Cache]) -> store.Cache:
    """A Cache that keeps the answers of model k in `cache_of(k)`."""

    def cache(name: str, compute: Callable[[], store.Entry]) -> store.Entry:
        (k,) = re.findall(r"-model-(\d+)-points-", name)
        return cache_of(int(k))(name, compute)

    return cache


def max_cost(dataset: Dataset, attack: Attack) -> int:
    """The largest number of queries, or of gradients, for one point."""
    if attack.access == "gradient":
        return white_box.Settings().searches * white_box.Settings().iterations
    return driver.max_queries(attack, dataset.x.shape[1:], dataset.num_classes)


def _entry(answers: Answers) -> store.Entry:
    phases = {f"phase {name}": np.asarray(queries, np.int64) for name, queries in answers.phases.items()}
    return {"features": answers.features, "queries": answers.queries, "finished": answers.finished, **phases}


def _answers(entry: store.Entry) -> Answers:
    phases = {name.removeprefix("phase "): int(value) for name, value in entry.items() if name.startswith("phase ")}
    return Answers(entry["features"], entry["queries"], entry["finished"], phases)


def _concatenated(chunks: list[Answers]) -> Answers:
    features, queries, finished = map(np.concatenate, zip(*(chunk[:3] for chunk in chunks), strict=True))
    names = dict.fromkeys(name for chunk in chunks for name in chunk.phases)
    phases = {name: sum(chunk.phases.get(name, 0) for chunk in chunks) for name in names}
    return Answers(features, queries, finished, phases)
