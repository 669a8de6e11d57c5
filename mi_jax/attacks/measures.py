"""What is queried about one example: its label, its label under noise, or (for baselines) its probabilities.

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

    Queries per example: 1, and `queries` more where x is labelled correctly. Every copy draws its own noise. A rising
    tuple of counts reads the share after each of them (F = their number), for accuracy-against-queries curves of
    one run. `strength`, a number or a pytree of numbers, is an array argument of the compiled program: a grid of
    strengths compiles once.

    Raises ValueError for fewer than 1 query, or counts that do not rise.
    Source: noise robustness, section 4.3 and A.1 of arXiv 2007.14321v2.
    """
    counts = (queries,) if isinstance(queries, int) else tuple(queries)
    if not counts or counts[0] < 1 or any(a >= b for a, b in zip(counts, counts[1:], strict=False)):
        raise ValueError(f"budget={queries}: expected at least 1 noisy query per example, and rising counts")
    return _hit_rate(noise, counts)._replace(strength=jax.tree.map(jnp.float32, strength))


def confidences() -> Measure:
    """The probability vector of the example itself, F = C; one query with confidence access, no gate."""
    return _CONFIDENCES


def label_bits(perturbation: Perturbation, count: int) -> Measure:
    """Whether the target labels x, and each of count - 1 random neighbours of it, y: bits [F = count].

    The draws are the same for every example and target, so bit i always means the same change. `count` queries per
    example and no gate. Of what the perturbation returns the first neighbour is asked about; the keys come before
    any example. Raises ValueError for fewer than 1 query.
    """
    if count < 1:
        raise ValueError(f"budget={count}: expected at least 1 query per example")
    return _label_bits(perturbation, count)


# Copies per round: with the driver's 256 points, 6,400 rows a device call.
_COPIES_AT_ONCE = 25
_SAME_FOR_ALL = 0  # the key of `label_bits`


@lru_cache
def _hit_rate(noise: Noise, counts: tuple[int, ...]) -> Measure:
    def init(strength, key, x, y):
        del key
        nothing = jnp.zeros((), jnp.int32)
        return {
            "strength": strength,
            "x": x,
            "y": y,
            "hits": nothing,
            "asked": nothing,
            "course": jnp.zeros(len(counts)),
        }

    def ask(count):
        return lambda key, state: noise(state["strength"], key, state["x"], count)

    def tell(state, labels):
        hits = state["hits"] + (labels == state["y"]).sum(dtype=jnp.int32)
        asked = state["asked"] + len(labels)
        course = jnp.where(asked == jnp.array(counts), hits / asked, state["course"])
        return state | {"hits": hits, "asked": asked, "course": course}

    ask = lru_cache(ask)  # one function a width, or every stretch would compile anew
    rounds = []
    for stretch in jnp.diff(jnp.array((0, *counts))).tolist():
        full, rest = divmod(stretch, _COPIES_AT_ONCE)
        rounds += [Repeat(full, (Round(ask(_COPIES_AT_ONCE), tell),))] if full else []
        rounds += [Round(ask(rest), tell)] if rest else []
    return Measure(init, tuple(rounds), lambda state: state["course"])


@lru_cache
def _label_bits(perturbation: Perturbation, count: int) -> Measure:
    def init(strength, key, x, y):
        return {"x": x, "y": y, "asked": jnp.zeros((), jnp.int32), "bits": jnp.zeros(count)}

    def ask(number):
        def questions(key, state):
            at = state["asked"] + jnp.arange(number)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(_SAME_FOR_ALL), at)
            drawn = jax.vmap(lambda key: perturbation(key, state["x"])[0])(keys)
            return jnp.where((at == 0).reshape(-1, *[1] * state["x"].ndim), state["x"], drawn)

        return questions

    def tell(state, labels):
        correct = (labels == state["y"]).astype(jnp.float32)
        bits = jax.lax.dynamic_update_slice(state["bits"], correct, (state["asked"],))
        return state | {"bits": bits, "asked": state["asked"] + len(labels)}

    full, rest = divmod(count, _COPIES_AT_ONCE)
    rounds = [Repeat(full, (Round(ask(_COPIES_AT_ONCE), tell),))] if full else []
    return Measure(
        init, (*rounds, *([Round(ask(rest), tell)] if rest else [])), lambda state: state["bits"], gated=False
    )


_LABEL_IS_CORRECT = Measure(lambda strength, key, x, y: (), (), lambda state: jnp.ones(1))

_CONFIDENCES = Measure(
    init=lambda strength, key, x, y: x,
    rounds=(Round(ask=lambda key, x: x[None], tell=lambda x, answers: answers[0]),),
    read=lambda probabilities: probabilities,
    gated=False,
)
