"""Asking a model about the points it is attacked on: in parts, each of which is kept once it is answered."""

import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mi_jax import store
from mi_jax.querying import driver, oracle, white_box
from mi_jax.types import Answers, Attack, Dataset, Split

PART = 10 * driver.POINTS  # points; their answers take a large network minutes


class Points(NamedTuple):
    """The rows of the pool a model is attacked on, members first."""

    rows: np.ndarray  # [2n]
    is_member: np.ndarray  # [2n] bool

    def first(self, most: int) -> "Points":
        """The first `most` of either side."""
        rank = np.where(self.is_member, np.cumsum(self.is_member), np.cumsum(~self.is_member))
        return Points(self.rows[rank <= most], self.is_member[rank <= most])


def points_of(split: Split, k: int, num_points: int | None) -> Points:
    """The rows model k is attacked on: the first `num_points` of either side (None: all)."""
    members, nonmembers = split.members[k][:num_points], split.nonmembers[k][:num_points]
    is_member = np.arange(len(members) + len(nonmembers)) < len(members)
    return Points(np.concatenate([members, nonmembers]), is_member)


Ask = Callable[..., Answers]  # (attack, model, points, cap=None) -> what that model answers about these points
Target = Callable[[int, str], oracle.Oracle | white_box.Glass]  # (model, access) -> that model as an attack sees it


def interview(
    key: jax.Array,
    dataset: Dataset,
    target: Target,
    *,
    keep: store.Keep = store.keep_nothing,
    tell: Callable[[int], None] = lambda queries: None,
) -> Ask:
    """An `Ask` about rows of the pool, in parts of PART points that `keep` may know already.

    `tell` hears how far it got, in queries: for every part, in all, what it costs if all points are labelled
    rightly.
    """

    def ask(attack: Attack, k: int, points: Points, cap: int | None = None) -> Answers:
        rows, left, parts = points.rows, cap, []
        check_cap(attack, cap)
        what = " ".join(f"{name} {value}" for name, value in (attack.settings | ({"cap": cap} if cap else {})).items())
        for start in range(0, len(rows), PART):
            part, told = rows[start : start + PART], 0

            def put(queries: int) -> None:
                nonlocal told
                told += queries
                tell(queries)

            def compute(part=part, left=left, put=put) -> store.Part:
                seen, x, y = target(k, attack.access), dataset.x[part], dataset.y[part]
                if attack.access == "gradient":
                    return _packed(white_box.query(seen, x, y))
                own = jax.random.fold_in(key, k)
                return _packed(driver.query(seen, attack, own, x, y, part, cap=left, progress=put))

            asked = f"model {k} points {start} of {len(rows)} {zlib.crc32(rows.tobytes()):08x}"
            parts.append(_unpacked(keep(_name(f"{attack.name} {what} {asked}"), compute)))
            tell(len(part) * price(dataset, attack) - told)
            if cap is not None:
                left = left - int(parts[-1].queries.sum()) if parts[-1].finished.all() else 0
        return _joined(parts)

    return ask


def _name(told: str) -> str:
    """A file's name for what was asked. The sum keeps apart what only signs or brackets tell apart: -0.1 and 0.1."""
    written = re.sub(r"[^\w.]+", "-", told)
    return f"{written}-{zlib.crc32(told.encode()):08x}"


def check_cap(attack: Attack, cap: int | None) -> None:
    """ValueError for an attack whose bill no cap on queries bounds."""
    if cap is not None and attack.access == "gradient":
        raise ValueError(f"cap={cap}: expected none with {attack.name}, which spends gradients")


def by_model(keep_of: Callable[[int], store.Keep]) -> store.Keep:
    """A Keep that leaves what was asked of model k to `keep_of(k)`."""

    def keep(name: str, compute: Callable[[], store.Part]) -> store.Part:
        return keep_of(int(re.search(r"-model-(\d+)-points-", name)[1]))(name, compute)

    return keep


def price(dataset: Dataset, attack: Attack) -> int:
    """The most that one point may cost."""
    if attack.access == "gradient":
        return white_box.Settings().searches * white_box.Settings().iterations
    return driver.price(attack, dataset.x.shape[1:], dataset.num_classes)


def _packed(answers: Answers) -> store.Part:
    phases = {f"phase {name}": np.int64(queries) for name, queries in answers.phases.items()}
    return {"features": answers.features, "queries": answers.queries, "finished": answers.finished, **phases}


def _unpacked(part: store.Part) -> Answers:
    phases = {name.removeprefix("phase "): int(value) for name, value in part.items() if name.startswith("phase ")}
    return Answers(part["features"], part["queries"], part["finished"], phases)


def _joined(parts: list[Answers]) -> Answers:
    arrays = [np.concatenate(columns) for columns in zip(*(part[:3] for part in parts), strict=True)]
    names = dict.fromkeys(name for part in parts for name in part.phases)
    return Answers(*arrays, {name: sum(part.phases.get(name, 0) for part in parts) for name in names})
