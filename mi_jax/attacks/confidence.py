"""The logit of a confidence: the statistic of the attacks that see probabilities."""

import numpy as np


def logits_of(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns log p - log(1 - p) of the probability p of each label [P], from log-probabilities [P C] or [P K C]."""
    log = log_probabilities.astype(float)
    is_label = np.arange(log.shape[-1]) == labels.reshape(-1, *[1] * (log.ndim - 1))
    is_label = np.broadcast_to(is_label, log.shape)
    others = np.sort(np.where(is_label, -np.inf, log))  # sorted, since the last bits of a sum depend on the order
    return log[is_label].reshape(log.shape[:-1]) - np.logaddexp.reduce(others, -1)
