"""Leakage as a scorer of scikit-learn: models are chosen by accuracy and leakage together."""

import hashlib
from typing import Any

import numpy as np

from mi_jax.data import tables
from mi_jax.external.audits import audit_model


class PrivacyScorer:
    """Scores a fitted estimator by how little an attack learns of its training rows: minus the attack's advantage.

    0 is the best: 1 - 2 * balanced accuracy of the attack. In `cross_validate`, `GridSearchCV` and their like the rows
    that a scorer is given are those held out; the others of `x` are the members. Use it beside an accuracy:

        scoring = {"accuracy": "accuracy", "privacy": make_privacy_scorer(x, y)}
        GridSearchCV(model, grid, scoring=scoring, refit="accuracy").fit(x, y)

    Scores of training rows (`return_train_score`) mean nothing: there all rows but the training ones count as members.
    """

    def __init__(self, x: Any, y: Any, attack: str = "gap", **options: Any):
        self.x, self.y, self.attack, self.options = x, np.asarray(y), attack, options
        self._keys = _keys(x)

    def __call__(self, estimator: Any, x: Any, y: Any) -> float:
        """Minus the advantage of the attack on the estimator, whose held-out rows are x with labels y."""
        held_out = np.isin(self._keys, _keys(x))
        if not held_out.any():
            raise ValueError(f"x: none of its {len(x)} rows is among the {len(self._keys)} of the scorer")
        members = np.flatnonzero(~held_out)
        if not len(members):
            raise ValueError("x: all rows of the scorer, expected those held out of training")
        inside = tables.take(self.x, members), self.y[members]
        audited = audit_model(estimator, inside, (x, y), attacks=[self.attack], **self.options)
        return 1 - 2 * audited.record["attacks"][self.attack]["balanced_accuracy"]["mean"]


def make_privacy_scorer(x: Any, y: Any, *, attack: str = "gap", **options: Any) -> PrivacyScorer:
    """A scorer for `cross_validate` and `GridSearchCV` on (x, y), the very rows and labels that these are given.

    `attack` is one that needs no shadow models, with gap one query for each row; `options` are those of `audit_model`.
    Rows are told apart by the index of a data frame, and by their values in an array.
    """
    return PrivacyScorer(x, y, attack, **options)


def _keys(x: Any) -> np.ndarray:
    """What tells rows apart [N]: their index, or their values."""
    if hasattr(x, "index") and tables.is_frame(x):
        return np.asarray(x.index)
    array = np.ascontiguousarray(x)
    return np.array([hashlib.sha256(row.tobytes()).hexdigest() for row in array])
