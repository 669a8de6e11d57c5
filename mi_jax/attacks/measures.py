"""Measures of one example: its label, its label under noise, or (for baselines) its log-probabilities.

To add a measure, write `init`, `ask`, `tell` and `read` for one example; `querying.driver` vmaps them.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp

from mi_jax.perturbations import Noise
from mi_jax.types import Measure, Perturbation, Repeat, Round


def label_is_correct() -> Measure:
    """1 where the target labels the copy correctly, else 0: one query, F = 1."""
    return _LABEL_IS_CORRECT


def hit_rate(noise: Noise, strength, queries: int | tuple[int, ...]) -> Measure:
    """The share of `queries` noisy copies that the target labels y, F = 1; 0 where x itself is mislabelled.

    Queries per example: 1, and `queries` more where x is labelled correctly. Every copy draws its own noise. With a
    rising tuple of counts the share is read after each of them (F = their number), for accuracy-against-queries
    curves of one run. `strength`, a number or a pytree of numbers, is an array argument of the compiled program: a
    grid of strengths compiles once.

    Raises ValueError for fewer than 1 query, or counts that do not rise.
    Source: noise robustness, section 4.3 and A.1 of arXiv 2007.14321v2.
    """
    counts = (queries,) if isinstance(queries, int) else tuple(queries)
    if not counts or counts[0] < 1 or any(a >= b for a, b in zip(counts, counts[1:], strict=False)):
        raise ValueError(f"budget={queries}: expected at least 1 noisy query per example, and rising counts")
    return _hit_rate(noise, counts)._replace(strength=jax.tree.map(jnp.float32, strength))


def confidences() -> Measure:
    """The log-probabilities of the example itself, F = C; one query with confidence access, no gate.

    Logarithms, because float32 probabilities of confident networks tie at 1; a probability of 0 is -inf.
    """
    return _CONFIDENCES


def label_bits(perturbation: Perturbation, count: int) -> Measure:
    """Whether the target labels x, and each of count - 1 random neighbours of it, y: bits [F = count].

    The keys are the same for every example and target, so bit i always means the same change. `count` queries per
    example and no gate. Of several neighbours that the perturbation returns only the first is queried. Raises
    ValueError for fewer than 1 query.
    """
    if count < 1:
        raise ValueError(f"budget={count}: expected at least 1 query per example")
    return _label_bits(perturbation, count)


# Copies per round: with the driver's 256 points, 6,400 rows per device call.
_COPIES_AT_ONCE = 25
_SHARED_KEY = 0  # of `label_bits`, for all examples


@lru_cache
def _hit_rate(noise: Noise, counts: tuple[int, ...]) -> Measure:
    def init(strength, key, x, y):
        del key
        zero = jnp.zeros((), jnp.int32)
        return {"strength": strength, "x": x, "y": y, "hits": zero, "queries": zero, "rates": jnp.zeros(len(counts))}

    @lru_cache  # one function per batch size, or every interval between counts would compile its own
    def ask(count):
        return lambda key, state: noise(state["strength"], key, state["x"], count)

    def tell(state, labels):
        hits = state["hits"] + (labels == state["y"]).sum(dtype=jnp.int32)
        queries = state["queries"] + len(labels)
        rates = jnp.where(queries == jnp.array(counts), hits / queries, state["rates"])
        return state | {"hits": hits, "queries": queries, "rates": rates}

    rounds = []
    for more in jnp.diff(jnp.array((0, *counts))).tolist():
        full, rest = divmod(more, _COPIES_AT_ONCE)
        rounds += [Repeat(full, (Round(ask(_COPIES_AT_ONCE), tell),))] if full else []
        rounds += [Round(ask(rest), tell)] if rest else []
    return Measure(init, tuple(rounds), lambda state: state["rates"])


@lru_cache
def _label_bits(perturbation: Perturbation, count: int) -> Measure:
    def init(strength, key, x, y):
        return {"x": x, "y": y, "queries": jnp.zeros((), jnp.int32), "bits": jnp.zeros(count)}

    def ask(batch_size):
        def neighbours(key, state):
            index = state["queries"] + jnp.arange(batch_size)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(_SHARED_KEY), index)
            drawn = jax.vmap(lambda key: perturbation(key, state["x"])[0])(keys)
            return jnp.where((index == 0).reshape(-1, *[1] * state["x"].ndim), state["x"], drawn)

        return neighbours

    def tell(state, labels):
        correct = (labels == state["y"]).astype(jnp.float32)
        bits = jax.lax.dynamic_update_slice(state["bits"], correct, (state["queries"],))
        return state | {"bits": bits, "queries": state["queries"] + len(labels)}

    full, rest = divmod(count, _COPIES_AT_ONCE)
    rounds = [Repeat(full, (Round(ask(_COPIES_AT_ONCE), tell),))] if full else []
    rounds += [Round(ask(rest), tell)] if rest else []
    return Measure(init, tuple(rounds), lambda state: state["bits"], gated=False)


_LABEL_IS_CORRECT = Measure(lambda strength, key, x, y: (), (), lambda state: jnp.ones(1))

_CONFIDENCES = Measure(
    init=lambda strength, key, x, y: x,
    rounds=(Round(ask=lambda key, x: x[None], tell=lambda x, answers: answers[0]),),
    read=lambda log_probabilities: log_probabilities,
    gated=False,
)
