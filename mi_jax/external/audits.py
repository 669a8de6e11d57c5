"""Audit of a model that was trained elsewhere: one call from its predictions and known rows to a report."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mi_jax import attacks as catalogue
from mi_jax import audit, store
from mi_jax.data import labels, splits, tables
from mi_jax.evaluation import entries, report
from mi_jax.external import shadows
from mi_jax.external.predictors import Predictor, predictor_of
from mi_jax.querying import oracle
from mi_jax.querying.collect import Target
from mi_jax.types import Dataset, PerExample, Split

ALONE = ("gap", "noise")  # attacks by default, without shadow models; on images also SHIFTED
SHIFTED = ("translation",)
WITH_SHADOWS = ("gap", "noise", "calibrated_label", "calibrated_noise:5", "chosen:1", "chosen:5", "chosen:25")
WITH_SURROGATES = ("gap", "noise", "chosen_offline:1", "chosen_offline:5", "chosen_offline:25")
NUM_SHADOWS, TUNING_SHADOWS = 15, 4
BUDGET = 50
PROBE = 128  # known rows, half of them members, whose answers show how a model codes its labels


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
      progress: called as by `audit.audit`.

    Raises ValueError, in one line, for what does not fit together.
    """
    case = Case(predict, members, nonmembers, dataset, group)
    judged = fit is not None
    split = case.split(seed, num_shadows) if judged else splits.alone(case.members, case.nonmembers)
    chosen = case.build(attacks, budget, _defaults(fit))
    target = case.targets(fit, split, seed, name)
    record, scores = audit.audit(
        jax.random.key(seed), case.dataset, split, target, chosen, num_points=_points(case, num_points, judged),
        cap=cap, tuning_shadows=TUNING_SHADOWS if judged else None, groups=case.groups,
        allow_random_target=allow_random_target, cross_fit=not judged,
        answers=Path(out) / "answers" if out and name else None, progress=progress,
    )  # fmt: skip
    settings = {"attacks": list(chosen), "budget": budget, "seed": seed, "cap": cap, "num_points": num_points}
    record["config"] |= settings | {"fit": None if fit is None else getattr(fit, "__qualname__", str(fit))}
    record["target"] = case.described()
    record["queries"]["accuracy"] += case.asked
    record["queries"]["total"] = entries.all_queries(record)
    result = Audited(record, scores, None)
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


