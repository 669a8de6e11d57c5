"""A model for the command's tests: `tests.external.wine:model`, trained on every other row."""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

bunch = load_wine(as_frame=True)
frame = bunch.data.assign(kind=bunch.target_names[bunch.target])


def fit(x, y):
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)


model = fit(bunch.data[::2], np.asarray(frame["kind"])[::2])
