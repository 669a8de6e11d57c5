"""The only interface from a model to an attack: it answers labels or, for baselines, log-probabilities.

A target may be any function of arrays: a network of ours under a defense, a scikit-learn pipeline, a remote endpoint.
`driver.py` makes and counts the queries.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import store
from mi_jax.testing import as_whole
from mi_jax.types import Array, Defense, Model, Params

# Every forward pass has one fixed, padded shape. XLA rounds differently for different batch sizes, so a score would
# otherwise depend on how many points are attacked together. Blocks of 128, 256 and 512 are equally fast (the paper's
# CNN, two cores), blocks of 64 a tenth slower.
BLOCK = 128  # rows per forward pass
PROBES = 256  # of n stored answers about PROBES log2(1 + n / PROBES) are compared with the target's
NAN_ANSWERED = "the target answered NaN: expected finite logits for inputs in [0, 1]"
NO_DEFENSE = Defense()
_KEY = 0  # of a defense's randomness; random defenses also fold in the number of the call


class Oracle(NamedTuple):
    """A target as an attack sees it."""

    answer: Callable[[Array, int], Array]
    # (x [R *x], live) -> labels [R] int32 or log-probabilities [R C]; only the first `live` rows are queries
    access: str  # "label" | "confidence"
    num_classes: int
    digest: str | None = None  # changes with everything its answers depend on; None: unknown, so nothing is cached
    name: str | None = None  # given by the user: what stored answers of this target are found under
    rows_per_call: int | None = None  # the most rows its function is called with


def model_oracle(
    model: Model,
    params: Params,
    num_classes: int,
    *,
    access: str = "label",
    defense: Defense = NO_DEFENSE,
) -> Oracle:
    """A network of ours as an oracle; the `output` of a defense, if it has one, makes its answers.

    One compiled program serves every model of an ensemble and every strength of a defense: both are arguments. The
    answer to a row with a NaN logit is -1 (log-probabilities: NaN), which `query` refuses. A `random` defense draws new
    randomness in every call.
    """
    _check_access(access)
    if not isinstance(model, Model):
        raise ValueError(
            f"model: {type(model).__qualname__}, expected a Model, as models.as_model makes of flax modules"
        )
    calls = itertools.count() if defense.random else itertools.repeat(0)
    static = {"apply": model.apply, "output": defense.output, "random": defense.random, "access": access}

    def answer(x: Array, live: int) -> jax.Array:
        del live  # the fixed shape of a forward pass saves more than padding costs
        return _answer(params, () if defense.output is None else defense.strength, next(calls), x, **static)

    code = json.dumps(store.describe_code((model.apply, defense.output)))
    names = (model.name, defense.name, access, code)
    return Oracle(answer, access, num_classes, arrays_digest(names, (params, defense.strength)))


def arrays_digest(names: tuple[str, ...], arrays: Any) -> str:
    """Returns 16 hex digits that change with any name and any bit of a pytree of arrays."""
    sha = hashlib.sha256(repr(names).encode())
    for leaf in map(np.asarray, jax.tree.leaves(arrays)):
        sha.update(f"{leaf.dtype}{leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()[:16]


def function_oracle(
    function: Callable[[np.ndarray], np.ndarray],
    num_classes: int,
    *,
    access: str = "label",
    rows_per_call: int = 4096,
    name: str | None = None,
) -> Oracle:
    """Any function of NumPy arrays as an oracle: labels = f(x [B *x]), or probabilities for access="confidence".

    It is called with at most `rows_per_call` rows at a time and never with padding, so a counter inside it agrees
    with the query count. Answers are checked: integers of shape [B] in 0..C-1, or probabilities [B C] that sum
    to 1, of which the oracle answers the logarithms. `name` identifies the target: `audit.audit` stores its answers
    under it.
    """
    _check_access(access)
    if not callable(function):
        raise ValueError(f"function: a {type(function).__name__}, expected a function of rows x [B *x]")
    for what, value, least in (("num_classes", num_classes, 2), ("rows_per_call", rows_per_call, 1)):
        if (as_whole(value) or 0) < least:  # least is above 0
            raise ValueError(f"{what}={value!r}: expected a whole number of at least {least}")
    check = _checked_labels if access == "label" else _checked_log_probabilities

    def answer(x: Array, live: int) -> np.ndarray:
        x = np.asarray(x)
        parts = [x[i : min(i + rows_per_call, live)] for i in range(0, live, rows_per_call)]
        answers = np.concatenate([check(function(part), len(part), num_classes) for part in parts])
        return np.pad(answers, [(0, len(x) - live)] + [(0, 0)] * (answers.ndim - 1))

    return Oracle(answer, access, num_classes, name=name, rows_per_call=rows_per_call)


def logged(oracle: Oracle, log: store.AnswerLog, *, check: bool = True) -> Oracle:
    """The oracle with its answers stored in `log` call by call; answers of an earlier run are not asked again.

    With `check`, stored answers are compared with those that the target gives now: all of the first batch that is used,
    and of the n stored answers used so far about PROBES log2(1 + n / PROBES). ValueError where they differ: the log is
    that of another model. A similar model may pass. Without, as for a target with random answers, its name is trusted.
    """

    def ask(x: np.ndarray) -> np.ndarray:
        answers = np.asarray(oracle.answer(x, len(x)))
        return answers.astype(np.min_scalar_type(oracle.num_classes)) if oracle.access == "label" else answers

    def compare(x: np.ndarray, answers: np.ndarray, count: int) -> None:
        chosen = _telling(answers, count)
        log.probe(len(chosen))
        # Rounding may differ with the size of a batch.
        same = np.isclose(ask(x[chosen]), answers[chosen], rtol=1e-3).reshape(len(chosen), -1).all(1)
        if not same.all():
            raise ValueError(
                f"{log.path}: {(~same).sum()} of {len(chosen)} stored answers are not those of the target "
                f"{oracle.name}: expected the same model, or another name"
            )

    def answer_stored(x: np.ndarray) -> np.ndarray:
        before = log.replayed
        answers, _ = log.ask(x, ask)
        due = _probes(log.replayed) - _probes(before) if before else log.replayed
        if check and due:
            compare(x, answers, due)
        return answers

    def answer(x: Array, live: int) -> np.ndarray:
        queries, size = np.asarray(x)[:live], oracle.rows_per_call or max(live, 1)
        answers = np.concatenate([answer_stored(queries[i : i + size]) for i in range(0, live, size)])
        answers = answers.astype(np.int32) if oracle.access == "label" else answers
        return np.pad(answers, [(0, len(x) - live)] + [(0, 0)] * (answers.ndim - 1))

    return oracle._replace(answer=answer)


def _probes(replayed: int) -> int:
    """The number of comparisons due after so many stored answers: fewer and fewer of them, whatever a batch holds."""
    return int(PROBES * np.log2(1 + replayed / PROBES))


def _telling(answers: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most `count` answers of a batch: half of them labels unlike those before and after, half any.

    The copies of a point follow one another, so such a label is often near the boundary, where similar models differ.
    """
    alone = np.zeros(len(answers), bool)
    if answers.ndim == 1:
        alone[1:-1] = (answers[1:-1] != answers[:-2]) & (answers[1:-1] != answers[2:])
    first = _spread(np.flatnonzero(alone), count // 2)
    others = _spread(np.setdiff1d(np.arange(len(answers)), first), count - len(first))
    return np.sort(np.concatenate([first, others]))


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, at equal steps."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)]


def query_labels(oracle: Oracle, x: Array) -> np.ndarray:
    """Predicted labels [P] of examples x [P *x], in chunks of one shape."""
    parts = []
    for _, live, rows in chunks(len(x), 4 * BLOCK):
        answers = np.asarray(oracle.answer(x[rows], live))[:live]
        parts.append(answers if oracle.access == "label" else answers.argmax(-1))
    labels = np.concatenate(parts)
    refuse_nan(labels)
    return labels


def chunks(total: int, size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(start, live, indices [size]) of every chunk; the last is padded by repeating its first index."""
    for start in range(0, total, size):
        live = min(size, total - start)
        indices = np.full(size, start)
        indices[:live] = np.arange(start, start + live)
        yield start, live, indices


@functools.partial(jax.jit, static_argnames=("apply", "output", "random", "access"))
def _answer(params: Params, strength, call: int, x: Array, *, apply, output, random: bool, access: str) -> jax.Array:
    chex.assert_type(x, float)
    R = len(x)
    x = jnp.pad(x, [(0, -R % BLOCK)] + [(0, 0)] * (x.ndim - 1))
    key = jax.random.key(_KEY)

    def forward(numbered_block):
        number, block = numbered_block  # block [BLOCK *x]
        if output is None:
            outputs = apply(params, block)
        else:
            block_key = jax.random.fold_in(jax.random.fold_in(key, call), number) if random else key
            outputs = output(strength, block_key, functools.partial(apply, params), block)
        if access == "confidence":
            return jax.nn.log_softmax(outputs) if output is None else _log(outputs)
        return jnp.where(jnp.isnan(outputs).any(-1), -1, outputs.argmax(-1)).astype(jnp.int32)

    blocks = x.reshape(-1, BLOCK, *x.shape[1:])
    answers = jax.lax.map(forward, (jnp.arange(len(blocks)), blocks))
    return answers.reshape(-1, *answers.shape[2:])[:R]


def refuse_nan(answers: np.ndarray) -> None:
    """Raises ValueError for labels below 0, which mean NaN logits, and for NaN numbers."""
    if answers.dtype.kind == "i" and (answers < 0).any() or np.isnan(answers).any():
        raise ValueError(NAN_ANSWERED)


def _check_access(access: str) -> None:
    if access not in ("label", "confidence"):
        raise ValueError(f"access={access!r}: expected 'label' or 'confidence'")


def _checked_labels(answers, rows: int, num_classes: int) -> np.ndarray:
    answers = np.asarray(answers)
    if answers.shape != (rows,) or answers.dtype.kind not in "iu":
        raise ValueError(
            f"the target answered {answers.dtype} of shape {answers.shape}, expected integer labels of shape ({rows},)"
        )
    if answers.min() < 0 or answers.max() >= num_classes:
        raise ValueError(f"the target answered labels {answers.min()}..{answers.max()}, expected 0..{num_classes - 1}")
    return answers.astype(np.int32)


def _checked_log_probabilities(answers, rows: int, num_classes: int) -> np.ndarray:
    answers = np.asarray(answers)
    if answers.shape != (rows, num_classes) or answers.dtype.kind != "f":
        raise ValueError(
            f"the target answered {answers.dtype} of shape {answers.shape}, "
            f"expected float probabilities of shape ({rows}, {num_classes})"
        )
    if not np.isfinite(answers).all() or answers.min() < 0 or np.abs(answers.sum(1) - 1).max() > 1e-3:
        raise ValueError("the target answered rows that are not probabilities: expected values >= 0 that sum to 1")
    return np.asarray(_log(answers), np.float32)


def _log(probabilities: Array) -> Array:
    """The logarithms of probabilities [R C]; where the largest would tie with another, it is one unit above it."""
    xp = probabilities.__array_namespace__()
    is_label = xp.arange(probabilities.shape[-1]) == probabilities.argmax(-1)[:, None]
    with np.errstate(divide="ignore"):  # log 0 is -inf
        log = xp.asarray(xp.log(probabilities), dtype=xp.float32)
    others = xp.where(is_label, -xp.inf, log).max(-1, keepdims=True)
    return xp.where(is_label, xp.maximum(log, xp.nextafter(others, xp.ones_like(others))), log)
