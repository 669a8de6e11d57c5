"""Shadow models of a model that was trained elsewhere: its user's own training, or networks of ours on its labels."""

from collections.abc import Callable
from typing import Any

import jax
import joblib
import numpy as np
from sklearn.base import clone

from mi_jax import models, training
from mi_jax.data import tables
from mi_jax.querying.collect import Target
from mi_jax.study.ensembles import target_oracles
from mi_jax.types import Dataset, Recipe, Split

SURROGATE = "surrogate"  # as `fit`: networks of ours, trained on the target's labels
_NETWORKS = {True: "cnn", False: "mlp"}  # for images, and for tables


def fit_all(fit: Any, rows: Any, y: np.ndarray, split: Split) -> list[Any]:
    """The shadow models 1..K-1 of a split, fitted by its user's training on rows and labels in the user's form.

    `fit(x, y)` returns a model, one after the other; a scikit-learn estimator is cloned and fitted in processes.
    ValueError, which names the model, where the training raises or returns no model.
    """
    parts = [(tables.take(rows, chosen), y[chosen]) for chosen in split.members[1:]]
    if hasattr(fit, "get_params") and hasattr(fit, "fit"):
        jobs = (joblib.delayed(_fit_clone)(fit, x, labels) for x, labels in parts)
        return list(joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(parts)))(jobs))
    if not callable(fit):
        kind = type(fit).__qualname__
        raise ValueError(f"fit: a {kind}, expected a function (x, y) -> model, an estimator, or {SURROGATE!r}")
    return [_fit_one(fit, number, x, labels) for number, (x, labels) in enumerate(parts, 1)]


def _fit_clone(estimator: Any, x: Any, y: np.ndarray) -> Any:
    copy: Any = clone(estimator)
    return copy.fit(x, y)


def _fit_one(fit: Callable[..., Any], number: int, x: Any, y: np.ndarray) -> Any:
    try:
        model = fit(x, y)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"fit raised {text} for shadow model {number} on {len(y)} rows") from error
    if model is None:
        raise ValueError(f"fit returned None for shadow model {number}: expected a model, as predict is one")
    return model


def surrogates(key: jax.Array, dataset: Dataset, labels: np.ndarray, split: Split) -> Target:
    """Networks of ours for all models of a split, trained on the labels [N] that the target gives to its rows.

    Source: the surrogate of the transfer attack (Li and Zhang 2021), here one for each half of the rows. Model 0 of the
    split is the target, whose place in the ensemble stays unused.
    """
    network = _NETWORKS[dataset.binary is None]
    model = models.build(network, dataset.x.shape[1:], dataset.num_classes)
    params, _ = training.train_ensemble(key, model, Recipe(), dataset.x, labels, split.members)
    return target_oracles(model, params, dataset)
