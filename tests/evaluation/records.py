"""Records for the tests of what is said and drawn of them."""

import numpy as np

from mi_jax.evaluation import entries, metrics

NAMES = {"gap": "label", "noise": "label", "confidence_threshold": "confidence"}


def synthetic(*, targets: int = 3, n: int = 20) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) as an audit makes them: three attacks, one with an infinite threshold, TPR null at 1 %."""
    rng = np.random.default_rng(0)
    is_member = np.tile(np.arange(2 * n) < n, (targets, 1))  # [T 2n]
    rows = np.arange(targets * 2 * n, dtype=np.int32).reshape(targets, 2 * n)
    scores = {"rows": rows, "labels": rows % 10, "is_member": is_member}
    scores |= {f"shadow/{name}": array for name, array in scores.items()}
    attacks = {}
    for i, (name, access) in enumerate(NAMES.items()):
        own = np.round(rng.random((targets, 2 * n)) + 0.3 * i * is_member, 1)
        scores[f"attack/{name}/scores"] = scores[f"shadow/attack/{name}/scores"] = own
        scores[f"attack/{name}/queries"] = np.full(own.shape, 1 + 10 * i)
        attacks[name] = _entry(access, own, is_member, queries=1.0 + 10 * i)
    attacks["noise"]["tuned"]["threshold"][-1] = float("inf")
    accuracies = {"train_accuracy": 1.0, "test_accuracy": 0.9, "flip_rate": 0.0}
    return {
        "config": {"dataset": "digits", "model": "mlp", "n_train": n, "num_targets": targets, "num_shadows": 2}
        | {"attacks": list(NAMES), "defense": "none", "seed": 0},
        "environment": {"python": "3.11", "jax": "0.10.2", "device": "1 x cpu", "commit": "unknown"},
        "split_digest": "0123456789abcdef",
        "models": {name: metrics.summary([value] * targets) for name, value in accuracies.items()},
        "attacks": attacks,
        "seconds": {"training": 1.0, "total": 2.0},
    }, scores


def _entry(access: str, scores: np.ndarray, is_member: np.ndarray, *, queries: float) -> dict:
    pairs = list(zip(scores, is_member, strict=True))
    return {
        "access": access,
        "queries_per_example": queries,
        "balanced_accuracy": metrics.summary([metrics.balanced_accuracy(s, m, 0.5) for s, m in pairs]),
        "auc": metrics.summary([metrics.auc(s, m) for s, m in pairs]),
        "tpr_at_fpr": {"0.1": metrics.summary([0.125] * len(pairs)), "0.01": None, "0.001": None},
        "achieved_fpr": {"0.1": metrics.summary([0.05] * len(pairs)), "0.01": None, "0.001": None},
        "finished": 1.0,
        "tuned": {"settings": [{}] * len(pairs), "threshold": [0.5] * len(pairs)},
    }


def modern(*, targets: int = 3, n: int = 20) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of `synthetic` with all that `audit.audit` writes today."""
    record, scores = synthetic(targets=targets, n=n)
    record["config"] = {"dataset": "mine", "num_shadows": 2}
    record["environment"] |= {"mi_jax": "0.2.0", "date": "2026-11-28T18:41:29+00:00"}
    record["data"] = {"rows": 1797, "shape": [8, 8, 1], "classes": 10, "rows_per_class": [174, 183]}
    record["data"] |= {"classes_without_rows": [], "duplicate_rows": 0, "binary_columns": None, "source": "a file"}
    record["split"] = {"members": n, "nonmembers": n, "shadow_overlap": {"members": 0.0, "nonmembers": 0.0}}
    record["queries"] = {"by_attack": {name: {"target": 100, "shadow": 2000} for name in NAMES}}
    record["queries"] |= {"accuracy": 40, "flip_test": 40, "repeated": 0, "failed": 0, "total": 6380}
    for i, (name, entry) in enumerate(record["attacks"].items()):
        trials = [(s, m, 0.5) for s, m in zip(scores[f"attack/{name}/scores"], scores["is_member"], strict=True)]
        entry["over_points"] = metrics.accuracy_over_points(trials)
        entry["gain_over_gap"] = {"mean": 0.1, "low": 0.05, "high": 0.15} if i else None
        flat, members = scores[f"attack/{name}/scores"].ravel(), scores["is_member"].ravel()
        entry["pooled"] = {str(fpr): entries.pooled_rate(flat, members, fpr) for fpr in entries.FPRS}
        entry["phases"] = {"gate": 40, "measure": 60}
        entry["tuned"] |= {"shadow_accuracy": [0.9 - 0.1 * i] * targets, "at_edge": [None] * targets}
    return record, scores
