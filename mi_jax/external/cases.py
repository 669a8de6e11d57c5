"""A model that was trained elsewhere and its known rows, as attacks see them."""

import io
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mi_jax import attacks as catalogue
from mi_jax import store
from mi_jax.data import labels, splits, tables
from mi_jax.external import shadows
from mi_jax.external.predictors import Predictor, predictor_of
from mi_jax.querying import oracle
from mi_jax.querying.collect import Target
from mi_jax.types import Dataset, PerExample, Split

ALONE = ("gap", "noise")  # attacks by default, without shadow models; on images also SHIFTED
SHIFTED = ("translation",)
WITH_SHADOWS = ("gap", "noise", "calibrated_label", "calibrated_noise:5", "chosen:1", "chosen:5", "chosen:25")
WITH_SURROGATES = ("gap", "noise", "chosen_offline:1", "chosen_offline:5", "chosen_offline:25")
PROBE = 128  # known rows, half of them members, whose answers show how a model codes its labels
AGAIN, EVERY = 64, 50_000  # of them so many are put again after as many queries: does the model change?


class Case:
    """A model and its known rows, as attacks see them.

    `folder` is where answers are stored that no attack asks for; None: they are not stored. With `random` a model may
    change its answers.
    """

    def __init__(
        self, predict: Any, members: tuple, nonmembers: tuple, name: str, group: str | None = None,
        folder: Path | None = None, random: bool = False,
    ):  # fmt: skip
        (x_in, y_in), (x_out, y_out) = _sides(members, nonmembers)
        self.rows, self.y = tables.stack(x_in, x_out), np.concatenate([y_in, y_out])
        self.members, self.nonmembers = np.arange(len(y_in)), np.arange(len(y_in), len(self.y))
        self.coding, self.codec = labels.coding_of(self.y), tables.codec_of(self.rows)
        x, y = self.codec.encode(self.rows), self.coding.encode(self.y)
        self.dataset = Dataset(name, x, y, len(self.coding.classes), self.codec.binary, "", self.codec.categorical)
        _refuse_shared_rows(x, len(y_in))
        self.groups = None if group is None else _groups(self.rows, group)
        self.predictor, self.asked = predictor_of(predict), 0  # rows asked for another end than an attack's
        self._folder, self._random = folder, random
        self._first: Any = None  # the first labels that the model answered
        self._since, self.changed = 0, [0, 0]  # rows since the last probe; probes that changed, and all

    def split(self, seed: int, num_shadows: int) -> Split:
        return splits.around(seed, self.members, self.nonmembers, num_shadows=num_shadows)

    @cached_property
    def readings(self) -> dict[str, labels.Reading]:
        """How the model's answers are read, "label", and "confidence" if it has scores."""
        readings = self._readings(self.predictor, self._folder)
        self.asked += len(self._probe) * (1 + (self.predictor.scores is not None))
        return readings

    @cached_property
    def _probe(self) -> np.ndarray:
        sides = (self.members, self.nonmembers)
        spread = [np.unique(np.linspace(0, len(side) - 1, PROBE // 2).astype(int)) for side in sides]
        return np.concatenate([side[at] for side, at in zip(sides, spread, strict=True)])

    def _readings(self, predictor: Predictor, folder: Path | None = None) -> dict[str, labels.Reading]:
        rows, y = tables.take(self.rows, self._probe), self.dataset.y[self._probe]

        def read(kind: str, function: Callable[[Any], Any]) -> labels.Reading:
            file = None if folder is None else folder / f"coding-{kind}.npy"
            if file is not None and file.exists():
                answers = np.load(file, allow_pickle=False)
            else:
                answers = labels.as_array(_answers(function, rows))
                if file is not None:
                    buffer = io.BytesIO()
                    np.save(buffer, answers, allow_pickle=False)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    store.write_file(file, buffer.getvalue())
            if predictor is self.predictor and kind == "label":
                self._first = answers
            return labels.reading_of(answers, self.coding, y, predictor.classes)

        label = read("label", predictor.answer)
        if predictor.scores is not None:
            scored = read("confidence", predictor.scores)
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
        own = self._oracles(self.predictor, self.readings, name, watched=True)
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

    def _oracles(
        self, predictor: Predictor, readings: dict[str, labels.Reading], name: str | None, watched: bool = False
    ) -> Callable[[str], oracle.Oracle]:
        """access -> the oracle of a model, which is asked in its user's form."""
        decode, number = self.codec.decode, self.dataset.num_classes

        def label(x: np.ndarray) -> np.ndarray:
            found = readings["label"].labels(_answers(predictor.answer, decode(x)))
            if watched:
                self._watch(len(x))
            return found

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

    def _watch(self, rows: int) -> None:
        """Puts a few known rows again from time to time; ValueError where their labels are not the first ones."""
        self._since += rows
        if self._since < EVERY:
            return
        self._since, again, read = 0, self._probe[:AGAIN], self.readings["label"].labels
        first, now = read(self._first), read(_answers(self.predictor.answer, tables.take(self.rows, again)))
        differ = int((now != first[: len(again)]).sum())
        self.asked += len(again)
        self.changed = [self.changed[0] + differ, self.changed[1] + len(again)]
        if differ and not self._random:
            reason = f"{differ} of {len(again)} rows were answered otherwise than before"
            raise ValueError(
                f"the model changed during the audit: {reason}; expected one model, or allow_random_target"
            )

    @property
    def retried(self) -> int:
        """Rows that a server was asked again, or without an answer; 0 of other models."""
        return int(getattr(self.predictor.answer, "retried", 0))

    def described(self) -> dict:
        """The entry `target` of a record."""
        known = {"members": len(self.members), "nonmembers": len(self.nonmembers)}
        classes = [str(one) for one in self.coding.classes[:100].tolist()]
        kinds = Counter(column["kind"] for column in self.codec.columns)
        reads = {access: reading.described for access, reading in self.readings.items()}
        return {
            "model": self.predictor.name,
            "answers": reads,
            "classes": classes,
            "known": known,
            "probes": {"put_again": self.changed[1], "changed": self.changed[0]},
            "kinds": dict(kinds),
            "columns": self.codec.columns[:1000],
        }


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
