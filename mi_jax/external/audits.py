"""Audit of a model that was trained elsewhere: one call from its predictions and known rows to a report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mi_jax import audit, store
from mi_jax.data import splits
from mi_jax.evaluation import entries, report
from mi_jax.external.cases import ALONE, WITH_SHADOWS, WITH_SURROGATES, Case

NUM_SHADOWS, TUNING_SHADOWS = 15, 4
BUDGET = 50


class Audited(NamedTuple):
    """The result of `audit_model`: what `audit.audit` returns, and where it was written."""

    record: dict
    scores: dict[str, np.ndarray]
    out: Path | None

    def __str__(self) -> str:
        where = f"\n\nsee {self.out / 'report.html'}" if self.out else ""
        return f"{report.table(self.record)}{where}"

    __repr__ = __str__

    def write(self, out: Path | str) -> "Audited":
        """The same audit, written to a folder as `report.write` does."""
        report.write(out, self.record, self.scores)
        return self._replace(out=Path(out))


def audit_model(
    predict: Any,
    members: tuple[Any, Any],
    nonmembers: tuple[Any, Any],
    *,
    fit: Any = None,
    attacks: Sequence[str] | Mapping[str, tuple] | None = None,
    budget: int = BUDGET,
    out: Path | str | None = None,
    num_shadows: int = NUM_SHADOWS,
    num_points: int | None = None,
    cap: int | None = None,
    group: str | None = None,
    name: str | None = None,
    dataset: str = "your data",
    allow_random_target: bool = False,
    seed: int = 0,
    stated: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, attack: None,
) -> Audited:
    """How much a model leaks about its training data, by rows that it was trained on and others like them.

    Args:
      predict: a fitted scikit-learn estimator or pipeline, XGBoost model, torch `nn.Module`, Keras or flax model, ONNX
        Runtime session, or a function of rows; it is asked in the form, units and columns of the rows given here, and
        may answer labels or scores in any coding (`labels.reading_of`).
      members, nonmembers: (x, y): rows that it was trained on, and rows that it was not. x is a data frame, an array
        [N features] or images; y are labels of any coding. The sides may be unequal. Draw both from one pool: where
        they differ in anything but membership, in date for example, attacks measure that.
      fit: how such a model is trained, for shadow models: a function (x, y) -> model, or a scikit-learn estimator,
        which is cloned; "surrogate" trains networks of ours on the target's labels instead. None: no shadow models;
        one threshold for all points, cross-fitted on the known rows.
      attacks: names of `attacks.ATTACKS`, or names with their candidates, as `audit.audit` takes them; None: gap and
        noise, and with shadow models those that judge every point. If the model has scores, also the baseline that
        sees them.
      budget: queries of an attack for one point.
      out: folder of the report; None: nothing is written. With `name` the answers of the model are stored there as they
        come, so that the same call goes on after an interruption; the name must change with the model.
      num_shadows: an odd number of shadow models.
      num_points: the most members, and the most non-members, that are attacked; None: all. With shadow models, as many
        of both sides: every point needs models trained with and without it.
      cap: the largest number of queries of an attack to the model.
      group: a column of the data frame whose values are subgroups of the exposed records.
      dataset: a name of the data, for the report.
      stated: further entries of the record: "limits" and "price_per_1000" for the verdict (`evaluation.gate`).
      progress: called as by `audit.audit`.

    Raises ValueError, in one line, for what does not fit together.
    """
    folder = Path(out) / "answers" if out and name else None
    case = Case(predict, members, nonmembers, dataset, group, folder, allow_random_target)
    judged = fit is not None
    split = case.split(seed, num_shadows) if judged else splits.alone(case.members, case.nonmembers)
    chosen = case.build(attacks, budget, _defaults(fit))
    target = case.targets(fit, split, seed, name)
    record, scores = audit.audit(
        jax.random.key(seed), case.dataset, split, target, chosen, num_points=_points(case, num_points, judged),
        cap=cap, tuning_shadows=TUNING_SHADOWS if judged else None, groups=case.groups,
        allow_random_target=allow_random_target, cross_fit=not judged,
        answers=folder, progress=progress,
    )  # fmt: skip
    settings = {"attacks": list(chosen), "budget": budget, "seed": seed, "cap": cap, "num_points": num_points}
    record["config"] |= settings | {"fit": None if fit is None else getattr(fit, "__qualname__", str(fit))}
    record["target"] = case.described()
    record["queries"]["accuracy"] += case.asked
    record["queries"]["failed"] += case.retried
    record["queries"]["total"] = entries.all_queries(record)
    result = Audited(record | dict(stated or {}), scores, None)
    if out:
        result = result.write(out)
        store.remove(Path(out) / "answers")
    return result


def _defaults(fit: Any) -> tuple[str, ...]:
    return ALONE if fit is None else WITH_SURROGATES if isinstance(fit, str) else WITH_SHADOWS


def _points(case: "Case", num_points: int | None, judged: bool) -> int | None:
    """The most points of a side; those that judge every point need pairs."""
    paired = min(len(case.members), len(case.nonmembers)) if judged else None
    return paired if num_points is None else min(num_points, paired or num_points)
