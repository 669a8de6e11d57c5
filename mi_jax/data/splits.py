"""Splits: which rows each model is trained on. Membership is drawn here and nowhere else.

A split is drawn once, stored with every result, and never drawn again.
"""

import hashlib
import itertools

import numpy as np

from mi_jax.types import Split


def disjoint(seed: int, num_rows: int, n: int, *, num_targets: int, num_shadows: int, num_reference: int = 0) -> Split:
    """Returns trials of one target and its shadow models, which use rows disjoint from the target's.

    Each trial permutes the whole pool, so trials may share rows. Within a trial the target has n members, n
    non-members and `num_reference` reference rows. Each shadow model draws three such sets from the remaining rows.
    The shadow models' sets are disjoint where the rows suffice. Otherwise each shadow model has its own permutation:
    a row may then serve two shadow models, but never the target and a shadow model.

    Source: the paper's four disjoint sets (arXiv 2007.14321v2, A.1). More than one shadow model is allowed here.
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
    rows = rows.reshape(-1, size).astype(np.int32)  # [K size], K = T (1 + S), the target of each trial first
    members, nonmembers, reference = np.split(rows, [n, 2 * n], axis=1)
    trials = np.arange(len(rows), dtype=np.int32).reshape(num_targets, 1 + num_shadows)
    return Split(members, nonmembers, reference, trials)


def swap(seed: int, num_rows: int, n: int, *, num_targets: int, num_shadows: int, num_reference: int = 0) -> Split:
    """Returns trials of one target and one shadow model on the same 2n rows, with members and non-members exchanged.

    This split is for pools that are too small for four disjoint sets. The shadow model's members are the target's
    non-members, and the reverse, in the same order. Each trial permutes the whole pool.

    Limitation: the shadow model is trained on exactly the target's non-members, so the shadow model's split reveals
    the target's. An attack that recognises single rows would know every answer. An attack that only measures how a
    model treats a row does not, but its threshold is fitted on the evaluation rows with exchanged labels. The
    results are not those of an attacker who holds other data.

    Raises ValueError for num_shadows other than 1: a second shadow model would share members with the target.
    Source: the paper's CIFAR-100 at n = 30,000 of 60,000 (arXiv 2007.14321v2, A.1).
    """
    if num_shadows != 1:
        raise ValueError(f"num_shadows={num_shadows}: expected 1 for swap, because another would share its members")
    _check_shared(num_rows, n, num_targets, 2, num_reference)
    trials = [_shared(np.random.default_rng([seed, t]), num_rows, n, 2, num_reference) for t in range(num_targets)]
    members, nonmembers, reference = map(np.concatenate, zip(*trials, strict=True))
    return Split(members, nonmembers, reference, np.arange(2 * num_targets, dtype=np.int32).reshape(num_targets, 2))


def balanced(
    seed: int, num_rows: int, n: int, *, num_targets: int, num_shadows: int, num_reference: int = 0,
    num_surrogates: int = 0,
) -> Split:  # fmt: skip
    """Returns trials among K = num_shadows + 1 models on the same 2n rows; each row is a member of half the models.

    Every model has n members, and the other n rows as non-members. Each of the first `num_targets` models is the
    target of one trial, with all other models as its shadow models. So K models are trained for any number of
    targets. Rows come in pairs, and every model is trained on one row of each pair: members[k, i] and
    nonmembers[k, i] are pair i for all k. The first points of both sides (`num_points`) are therefore the same rows
    for every model, and balanced too. Two models share (K - 2) / (2K - 2) of their members on average: none for
    K = 2 (as in `swap`), and almost half for large K.

    Limitation: shadow models are trained on the rows that the target is evaluated on. K/2 - 1 of them are trained on
    a given member of the target, K/2 on a given non-member, so counting them reveals membership. The threat model is
    an attacker who trains on the candidates but does not count. Trials share models and rows: a confidence interval
    over trials covers these models and rows only.

    With `num_surrogates`, as many models follow that are in no trial: each is trained on n of the remaining rows, drawn
    for itself, with n others as its non-members. No row that is attacked is among them.

    Raises ValueError for an even num_shadows, and for more targets than models.
    Source: the splits of LiRA (Carlini et al. 2022, arXiv 2112.03570). Deviation: pairs give exactly n members.
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
    members, nonmembers, reference = _shared(np.random.default_rng(seed), num_rows, n, K, num_reference)
    if num_surrogates:
        rest = np.setdiff1d(np.arange(num_rows, dtype=np.int32), np.concatenate([members[0], nonmembers[0]]))
        _check_rows(len(rest), n, 2 * n, "members and non-members of a surrogate", len(rest) // 2)
        rng = np.random.default_rng([seed, K])
        drawn = np.stack([rng.permutation(rest)[: 2 * n] for _ in range(num_surrogates)])
        members, nonmembers = np.concatenate([members, drawn[:, :n]]), np.concatenate([nonmembers, drawn[:, n:]])
        reference = np.resize(reference, (len(members), reference.shape[1]))
    return Split(members, nonmembers, reference, trials)


def around(seed: int, members: np.ndarray, nonmembers: np.ndarray, *, num_shadows: int) -> Split:
    """Returns the trial of a target whose members and non-members are given, and of shadow models around it.

    As in `balanced`, each shadow model is trained on one row of every pair of a member and a non-member, so that half
    of all K = num_shadows + 1 models are trained with each row. Sides are paired at random as far as the smaller one
    goes; `members[k]` and `nonmembers[k]` begin with paired rows. Members left over are rows of every model, so that
    all are trained on as many; non-members left over are in none. Raises ValueError for an even num_shadows.
    """
    K = num_shadows + 1
    if num_shadows < 1 or K % 2:
        raise ValueError(f"num_shadows={num_shadows}: expected an odd number, so that half of all models have a row")
    rng = np.random.default_rng(seed)
    members, nonmembers = rng.permutation(members), rng.permutation(nonmembers)
    n = min(len(members), len(nonmembers))
    pairs = np.stack([members[:n], nonmembers[:n]], axis=1)
    sides = np.tile(np.arange(1, K) % 2, (n, 1))  # of the shadow models K/2 on the other side, K/2 - 1 on the target's
    side = np.concatenate([np.zeros((1, n), int), rng.permuted(sides, axis=1).T])  # [K n]
    inside = np.concatenate([pairs[np.arange(n), side], np.tile(members[n:], (K, 1))], axis=1)
    return Split(inside, pairs[np.arange(n), 1 - side], np.zeros((K, 0), int), np.arange(K)[None])


def alone(members: np.ndarray, nonmembers: np.ndarray) -> Split:
    """Returns the trial of one target with these members and non-members, without shadow models."""
    return Split(members[None], nonmembers[None], np.zeros((1, 0), int), np.zeros((1, 1), int))


def check_split(split: Split, num_rows: int, *, shadows: bool = True) -> Split:
    """Returns the split as arrays of integers, after checking that its members are members and the others are not.

    Raises ValueError, naming the model and the row, unless
    * members, nonmembers and reference are rows [K n], [K m] and [K r] in 0..num_rows-1, with n and m at least 1;
    * no row is twice among the members, or twice among the non-members, of a model;
    * no row is a member and a non-member of a model, and none of its reference rows is either;
    * trials are models [T 1+S] in 0..K-1, with T and S at least 1, none of them twice in a trial, and every trial has
      another target. Without `shadows` S is 0.
    """
    if not isinstance(split, Split):
        raise ValueError(f"split: a {type(split).__name__}, expected a Split")
    arrays = {}
    for name, rows in zip(Split._fields, split, strict=True):
        try:
            arrays[name] = np.asarray(rows)
        except ValueError as error:  # rows of unequal numbers
            raise ValueError(f"split: {name} is no array of rows ({error})") from None
    of_trials = "models [T 1+S], a target and at least one shadow model" if shadows else "models [T 1], targets"
    widths = {"trials": (2, np.inf) if shadows else (1, 1), "reference": (0, np.inf)}
    for name, rows in arrays.items():
        least, most = widths.get(name, (1, np.inf))
        sized = rows.ndim == 2 and len(rows) > 0 and least <= rows.shape[1] <= most
        if not sized or rows.dtype.kind not in "iu":
            expected = of_trials if name == "trials" else "rows [K n]"
            raise ValueError(f"split: {name} is {rows.dtype} of shape {list(rows.shape)}, expected {expected}")
    models = len(arrays["members"])
    if not models == len(arrays["nonmembers"]) == len(arrays["reference"]):
        counts = ", ".join(f"{len(arrays[name])} of {name}" for name in ("members", "nonmembers", "reference"))
        raise ValueError(f"split: {counts}, expected as many of each, one for every model")
    for name, rows in arrays.items():
        limit, kind = (models, "model") if name == "trials" else (num_rows, "row")
        if rows.size and not (rows.min() >= 0 and rows.max() < limit):
            wrong = rows[(rows < 0) | (rows >= limit)][0]
            raise ValueError(f"split: {kind} {wrong} in {name}, expected 0..{limit - 1}")
    arrays = {name: rows.astype(np.int64) if rows.dtype.kind == "u" else rows for name, rows in arrays.items()}
    if (twice := _twice(arrays["trials"][:, 0])) is not None:
        raise ValueError(f"split: model {twice} is the target of several trials, expected one trial for each target")
    for t, trial in enumerate(arrays["trials"]):
        if (twice := _twice(trial)) is not None:
            raise ValueError(f"split: model {twice} is twice in trial {t}, expected a target and other models")
    for k in range(models):
        _check_model(k, *(arrays[name][k] for name in ("members", "nonmembers", "reference")))
    return Split(**arrays)


def _check_model(k: int, members: np.ndarray, nonmembers: np.ndarray, reference: np.ndarray) -> None:
    for name, rows in (("members", members), ("non-members", nonmembers)):
        if (twice := _twice(rows)) is not None:
            raise ValueError(f"split: row {twice} is twice among the {name} of model {k}, expected once")
    sides = {"a member": members, "a non-member": nonmembers, "a reference row": reference}
    for (a, one), (b, other) in itertools.combinations(sides.items(), 2):
        if (both := np.intersect1d(one, other)).size:
            name = f"{a} and {b}"
            raise ValueError(f"split: row {both[0]} is {name} of model {k}, expected one of the two")


def _twice(values: np.ndarray) -> int | None:
    """Returns a value that occurs more than once, or None."""
    unique, counts = np.unique(values, return_counts=True)
    return int(unique[counts > 1][0]) if len(unique) < len(values) else None


def shadow_overlap(split: Split) -> dict[str, float]:
    """Returns the share of the targets' members, and of their non-members, that a shadow model was trained on.

    {"members", "nonmembers"}: means over trials, both 0 for shadow models on other rows. An attacker has seldom such
    shadow models, so shares above 0 belong beside every number of the run.
    """
    shares: dict[str, float] = {}
    for name, rows in (("members", split.members), ("nonmembers", split.nonmembers)):
        seen = [np.isin(rows[target], split.members[shadows]).mean() for target, *shadows in split.trials]
        shares[name] = float(np.mean(seen))
    return shares


def calibration_models(
    split: Split, target: int, shadows: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inside, outside) [P K] bool: the models that calibrate each of the rows [P] of a target.

    `inside` are shadow models trained with the row, `outside` those trained without it, as many of both for every row;
    the rest of the larger side is left out at random. This is the only place where calibrated attacks get models from,
    because membership of the target must not be read from counts. Where every row is a member of equally many models of
    the trials, as in `balanced`, a row with r of the m models given here, the target included, gets min(r, m - r) - 1 a
    side: r follows from the other models, whatever the target was trained on. In other splits it is the smaller of the
    counts among the shadow models, which says nothing of the target where models draw their members independently.

    Raises ValueError for a row without a shadow model on each side.
    """
    models = np.array([target, *shadows])
    member = np.stack([np.isin(rows, split.members[k]) for k in models], axis=1)  # [P 1+S]
    total, within = member.sum(1), member[:, 1:]
    fixed = len(np.unique(sum(np.isin(rows, split.members[k]).astype(int) for k in np.unique(split.trials)))) == 1
    count = np.minimum(total, len(models) - total) - 1 if fixed else np.minimum(within.sum(1), (~within).sum(1))
    if count.min() < 1:
        worst = np.argmin(count)
        seen = f"{within[worst].sum()} of {len(shadows)} other models were trained with row {rows[worst]}"
        expected = "expected some with and some without it, as split=balanced has with 5 shadow models or more"
        raise ValueError(f"attacks that judge every point: model {target}, {seen}, {expected}")
    # Drawn for the row, not its place, and for the pair of models and not for what they were trained on.
    draws = np.stack([np.random.default_rng([int(row), int(target)]).random(len(split.members)) for row in rows])
    sides = np.zeros((2, *draws.shape), bool)
    for side, trained in zip(sides, (within, ~within), strict=True):
        side[:, shadows] = _first_drawn(trained, draws[:, shadows], count[:, None])
    return sides[0], sides[1]


def even_sides(split: Split, models: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inside, outside) [P C] bool: of these models as many trained with each of the rows [P] as without it.

    Each is the smaller of the two counts, and none where all models are on one side. The rest is left out at random:
    in any order, which models are left would show which side was the larger, and so what others were trained on.
    """
    member = np.stack([np.isin(rows, split.members[k]) for k in models], axis=1)
    count = np.minimum(member.sum(1), (~member).sum(1))[:, None]
    draws = np.stack([np.random.default_rng(int(row)).random(len(split.members)) for row in rows])[:, models]
    return _first_drawn(member, draws, count), _first_drawn(~member, draws, count)


def _first_drawn(side: np.ndarray, draws: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Of the models of a side [P C] those with the `count` [P 1] lowest draws [P C] of each row."""
    rank = np.argsort(np.argsort(np.where(side, draws, 2.0), axis=1), axis=1)
    return side & (rank < count)


def split_digest(split: Split) -> str:
    """Returns 16 hex digits that change with any row of the split."""
    sha = hashlib.sha256()
    for name, rows in zip(split._fields, split, strict=True):
        sha.update(f"{name}{rows.shape}".encode())
        sha.update(np.ascontiguousarray(rows, np.int64).tobytes())
    return sha.hexdigest()[:16]


def _trial(rng: np.random.Generator, num_rows: int, size: int, num_shadows: int) -> np.ndarray:
    target, rest = np.split(rng.permutation(num_rows), [size])
    if num_shadows * size <= len(rest):
        shadows = [rest[s * size : (s + 1) * size] for s in range(num_shadows)]
    else:
        shadows = [rng.permutation(rest)[:size] for _ in range(num_shadows)]
    return np.stack([target, *shadows])  # [1+S size]


def _shared(rng: np.random.Generator, num_rows: int, n: int, num_models: int, num_reference: int):
    """Returns (members [K n], nonmembers [K n], reference [K m]) of K models on 2n rows, with pair i in column i."""
    rows, rest = np.split(rng.permutation(num_rows).astype(np.int32), [2 * n])
    pairs = rows.reshape(n, 2)
    half = np.tile(np.arange(num_models) % 2, (n, 1))
    side = rng.permuted(half, axis=1).T  # [K n], which row of pair i model k is trained on
    reference = rest[: num_models * num_reference].reshape(num_models, num_reference)
    return pairs[np.arange(n), side], pairs[np.arange(n), 1 - side], reference


def _check_shared(num_rows: int, n: int, num_targets: int, num_models: int, num_reference: int) -> None:
    _check_sizes(n, num_targets, num_models - 1, num_reference)
    all_reference = num_models * num_reference
    purpose = "members and non-members, which all models share"
    purpose += ", and reference rows of each" if all_reference else ""
    _check_rows(num_rows, n, 2 * n + all_reference, purpose, (num_rows - all_reference) // 2)


def _check_sizes(n: int, num_targets: int, num_shadows: int, num_reference: int) -> None:
    sizes = {"n_train": n, "num_targets": num_targets, "num_shadows": num_shadows, "num_reference": num_reference}
    for name, value in sizes.items():
        least = 0 if name == "num_reference" else 1
        if value < least:
            raise ValueError(f"{name}={value}: expected at least {least}")


def _check_rows(num_rows: int, n: int, needed: int, purpose: str, max_n: int) -> None:
    if num_rows < needed:
        limit = f"at most n_train={max(max_n, 0)}"
        raise ValueError(f"n_train={n} needs {needed} rows ({purpose}), but the data set has {num_rows}: {limit}")


SPLITS = {"disjoint": disjoint, "swap": swap, "balanced": balanced}
