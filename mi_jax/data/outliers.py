"""Outliers: points with few other points near them in a model's feature space (its penultimate activations).

**Source**: the paper, section 7 (arXiv 2007.14321v2, section 9). A point is an outlier if fewer than gamma other points
lie within a cosine distance delta of it. Here gamma and the share beta of outliers are fixed. Delta follows from
them, as a quantile of the distances to the gamma-th neighbour, so no search is needed.
"""

import numpy as np
from sklearn import neighbors

GAMMA, BETA = 10, 0.02  # the paper's


def distance_to_neighbour(features: np.ndarray, gamma: int = GAMMA) -> np.ndarray:
    """Returns the cosine distance [P] from each point to its gamma-th nearest other point; features [P D].

    Raises ValueError for fewer than gamma + 1 points.
    """
    if not 1 <= gamma < len(features):
        raise ValueError(f"gamma={gamma}: expected at least 1 and fewer than the {len(features)} points")
    # gamma + 1 neighbours, because the nearest of all is the point itself.
    index = neighbors.NearestNeighbors(n_neighbors=gamma + 1, metric="cosine", algorithm="brute").fit(features)
    return index.kneighbors(features)[0][:, gamma]


def outliers(features: np.ndarray, *, gamma: int = GAMMA, beta: float = BETA) -> tuple[np.ndarray, float]:
    """Returns (is_outlier [P] bool, delta): a share beta of all points, rounded down but at least one.

    Every outlier has fewer than gamma other points within delta. Where distances are tied at delta, the points that
    come last among the tied ones are chosen.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta={beta}: expected a share between 0 and 1")
    distances = distance_to_neighbour(features, gamma)
    order, count = np.argsort(distances, kind="stable"), max(1, int(beta * len(distances)))
    is_outlier = np.isin(np.arange(len(distances)), order[-count:])
    return is_outlier, float(distances[order[-1 - count]])
