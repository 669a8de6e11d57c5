"""Puts the questions of a pool to models: all of them to shadow models, those chosen for each point to the target."""

import json
from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import store
from mi_jax.attacks import pools
from mi_jax.querying.collect import Target
from mi_jax.querying.oracle import Oracle, arrays_digest, chunks, refuse_nan
from mi_jax.querying.sizes import POINTS, ROUND_BYTES
from mi_jax.types import Answers, Dataset, Pool

Stop = Callable[[np.ndarray, np.ndarray], np.ndarray]
_LARGEST = 1e3  # of a margin: a probability of 0 has none


class Questions(NamedTuple):
    """Where the questions about some rows come from: a pool, the same for all rows, and what was crafted for each."""

    pool: Pool | None
    rows: np.ndarray  # [P] ascending
    crafted: np.ndarray | None = None  # [P R *x]

    @property
    def number(self) -> int:
        """Questions about one row."""
        return sum(self.pool.counts if self.pool else ()) + (0 if self.crafted is None else self.crafted.shape[1])

    def about(self, rows: np.ndarray, x: np.ndarray) -> jax.Array:
        """All questions [P Q *x] about these rows x [P *x]."""
        parts = [] if self.pool is None else [_every(self.pool, x)]
        parts += [] if self.crafted is None else [self.crafted[np.searchsorted(self.rows, rows)]]
        return jnp.concatenate(parts, axis=1)


