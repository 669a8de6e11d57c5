"""Labels of any coding: text, numbers from 1 on, -1 and +1, one-hot rows, a probability; as 0..C-1 and back.

What a model answers may be coded otherwise than the labels of the data. Which answer means which class is worked out
from rows whose labels are known, and said in the record.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mi_jax.data.arrays import MAX_CLASSES

_SURELY = 0.1  # by how much a coding must agree better than the plain one to be taken


class Coding(NamedTuple):
    """The classes of a data set as its user writes them, in ascending order: class i is `classes[i]`."""

    classes: np.ndarray  # [C]

    def encode(self, y: Any) -> np.ndarray:
        """Labels [N] in the user's coding as [N] int32 in 0..C-1. ValueError, which names it, for an unknown one."""
        values = as_labels(y)
        place = np.minimum(np.searchsorted(self.classes, values), len(self.classes) - 1)
        wrong = self.classes[place] != values
        if wrong.any():
            raise ValueError(f"label {values[wrong].tolist()[0]!r}: expected one of {self.named()}")
        return place.astype(np.int32)

    def named(self) -> str:
        """The classes, or the first of them, as text."""
        shown = ", ".join(str(one) for one in self.classes[:6].tolist())
        return shown + (f", ... ({len(self.classes)} classes)" if len(self.classes) > 6 else "")


class Reading(NamedTuple):
    """How the answers of a model are read."""

    labels: Callable[[Any], np.ndarray]  # answers to B rows -> [B] int32 in 0..C-1
    probabilities: Callable[[Any], np.ndarray] | None  # -> [B C] float32; None: the model answers labels alone
    described: str  # for the record


def coding_of(y: Any) -> Coding:
    """The coding of labels: [N], [N 1] or one-hot [N C], as an array, a list or a column of a data frame.

    Raises ValueError for labels of two types, missing ones, fewer than two classes, and more than MAX_CLASSES.
    """
    values = as_labels(y)
    classes = np.unique(values)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"labels: {len(classes)} classes, expected 2 to {MAX_CLASSES}")
    return Coding(classes)


def as_labels(y: Any) -> np.ndarray:
    """Labels [N] as text or whole numbers; one-hot rows as the number of their class."""
    values = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y)
    if isinstance(y, list | tuple) and values.dtype.kind == "U":  # NumPy makes text of a number beside text
        values = np.asarray(y, object)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim == 2 and values.dtype.kind in "biuf" and ((values == 0) | (values == 1)).all():
        if not (values.sum(1) == 1).all():
            raise ValueError("labels: rows of 0 and 1 with another sum than 1, expected one-hot rows of one label each")
        return values.argmax(1)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"labels of shape {list(values.shape)}: expected [N], [N 1] or one-hot [N C]")
    if values.dtype.kind == "O":
        kinds = {str if isinstance(one, str) else bool if isinstance(one, bool | np.bool_) else type(one)
                 for one in values.tolist()}  # fmt: skip
        if len(kinds) > 1 or None in values.tolist():
            names = sorted(kind.__qualname__ for kind in kinds)
            raise ValueError(
                f"labels of types {', '.join(names)}: expected text, or whole numbers, without missing ones"
            )
        values = np.array(values.tolist())
    if values.dtype.kind == "f":
        if not (values == np.rint(values)).all():
            wrong = values[values != np.rint(values)][0]
            raise ValueError(f"label {wrong}: expected classes (text or whole numbers), not measured values")
        values = values.astype(np.int64)
    if values.dtype.kind not in "biuUS":
        raise ValueError(f"labels of type {values.dtype}: expected text or whole numbers")
    return values


def reading_of(answers: Any, coding: Coding, y: np.ndarray, own_classes: Any = None) -> Reading:
    """How answers are read, worked out from those to rows with labels y [B] (in 0..C-1).

    `own_classes` are a model's own names of its columns (`classes_` of scikit-learn). Answers may be labels in the
    coding of the data, or 0..C-1, 1..C or -1 and +1; scores [B C], as probabilities or logits; or of two classes one
    probability or logit for the second. Of several codings that fit, the data's own is taken, unless another agrees
    with y much better. ValueError for answers that fit none.
    """
    array = as_array(answers)
    if array.ndim == 2 and array.shape[1] > 1:
        return _scores(array, coding, own_classes)
    flat = array.reshape(-1)
    if len(flat) != len(y) or array.ndim > 2:
        raise ValueError(f"the model answered {list(array.shape)} for {len(y)} rows: expected [B], [B 1] or [B C]")
    if flat.dtype.kind == "f" and not (flat == np.rint(flat)).all():
        return _one_score(flat, coding)
    return _labels(flat, coding, y)


