"""Collects the answers of a model for the rows of the pool it is attacked on, in cached chunks."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mi_jax import store
from mi_jax.querying import driver, oracle, sizes, white_box
from mi_jax.types import Answers, Attack, Dataset, Split

CHUNK, CHUNK_BYTES = 10 * sizes.POINTS, 2**28  # points per cache entry; a large network takes minutes for them


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


class AnswerLogs:
    """`target` with the answers of its named oracles stored in `folder` (None: not stored), and checked on the way.

    ValueError for an oracle that answers another number of classes than the data set has.
    """

    def __init__(self, target: Target, num_classes: int, folder: Path | None, random: bool):
        self._target, self._num_classes, self._folder, self._random = target, num_classes, folder, random
        self._logs: dict[str, tuple[int, store.AnswerLog]] = {}

    def target(self, k: int, access: str) -> Any:
        """The oracle of model k as a `Target`; a `WhiteBox` as it is."""
        model = self._target(int(k), access)
        if access == "gradient":
            return model
        if not isinstance(model, oracle.Oracle):
            raise ValueError(
                f"target({k}, {access!r}) is a {type(model).__name__}, expected an oracle (function_oracle)"
            )
        if model.num_classes != self._num_classes:
            expected = f"expected {self._num_classes}, as the data set has"
            raise ValueError(f"target({k}, {access!r}) answers {model.num_classes} classes: {expected}")
        if self._folder is None or model.name is None:
            return model
        if not isinstance(model.name, str):
            raise ValueError(f"name={model.name!r} of target {k}: expected text")
        readable = re.sub(r"[^\w.]+", "-", model.name)[:80]
        name = f"{readable}-{oracle.arrays_digest((model.name, access), ())}.answers"
        if name not in self._logs:
            self._logs[name] = int(k), store.AnswerLog(self._folder / name)
        owner, log = self._logs[name]
        if owner != k:
            raise ValueError(f"name={model.name}: models {owner} and {k} have it, expected a name for each model")
        return oracle.logged(model, log, check=not self._random)

    @property
    def failed(self) -> int:
        """Queries of earlier runs that got no answer."""
        return sum(log.unanswered for _, log in self._logs.values())

    @property
    def repeated(self) -> int:
        """Queries put again to compare stored answers with the target's."""
        return sum(log.probed for _, log in self._logs.values())


class Collector:
    """A `Collect` for rows of the pool, in chunks of CHUNK points, each an entry of `cache`.

    Answers are remembered, so that a model which serves several trials is asked once; `queries` counts what was put to
    each model. An oracle without a digest is not cached. `progress` is called with the queries made since its last
    call. A finished chunk counts as if all of its points were labelled correctly, so that the total is the planned one.
    Where a target raises, a note at the exception says how many queries the attack had put at most: with all of the
    round in which it raised.
    """

    def __init__(
        self,
        key: jax.Array,
        dataset: Dataset,
        target: Target,
        *,
        cache: store.Cache = store.no_cache,
        progress: Callable[[int], None] = lambda queries: None,
    ):
        self.key, self.dataset, self.target, self.cache, self.progress = key, dataset, target, cache, progress
        self.queries: dict[int, int] = {}  # put to each model
        self._put: dict[str, int] = {}  # by each attack to all models, also where no answer came
        self._remembered: dict[tuple, tuple[Answers, Attack]] = {}

    def __call__(self, attack: Attack, k: int, points: Points, cap: int | None = None) -> Answers:
        check_cap(attack, cap)
        k, asked = int(k), (id(attack), int(k), points.rows.tobytes(), cap)
        if asked in self._remembered:
            self.progress(len(points.rows) * max_cost(self.dataset, attack))
            return self._remembered[asked][0]
        try:
            answers = self._collect(attack, k, points, cap)
        except Exception as error:
            if put := self._put.get(attack.name):
                error.add_note(f"{attack.name}: up to {put} queries put to all models so far, stored answers included")
            raise
        self._remembered[asked] = answers, attack  # the attack too: a freed object's id may be that of another
        self.queries[k] = self.queries.get(k, 0) + int(answers.queries.sum())
        return answers

    def _collect(self, attack: Attack, k: int, points: Points, cap: int | None) -> Answers:
        left, chunks, size = cap, [], _chunk_size(self.dataset)
        for start in range(0, len(points.rows), size):
            rows, reported = points.rows[start : start + size], 0

            def report(queries: int) -> None:
                nonlocal reported
                reported += queries
                self._put[attack.name] = self._put.get(attack.name, 0) + queries
                self.progress(queries)

            chunks.append(self._chunk(attack, k, points, rows, start, (cap, left), report))
            self.progress(len(rows) * max_cost(self.dataset, attack) - reported)
            if left is not None:
                left = left - int(chunks[-1].queries.sum()) if chunks[-1].finished.all() else 0
        return _concatenated(chunks)

    def _chunk(self, attack: Attack, k: int, points: Points, rows: np.ndarray, start: int, caps, report) -> Answers:
        model, x, y = self.target(k, attack.access), self.dataset.x[rows], self.dataset.y[rows]

        def compute() -> store.Entry:
            if attack.access == "gradient":
                return _entry(white_box.distances(model, x, y))
            key = jax.random.fold_in(self.key, k)
            return _entry(driver.query(model, attack, key, x, y, rows, cap=caps[1], progress=report))

        digest = oracle.arrays_digest(("white box",), model.params) if attack.access == "gradient" else model.digest
        if digest is None:
            return _answers(compute())
        strength = () if attack.measure is None else attack.measure.strength
        depends_on = (digest, jax.random.key_data(self.key), points.rows, x, y, strength)
        return _answers(self.cache(_entry_name(attack, caps[0], k, len(points.rows), start, depends_on), compute))


def _chunk_size(dataset: Dataset) -> int:
    """The number of points of a chunk: CHUNK, or fewer where they would take more than CHUNK_BYTES."""
    return max(1, min(CHUNK, CHUNK_BYTES // dataset.x[:1].nbytes))


def _entry_name(attack: Attack, cap: int | None, k: int, points: int, start: int, depends_on: tuple) -> str:
    """The name of a cache entry. The digest covers all it depends on: model, key, rows, examples, labels, the attack.

    It also separates settings that differ only in punctuation, as -0.1 and 0.1.
    """
    code = json.dumps(store.describe_code((attack.neighbours, attack.measure and attack.measure[:3])))
    settings = attack.settings | ({"cap": cap} if cap else {})
    settings = " ".join(f"{name} {value}" for name, value in settings.items())
    full = f"{attack.name} {settings} model {k} points {start} of {points}"
    readable = re.sub(r"[^\w.]+", "-", full)
    return f"{readable[:120]}-{oracle.arrays_digest((full, attack.access, code), depends_on)}"


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
    return sizes.max_queries(attack, dataset.x.shape[1:], dataset.num_classes)


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
