import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.tree import DecisionTreeClassifier

import mi_jax


@pytest.mark.parametrize("as_frame", [False, True])
def test_cross_validation_scores_leakage_beside_accuracy(as_frame):
    x, y = load_breast_cancer(return_X_y=True, as_frame=as_frame)
    scoring = {"accuracy": "accuracy", "privacy": mi_jax.make_privacy_scorer(x, y)}
    tree = DecisionTreeClassifier(random_state=0)
    found = cross_validate(tree, x, y, cv=3, scoring=scoring, return_estimator=True)
    np.testing.assert_allclose(found["test_privacy"], found["test_accuracy"] - 1, atol=1e-12)  # trees know all members


def test_a_grid_search_chooses_the_tree_that_leaks_least():
    x, y = load_breast_cancer(return_X_y=True)
    scorer = mi_jax.make_privacy_scorer(x, y)
    grid = {"max_depth": [1, None]}
    search = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, scoring=scorer, cv=3, n_jobs=2).fit(x, y)
    assert search.best_params_ == {"max_depth": 1} and search.best_score_ > -0.1


def test_rows_that_the_scorer_does_not_know_are_refused():
    x, y = load_breast_cancer(return_X_y=True)
    scorer, tree = mi_jax.make_privacy_scorer(x, y), DecisionTreeClassifier().fit(x, y)
    with pytest.raises(ValueError, match="none of its 10 rows is among the 569"):
        scorer(tree, x[:10] + 1, y[:10])
    with pytest.raises(ValueError, match="all rows of the scorer"):
        scorer(tree, x, y)
