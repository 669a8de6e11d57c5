"""The only place where membership is drawn. A split is made once, stored with every result, and never redrawn."""

import hashlib

import numpy as np

from mi_jax.types import Split


def disjoint(seed: int, num_rows: int, n: int, *, num_targets: int, num_shadows: int, num_reference: int = 0) -> Split:
    """Trials of one target and its shadow models, the shadows on rows disjoint from the target's.

    Each trial permutes the pool anew, so trials may share rows with each other. Within a trial the target has n
    members, n non-members and `num_reference` rows of its own; the shadow models draw the same three sets from
    what is left: disjoint from one another where the rows suffice, each from its own permutation where not (a row
    may then serve two shadow models, never the target and a shadow).

    Source: the paper's four disjoint sets (arXiv 2007.14321v2, A.1), with more than one shadow model allowed.
    """
    _check(num_rows, n, num_targets, num_shadows, num_reference)
    size = 2 * n + num_reference
    rows = np.stack([_trial(np.random.default_rng([seed, t]), num_rows, size, num_shadows) for t in range(num_targets)])
    rows = rows.reshape(-1, size).astype(np.int32)  # [K size], K = T (1 + S), the target of a trial first
    members, nonmembers, reference = np.split(rows, [n, 2 * n], axis=1)
    trials = np.arange(len(rows), dtype=np.int32).reshape(num_targets, 1 + num_shadows)
    return Split(members, nonmembers, reference, trials)


def digest(split: Split) -> str:
    """Sixteen hex digits that change with any row of the split."""
    hasher = hashlib.sha256()
    for name, rows in zip(split._fields, split, strict=True):
        hasher.update(f"{name}{rows.shape}".encode())
        hasher.update(np.ascontiguousarray(rows, np.int64).tobytes())
    return hasher.hexdigest()[:16]


def _trial(rng: np.random.Generator, num_rows: int, size: int, num_shadows: int) -> np.ndarray:
    target, rest = np.split(rng.permutation(num_rows), [size])
    if num_shadows * size <= len(rest):
        shadows = [rest[s * size : (s + 1) * size] for s in range(num_shadows)]
    else:
        shadows = [rng.permutation(rest)[:size] for _ in range(num_shadows)]
    return np.stack([target, *shadows])  # [1+S size]


def _check(num_rows: int, n: int, num_targets: int, num_shadows: int, num_reference: int) -> None:
    for name, value, least in (
        ("n_train", n, 1),
        ("num_targets", num_targets, 1),
        ("num_shadows", num_shadows, 1),
        ("num_reference", num_reference, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: expected at least {least}")
    needed = 2 * (2 * n + num_reference)
    if num_rows < needed:
        raise ValueError(
            f"n_train={n} needs {needed} rows (members and non-members of a target and, disjoint from them, of its "
            f"shadow models), but the data set has {num_rows}: at most n_train={(num_rows // 2 - num_reference) // 2}"
        )
