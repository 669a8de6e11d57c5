"""Which points lie alone in the eyes of a model: few others near them among its penultimate activations.

**Source**: the paper, section 7 (arXiv 2007.14321v2, section 9): a point is an outlier if fewer than gamma others are
within a cosine distance delta of it. With gamma fixed, delta follows from the share of points that are to be
outliers: it is a quantile of the distances to the gamma-th neighbour, so nothing is searched.
"""

import numpy as np
from sklearn import neighbors

GAMMA, BETA = 10, 0.02  # the paper's


def distance_to_neighbour(features: np.ndarray, gamma: int = GAMMA) -> np.ndarray:
    """The cosine distance [P] of each point to its gamma-th nearest other one; features [P D].

    ValueError for fewer than gamma + 1 points.
    """
    if not 1 <= gamma < len(features):
        raise ValueError(f"gamma={gamma}: expected at least 1 and fewer than the {len(features)} points")
    # One more than asked: the nearest of all is the point itself.
    found = neighbors.NearestNeighbors(n_neighbors=gamma + 1, metric="cosine", algorithm="brute").fit(features)
    return found.kneighbors(features)[0][:, gamma]


def outliers(features: np.ndarray, *, gamma: int = GAMMA, beta: float = BETA) -> tuple[np.ndarray, float]:
    """(is the point an outlier [P] bool, delta): the share beta of all points, rounded down but at least one.

    All of them have fewer than gamma others within delta, unless points tie there: then the later of these count.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta={beta}: expected a share between 0 and 1")
    distances = distance_to_neighbour(features, gamma)
    order, count = np.argsort(distances, kind="stable"), max(1, int(beta * len(distances)))
    chosen = np.isin(np.arange(len(distances)), order[-count:])
    return chosen, float(distances[order[-1 - count]])