class Case:
    """A model and its known rows, as attacks see them."""

    def __init__(self, predict: Any, members: tuple, nonmembers: tuple, name: str, group: str | None = None):
        (x_in, y_in), (x_out, y_out) = _sides(members, nonmembers)
        self.rows, self.y = tables.stack(x_in, x_out), np.concatenate([y_in, y_out])
        self.members, self.nonmembers = np.arange(len(y_in)), np.arange(len(y_in), len(self.y))
        self.coding, self.codec = labels.coding_of(self.y), tables.codec_of(self.rows)
        x, y = self.codec.encode(self.rows), self.coding.encode(self.y)
        self.dataset = Dataset(name, x, y, len(self.coding.classes), self.codec.binary, "", self.codec.categorical)
        _refuse_shared_rows(x, len(y_in))
        self.groups = None if group is None else _groups(self.rows, group)
        self.predictor, self.asked = predictor_of(predict), 0

    def split(self, seed: int, num_shadows: int) -> Split:
        return splits.around(seed, self.members, self.nonmembers, num_shadows=num_shadows)

    @cached_property
    def readings(self) -> dict[str, labels.Reading]:
        """How the model's answers are read, "label", and "confidence" if it has scores."""
        readings = self._readings(self.predictor)
        self.asked += len(self._probe) * (1 + (self.predictor.scores is not None))
        return readings

    @cached_property
    def _probe(self) -> np.ndarray:
        half = PROBE // 2
        return np.concatenate([self.members[:half], self.nonmembers[:half]])

    def _readings(self, predictor: Predictor) -> dict[str, labels.Reading]:
        rows, y = tables.take(self.rows, self._probe), self.dataset.y[self._probe]
        label = labels.reading_of(_answers(predictor.answer, rows), self.coding, y, predictor.classes)
        if predictor.scores is not None:
            scored = labels.reading_of(_answers(predictor.scores, rows), self.coding, y, predictor.classes)
            return {"label": label} | ({"confidence": scored} if scored.probabilities else {})
        return {"label": label} | ({"confidence": label} if label.probabilities else {})

    def build(self, names: Any, budget: int, defaults: tuple[str, ...]) -> dict[str, tuple]:
        """The attacks of these names; by default those that suit the data and the model's answers."""
        if names is None:
            shifted = SHIFTED if self.dataset.x.ndim == 4 and defaults == ALONE else ()
            scored = {ALONE: "confidence_threshold", WITH_SHADOWS: "lira", WITH_SURROGATES: "lira_offline"}[defaults]
            names = (*defaults, *shifted, *((scored,) if "confidence" in self.readings else ()))
        context = catalogue.context_of(self.dataset, budget)
        own = isinstance(names, Mapping)
        chosen = {name: names[name] if own else catalogue.build(name, context) for name in names}
        for name, candidates in chosen.items():
            if candidates[0].access == "confidence" and "confidence" not in self.readings:
                raise ValueError(f"attack {name} sees scores: the model answers {self.readings['label'].described}")
            if defaults == WITH_SURROGATES and isinstance(candidates[0], PerExample) and candidates[0].online:
                raise ValueError(f"attack {name}: expected one named offline, as surrogates copy what the target says")
        return chosen

    def targets(self, fit: Any, split: Split, seed: int, name: str | None) -> Target:
        """The model as model 0 of a split, and its shadow models."""
        own = self._oracles(self.predictor, self.readings, name)
        if fit is None:
            return lambda k, access: own(access)
        if fit == shadows.SURROGATE:
            said = oracle.query_labels(own("label"), self.dataset.x)
            self.asked += len(said)
            network = shadows.surrogates(jax.random.key(seed), self.dataset, said, split)
            return lambda k, access: own(access) if k == 0 else network(k, access)
        fitted = [predictor_of(model) for model in shadows.fit_all(fit, self.rows, self.y, split)]
        others = [self._oracles(one, self._readings(one), None) for one in fitted]
        return lambda k, access: (own if k == 0 else others[k - 1])(access)

    def _oracles(self, predictor: Predictor, readings: dict[str, labels.Reading], name: str | None):
        """access -> the oracle of a model, which is asked in its user's form."""
        decode, number = self.codec.decode, self.dataset.num_classes

        def label(x: np.ndarray) -> np.ndarray:
            return readings["label"].labels(_answers(predictor.answer, decode(x)))

        def confidence(x: np.ndarray) -> np.ndarray:
            read = readings["confidence"].probabilities
            assert read is not None
            return read(_answers(predictor.scores or predictor.answer, decode(x)))

        def made(access: str) -> oracle.Oracle:
            if access not in readings:
                raise ValueError(f"access={access!r}: the model {predictor.name} gives {' and '.join(readings)} alone")
            function = label if access == "label" else confidence
            return oracle.function_oracle(function, number, access=access, name=name)

        return made

    def described(self) -> dict:
        """The entry `target` of a record."""
        known = {"members": len(self.members), "nonmembers": len(self.nonmembers)}
        classes = [str(one) for one in self.coding.classes[:100].tolist()]
        kinds = Counter(column["kind"] for column in self.codec.columns)
        reads = {access: reading.described for access, reading in self.readings.items()}
        columns = {"kinds": dict(kinds), "columns": self.codec.columns[:1000]}
        return {"model": self.predictor.name, "answers": reads, "classes": classes, "known": known} | columns


def _answers(function: Callable[[Any], Any], rows: Any) -> Any:
    try:
        return function(rows)
    except ValueError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"the model raised {text}") from error


def _sides(members: Any, nonmembers: Any) -> tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]:
    sides = []
    for side, given in (("members", members), ("nonmembers", nonmembers)):
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"{side}: a {type(given).__qualname__}, expected (x, y), rows and their labels")
        x, y = given
        x, y = x if tables.is_frame(x) or hasattr(x, "toarray") else np.asarray(x), labels.as_labels(y)
        if len(x) != len(y) or not len(y):
            raise ValueError(
                f"{side}: {len(x)} rows and {len(y)} labels, expected a label for each of at least one row"
            )
        sides.append((x, y))
    return sides[0], sides[1]


def _refuse_shared_rows(x: np.ndarray, members: int) -> None:
    """Raises ValueError where most non-members are members as well."""
    seen = {row.tobytes() for row in x[:members]}
    both = sum(row.tobytes() in seen for row in x[members:])
    if 2 * both > len(x) - members:
        raise ValueError(f"nonmembers: {both} of {len(x) - members} rows are among the members, expected other rows")


def _groups(rows: Any, group: str) -> np.ndarray:
    if not tables.is_frame(rows) or group not in list(rows.columns):
        names = ", ".join(map(str, list(rows.columns)[:8])) if tables.is_frame(rows) else "none, as rows are an array"
        raise ValueError(f"group={group!r}: expected a column of the rows ({names})")
    return np.asarray(rows[group]).astype(str)