def as_array(answers: Any) -> np.ndarray:
    """Answers as an array: a list, a tensor or a column of a data frame. ValueError for NaN and for no array."""
    for method in ("detach", "cpu", "to_numpy"):
        answers = getattr(answers, method)() if hasattr(answers, method) else answers
    try:
        array = np.asarray(answers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the model answered a {type(answers).__qualname__} ({error}): expected an array") from None
    if array.dtype == object:
        array = np.array(array.tolist())
    if array.dtype.kind not in "biufUS":
        raise ValueError(f"the model answered {array.dtype} of shape {list(array.shape)}: expected labels or scores")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError("the model answered NaN: expected labels or finite scores")
    return array


def _labels(flat: np.ndarray, coding: Coding, y: np.ndarray) -> Reading:
    """Labels: the coding that fits all answers and agrees best with y."""
    classes, C = coding.classes, len(coding.classes)
    text = classes.dtype.kind in "US"
    codings = {"labels as in the data": classes}
    if flat.dtype.kind not in "US":
        codings |= {f"0..{C - 1} for the classes in order": np.arange(C)}
        codings |= {f"1..{C} for the classes in order": np.arange(1, C + 1)}
        codings |= {"-1 and +1 for the two classes": np.array([-1, 1])} if C == 2 else {}
    agreement, best = {}, None
    for described, code in codings.items():
        if (code.dtype.kind in "US") == (flat.dtype.kind in "US") and np.isin(flat, code).all():
            agreement[described] = float((np.searchsorted(code, flat) == y).mean())
            if best is None or agreement[described] > agreement[best] + _SURELY:
                best = described
    if best is None:
        known = np.isin(flat, classes) if text == (flat.dtype.kind in "US") else np.zeros(len(flat), bool)
        raise ValueError(f"the model answered {flat[~known].tolist()[0]!r}: expected one of {coding.named()}")
    return Reading(_reader(codings[best], coding, flat.dtype.kind in "US"), None, best)


def _reader(code: np.ndarray, coding: Coding, text: bool) -> Callable[[Any], np.ndarray]:
    def read(answers: Any) -> np.ndarray:
        flat = as_array(answers).reshape(-1)
        if (flat.dtype.kind in "US") != text or not np.isin(flat, code).all():
            wrong = flat[~np.isin(flat, code)] if (flat.dtype.kind in "US") == text else flat
            raise ValueError(f"the model answered {wrong.tolist()[0]!r}: expected one of {coding.named()}")
        return np.searchsorted(code, flat).astype(np.int32)

    return read


def _scores(array: np.ndarray, coding: Coding, own_classes: Any) -> Reading:
    """Scores [B C]: probabilities where rows sum to 1, else logits; columns by the model's own classes."""
    C = len(coding.classes)
    order = np.arange(C)
    if own_classes is not None and len(own_classes) == array.shape[1]:
        own = np.asarray(own_classes)
        same = (own.dtype.kind in "US") == (coding.classes.dtype.kind in "US")
        order = np.array([np.flatnonzero(own == one)[0] if same and one in own else -1 for one in coding.classes])
        if (order < 0).any():  # classes of its own coding, in its own order
            order = np.arange(C)
    if array.shape[1] != C and order.max() >= array.shape[1]:
        raise ValueError(f"the model answered scores of {array.shape[1]} classes: expected {C}, {coding.named()}")
    unit = array.min() >= 0 and np.abs(array.sum(1) - 1).max() < 1e-3

    def scores_of(answers: Any) -> np.ndarray:
        scores = as_array(answers)
        if scores.ndim != 2 or scores.shape[1] != array.shape[1]:
            raise ValueError(f"the model answered {list(scores.shape)}: expected [B {array.shape[1]}]")
        return scores[:, order]

    def probabilities(answers: Any) -> np.ndarray:
        scores = scores_of(answers).astype(np.float64)
        if not unit:
            scores = np.exp(scores - scores.max(1, keepdims=True))
        total = scores.sum(1, keepdims=True)
        return (scores / np.where(total > 0, total, 1)).astype(np.float32)

    kind = "probabilities" if unit else "logits"
    of = "by the model's own classes" if own_classes is not None else "the classes in order"
    return Reading(lambda answers: scores_of(answers).argmax(1).astype(np.int32), probabilities,
                   f"{kind} of {C} classes, {of}")  # fmt: skip


def _one_score(flat: np.ndarray, coding: Coding) -> Reading:
    """One number a row, of two classes: the probability of the second, or its logit."""
    if len(coding.classes) != 2:
        raise ValueError(
            f"the model answered {flat[flat != np.rint(flat)][0]} for a row: expected labels, or scores [B "
            f"{len(coding.classes)}]"
        )
    unit = flat.min() >= 0 and flat.max() <= 1

    def probabilities(answers: Any) -> np.ndarray:
        score = as_array(answers).reshape(-1).astype(np.float64)
        second = score if unit else 1 / (1 + np.exp(-np.clip(score, -700, 700)))
        return np.stack([1 - second, second], axis=1).astype(np.float32)

    described = f"one {'probability' if unit else 'logit'}, of the class {coding.classes[1]}"
    return Reading(lambda answers: (probabilities(answers)[:, 1] >= 0.5).astype(np.int32), probabilities, described)