class Questioner:
    """Questions and answers about rows of a data set; `queries` counts what was put to each model.

    Shadow models are the attacker's own, so their margins are read where they answer probabilities: the logit of the
    label y less the largest other one. Models that answer labels alone have margins of +-1. The answers are remembered:
    a model that serves several trials is asked once.
    """

    def __init__(
        self,
        dataset: Dataset,
        target: Target,
        num_models: int,
        *,
        cache: store.Cache = store.no_cache,
        progress: Callable[[int], None] = lambda queries: None,
    ):
        self.dataset, self.target, self.cache, self.progress = dataset, target, cache, progress
        self.queries: dict[int, int] = {}
        self._num_models = num_models
        self._remembered: dict[tuple, tuple[np.ndarray, set[int]]] = {}

    def margins(self, questions: Questions, models: np.ndarray) -> np.ndarray:
        """The margins [P K Q] of these models for all questions; 0 for models not asked so far."""
        if questions.pool is not None and questions.crafted is not None:  # what a pool was asked is remembered
            parts = (questions._replace(crafted=None), questions._replace(pool=None))
            return np.concatenate([self.margins(part, models) for part in parts], axis=2)
        rows, Q = questions.rows, questions.number
        key = questions.pool, id(questions.crafted), rows.tobytes()
        if key not in self._remembered:
            self._remembered[key] = np.zeros((len(rows), self._num_models, Q), np.float32), set()
        features, known = self._remembered[key]
        oracles = {k: self.target(k, "confidence") for k in map(int, models) if k not in known}
        for _, live, indices in self._chunks(Q, len(rows)) if oracles else ():
            asked, part = _Once(questions, rows[indices], self.dataset.x[rows[indices]]), rows[indices[:live]]
            for k, oracle in oracles.items():
                ask = partial(self._ask, oracle, asked, part)
                features[indices[:live], k] = self._cached(questions, k, oracle, indices[:live], ask)["margins"]
                self.queries[k] = self.queries.get(k, 0) + live * Q
                self.progress(live * Q)
        known.update(oracles)
        return features

    def answers(
        self, questions: Questions, k: int, order: np.ndarray, cap: int | None = None, stop: Stop | None = None
    ) -> Answers:
        """Whether model k labels the questions `order` [P m] about the rows y, as features [P 1 m] of 0 and 1.

        With `stop`, the questions of a point are put one by one until `stop(answers [p r], indices [p])` is True of
        it; those not put are 0. Points beyond `cap` queries, in the order of rows, are not asked and have features NaN.
        """
        oracle, m, rows = self.target(k, "label"), order.shape[1], questions.rows
        features, queries = np.full((len(rows), 1, m), np.nan, np.float32), np.zeros(len(rows), np.int64)
        allowed = len(rows) if cap is None else min(len(rows), cap // m)
        for _, live, indices in self._chunks(questions.number, allowed):
            x, y, put = self.dataset.x[rows[indices]], self.dataset.y[rows[indices]], indices[:live]
            asked = _selected(questions.about(rows[indices], x), order[indices])  # [p m *x]
            features[put, 0], queries[put] = 0, m
            if stop is None:
                features[put, 0] = self._put(oracle, k, asked, live) == y[:live, None]
                continue
            active = np.arange(live)
            for r in range(m):
                padded = np.resize(active, len(indices))  # one shape, the active points first
                labels = self._put(oracle, k, asked[padded, r : r + 1], len(active))
                features[put[active], 0, r], queries[put[active]] = labels[:, 0] == y[active], r + 1
                active = active[~stop(features[put[active], 0, : r + 1] > 0, put[active])]
                if not len(active):
                    break
        finished = np.arange(len(rows)) < allowed
        return Answers(features, queries, finished, {"questions": int(queries.sum())})

    def _put(self, oracle: Oracle, k: int, asked: jax.Array, live: int) -> np.ndarray:
        """The labels [live m] of the first `live` of the questions [p m *x]."""
        m = asked.shape[1]
        self.queries[k] = self.queries.get(k, 0) + live * m
        labels = np.asarray(oracle.answer(asked.reshape(-1, *asked.shape[2:]), live * m))[: live * m]
        refuse_nan(labels)
        self.progress(live * m)
        return labels.reshape(live, m)

    def _chunks(self, number: int, points: int):
        """Chunks of points whose questions fit in ROUND_BYTES."""
        size = number * self.dataset.x[:1].astype(np.float32).nbytes
        at_once = max(1, min(POINTS, ROUND_BYTES // size))
        while at_once > 1 and at_once // 2 >= points:
            at_once //= 2
        return chunks(points, at_once)

    def _ask(self, oracle: Oracle, asked: "_Once", rows: np.ndarray) -> store.Entry:
        live, Q = len(rows), asked.all.shape[1]
        answers = np.asarray(oracle.answer(asked.all.reshape(-1, *asked.all.shape[2:]), live * Q))[: live * Q]
        refuse_nan(answers)
        return {"margins": _margins(answers.reshape(live, Q, *answers.shape[1:]), self.dataset.y[rows])}

    def _cached(self, questions: Questions, k: int, oracle: Oracle, indices: np.ndarray, ask: Callable) -> store.Entry:
        """The entry of a model and a chunk; a model without a digest is not cached."""
        if oracle.digest is None:
            return ask()
        pool, rows, crafted = questions.pool, questions.rows[indices], questions.crafted
        code = json.dumps([pool and [*pool[::2], store.describe_code(pool.make)], oracle.access, oracle.digest])
        depends_on = (rows, self.dataset.x[rows], self.dataset.y[rows], () if crafted is None else crafted[indices])
        return self.cache(f"pool-model-{k}-points-{arrays_digest((code,), depends_on)}", ask)


class _Once:
    """All questions about some rows, made when the first model is asked."""

    def __init__(self, questions: Questions, rows: np.ndarray, x: np.ndarray):
        self.questions, self.rows, self.x = questions, rows, x

    @cached_property
    def all(self) -> jax.Array:
        return self.questions.about(self.rows, self.x)  # [P Q *x]


def _margins(answers: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Margins [P Q] of log-probabilities [P Q C], or +-1 of labels [P Q]."""
    if answers.ndim == 2:
        return np.where(answers == y[:, None], 1, -1).astype(np.float32)
    is_label = np.arange(answers.shape[2]) == y[:, None, None]
    of_label = np.where(is_label, answers, -np.inf).max(2)
    margins = of_label - np.where(is_label, -np.inf, answers).max(2)
    return np.nan_to_num(margins, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST).clip(-_LARGEST, _LARGEST)


@partial(jax.jit, static_argnums=0)
def _every(pool, x):
    return jax.vmap(partial(pools.questions, pool))(x)


@jax.jit
def _selected(asked, order):
    return jax.vmap(lambda questions, order: questions[order])(asked, order)
