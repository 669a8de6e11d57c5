"""An attack with one threshold: which candidate is chosen on shadow models, at which threshold, by which rows."""

import jax
import numpy as np
import pytest

from mi_jax import attacks, perturbations
from mi_jax.attacks import measures
from mi_jax.evaluation import metrics
from mi_jax.trials import one_threshold
from mi_jax.types import Answers, Attack, Fitted

KEY = jax.random.key(0)
TASK = attacks.AttackContext((8, 8, 1), 4, None, budget=40)
ROWS = np.arange(20)
SIDES = ROWS < 10  # of the points of a model, members first


def scripted_attack(**fields) -> Attack:
    """An attack whose score is its feature."""

    def fit(key, features, y, is_member):
        return Fitted(lambda features, y: features[:, 0, 0].astype(float), features[:, 0, 0].astype(float))

    return Attack("scripted", "label", perturbations.only_itself, measures.label_is_correct(), fit)._replace(**fields)


def test_equally_good_candidates_go_to_the_cheaper():
    dear, cheap = (attacks.build("noise", TASK)[0]._replace(settings={"which": which}) for which in ("dear", "cheap"))
    is_member = np.arange(20) < 10
    features = is_member.astype(np.float32)[:, None, None]
    answers = [[Answers(features, np.full(20, cost), np.ones(20, bool))] for cost in (50, 5)]
    chosen = one_threshold.choose(KEY, (dear, cheap), answers, np.zeros(20, int), is_member)
    assert chosen.attack.settings == {"which": "cheap"} and chosen.threshold == 0.5


def test_the_threshold_of_a_learned_attack_comes_from_held_out_scores():
    """A fit that memorises its rows looks perfect on them and is worth nothing elsewhere."""

    def fit(key, features, y, is_member):
        return Fitted(lambda features, y: np.ones(len(y)), np.zeros(len(y)))

    is_member = np.arange(20) < 10
    answers = Answers(np.zeros((20, 1, 1), np.float32), np.ones(20), np.ones(20, bool))
    chosen = one_threshold.choose(
        KEY, (Attack("memoriser", "label", None, None, fit),), [[answers]], np.zeros(20, int), is_member
    )
    assert chosen.threshold == np.inf


def test_a_final_network_a_little_below_the_held_out_ones_does_not_lose_everybody():
    """Few answers, so few scores: all members share one, and the network fitted on all rows gives it a bit less."""
    is_member = np.arange(20) < 10

    def fit(key, features, y, is_member):
        return Fitted(lambda features, y: 0.9 * features[:, 0, 0], features[:, 0, 0].astype(float))

    answers = Answers(is_member.astype(np.float32)[:, None, None], np.ones(20), np.ones(20, bool))
    chosen = one_threshold.choose(
        KEY, (Attack("tied", "label", None, None, fit),), [[answers]], np.zeros(20, int), is_member
    )
    scores = chosen.score(answers.features, np.zeros(20, int))
    assert metrics.balanced_accuracy(scores, is_member, chosen.threshold) == 1.0


def memoriser(key, features, y, is_member) -> Fitted:
    """A fit that knows its rows by heart and nothing else: its held-out scores are all equal."""
    known = dict(zip(features[:, 0, 0].tolist(), is_member.tolist(), strict=True))
    return Fitted(lambda features, y: np.array([known[f] for f in features[:, 0, 0].tolist()], float), np.zeros(len(y)))


def judged(*attacks: Attack, features=ROWS) -> one_threshold.Chosen:
    answers = Answers(np.float32(features)[:, None, None], np.ones(20), np.ones(20, bool))
    return one_threshold.choose(KEY, attacks, [[answers]] * len(attacks), np.zeros(20, int), SIDES)


def test_a_candidate_is_not_judged_by_its_scores_of_the_rows_it_was_fitted_on():
    def honest(key, features, y, is_member):  # right about 9 of 10 on either side and in either half
        scores = (is_member ^ np.isin(np.arange(20), (4, 15))).astype(float)
        return Fitted(lambda features, y: scores, scores)

    chosen = judged(scripted_attack(fit=memoriser), scripted_attack(fit=honest, settings={"which": "honest"}))
    assert chosen.attack.settings == {"which": "honest"} and chosen.accuracy == pytest.approx(0.9)


def test_the_threshold_is_not_that_of_scores_of_the_rows_an_attack_was_fitted_on():
    chosen = judged(scripted_attack(fit=memoriser))
    assert chosen.threshold == np.inf and chosen.accuracy == 0.5


def test_a_candidate_is_judged_at_a_threshold_of_the_other_half_of_the_rows():
    """Each half of the rows is separable at a threshold that says nothing about the other half."""
    half = np.arange(20) % 2  # alternating among the members and among the non-members
    chosen = judged(scripted_attack(), features=SIDES + 2 * half)
    assert chosen.accuracy == 0.5
