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
    _check_sizes(n, num_targets, num_shadows, num_reference)
    _check_rows(
        num_rows,
        n,
        2 * (2 * n + num_reference),
        "members and non-members of a target and, disjoint from them, of its shadow models",
        (num_rows // 2 - num_reference) // 2,
    )
    size = 2 * n + num_reference
    rows = np.stack([_trial(np.random.default_rng([seed, t]), num_rows, size, num_shadows) for t in range(num_targets)])
    rows = rows.reshape(-1, size).astype(np.int32)  # [K size], K = T (1 + S), the target of a trial first
    members, nonmembers, reference = np.split(rows, [n, 2 * n], axis=1)
    trials = np.arange(len(rows), dtype=np.int32).reshape(num_targets, 1 + num_shadows)
    return Split(members, nonmembers, reference, trials)


def swap(seed: int, num_rows: int, n: int, *, num_targets: int, num_shadows: int, num_reference: int = 0) -> Split:
    """Trials of one target and one shadow model with members and non-members exchanged: 2n rows do for both.

    For pools that four disjoint sets do not fit into. The shadow model's members are the target's non-members, its
    non-members the target's members, in the same order. Each trial permutes the pool anew.

    What this leaks: the shadow model is trained on the very rows that are the target's non-members, and whoever
    knows its split knows the target's. An attack that recognised single rows would know every answer; one that only
    looks at how a model treats a row does not, but its threshold is fitted on the rows it is judged on, with the
    labels exchanged: the numbers are not those of an attacker who holds other data.

    Raises ValueError for num_shadows other than 1: a second one would share members with the target.
    Source: the paper's CIFAR-100 at n = 30,000 of 60,000 (arXiv 2007.14321v2, A.1).
    """
    if num_shadows != 1:
        raise ValueError(
            f"num_shadows={num_shadows}: expected 1 for swap, the model that the target's rows are left to"
        )
    _check_shared(num_rows, n, num_targets, 2, num_reference)
    drawn = [_shared(np.random.default_rng([seed, t]), num_rows, n, 2, num_reference) for t in range(num_targets)]
    members, nonmembers, reference = map(np.concatenate, zip(*drawn, strict=True))
    return Split(members, nonmembers, reference, np.arange(2 * num_targets, dtype=np.int32).reshape(num_targets, 2))


def balanced(seed: int, num_rows: int, n: int, *, num_targets: int, num_shadows: int, num_reference: int = 0) -> Split:
    """Trials among K = num_shadows + 1 models on the same 2n rows, each row a member of exactly half of the models.

    Every model has n members, and the other rows as non-members. The first `num_targets` models are targets in turn,
    each with all the others as its shadows: K models are trained, however many of them are targets. Rows go in
    pairs, of which every model is trained on one: members[k, i] and nonmembers[k, i] are pair i for all k, so that
    the first points of either side (`num_points`) are the same rows for every model, and balanced like the whole.
    Two models share (K - 2) / (2K - 2) of their members on average: none if K = 2, an exchange as in `swap`, and
    nearly half if K is large.

    What this leaks: shadow models are trained on the rows the target is judged on, K/2 - 1 of them on a member of
    the target and K/2 on a non-member, so that whoever counts knows which is which. The attacker meant is one who
    trains on the candidates and does not count. Trials share models and rows: an interval over them holds for these.

    Raises ValueError for an even num_shadows, or more targets than models.
    Source: the splits of LiRA (Carlini et al. 2022, arXiv 2112.03570). Deviation: n members exactly, by the pairs.
    """
    K = num_shadows + 1
    if num_shadows < 1 or K % 2:
        raise ValueError(
            f"num_shadows={num_shadows}: expected an odd number for balanced, so that target and shadows are an even "
            "number of models and a row can be a member of half of them"
        )
    if num_targets > K:
        raise ValueError(f"num_targets={num_targets}: expected at most {K} for balanced, num_shadows + 1 models")
    _check_shared(num_rows, n, num_targets, K, num_reference)
    models = np.arange(K, dtype=np.int32)
    trials = np.stack([np.concatenate([[t], np.delete(models, t)]) for t in range(num_targets)]).astype(np.int32)
    return Split(*_shared(np.random.default_rng(seed), num_rows, n, K, num_reference), trials)


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


def _shared(rng: np.random.Generator, num_rows: int, n: int, num_models: int, num_reference: int):
    """(members [K n], nonmembers [K n], reference [K m]) of K models on 2n rows, in which pair i is column i."""
    rows, reference = np.split(rng.permutation(num_rows).astype(np.int32), [2 * n])
    pairs = rows.reshape(n, 2)
    half = np.tile(np.arange(num_models) % 2, (n, 1))
    side = rng.permuted(half, axis=1).T  # [K n] which of pair i model k is trained on
    own = reference[: num_models * num_reference].reshape(num_models, num_reference)
    return pairs[np.arange(n), side], pairs[np.arange(n), 1 - side], own


def _check_shared(num_rows: int, n: int, num_targets: int, num_models: int, num_reference: int) -> None:
    _check_sizes(n, num_targets, num_models - 1, num_reference)
    kept = num_models * num_reference
    what = "members and non-members, which all models share" + (", and reference rows of each" if kept else "")
    _check_rows(num_rows, n, 2 * n + kept, what, (num_rows - kept) // 2)


def _check_sizes(n: int, num_targets: int, num_shadows: int, num_reference: int) -> None:
    for name, value, least in (
        ("n_train", n, 1),
        ("num_targets", num_targets, 1),
        ("num_shadows", num_shadows, 1),
        ("num_reference", num_reference, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: expected at least {least}")


def _check_rows(num_rows: int, n: int, needed: int, what: str, most: int) -> None:
    if num_rows < needed:
        raise ValueError(
            f"n_train={n} needs {needed} rows ({what}), but the data set has {num_rows}: at most n_train={max(most, 0)}"
        )


SPLITS = {"disjoint": disjoint, "swap": swap, "balanced": balanced}
