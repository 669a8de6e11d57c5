"""What is asked of targets before they are attacked: their accuracies, and whether they repeat their answers."""

import numpy as np

from mi_jax.evaluation import metrics
from mi_jax.querying import oracle
from mi_jax.querying.collect import Points, Target
from mi_jax.types import Dataset, Split

REPEATED = 64  # points of a target whose label is queried again


def target_accuracies(
    dataset: Dataset, split: Split, target: Target, points: list[Points]
) -> tuple[dict, dict[str, int]]:
    """Train and test accuracy of every target on the points that are attacked, its flip rate on some, and queries."""
    by_target, queries = [], {"accuracy": 0, "flip_test": 0}
    for k in split.trials[:, 0]:
        (rows, is_member), model = points[k], target(k, "label")
        labels = oracle.query_labels(model, dataset.x[rows])
        repeated = np.unique(np.linspace(0, len(rows) - 1, REPEATED).astype(int))
        flipped = oracle.query_labels(model, dataset.x[rows[repeated]]) != labels[repeated]
        correct = labels == dataset.y[rows]
        by_target.append((correct[is_member].mean(), correct[~is_member].mean(), flipped.mean()))
        queries = {"accuracy": queries["accuracy"] + len(rows), "flip_test": queries["flip_test"] + len(repeated)}
    names = ("train_accuracy", "test_accuracy", "flip_rate")
    summaries = zip(names, map(metrics.summary, zip(*by_target, strict=True)), strict=True)
    return dict(summaries), queries


def refuse_random_targets(flip_rates: list[float]) -> None:
    """Raises ValueError for targets of which one changed an answer."""
    if max(flip_rates) > 0:
        raise ValueError(
            f"a target answered {max(flip_rates):.1%} of its points differently when queried again: "
            "expected a deterministic target, or --allow_random_target"
        )
