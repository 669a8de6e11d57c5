"""Attacks that judge every point: what each asks, and its score beside a slow version of its formula."""

import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import attacks, perturbations
from mi_jax.attacks import calibrated, calibration, chosen
from mi_jax.types import PerExample, Reference

IMAGE = attacks.AttackContext((8, 8, 1), 4, None, budget=10)
BITS = attacks.AttackContext((12,), 4, np.ones(12, bool), budget=10)
RNG = np.random.default_rng(0)
P, K = 7, 6
INSIDE = np.broadcast_to(np.arange(K) < 3, (P, K))


def built(name: str, context=IMAGE) -> PerExample:
    (attack,) = attacks.build(name, context)
    return attack


def normal_reference(features) -> Reference:
    return Reference(features, INSIDE, ~INSIDE)


def log_probabilities(*shape: int) -> np.ndarray:
    logits = 3 * RNG.normal(size=(*shape, 4))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "access", "online", "queries"),
    [
        ("calibrated_label", "label", True, 1),
        ("calibrated_noise:7", "label", True, 7),
        ("calibrated_noise:500", "label", True, 500),
        ("chosen:1", "label", True, 1),
        ("chosen:50", "label", True, 50),
        ("chosen_offline", "label", False, 10),
        ("dhattack:10", "label", False, 10),
        ("calibrated_translation", "label", True, 13),  # x, 4 shifts by one pixel and 8 by two
    ],
)
def test_an_attack_on_a_pool_asks_the_target_as_many_questions_as_it_says(name, access, online, queries):
    attack = built(name)
    assert (attack.access, attack.online) == (access, online) and attack.statistic is None
    number = sum(attack.pool.counts)
    rates = chosen.answer_rates(normal_reference(RNG.normal(size=(P, K, number))))
    order = attack.choose(rates, attack.pool)
    assert order.shape == (P, queries) and attack.settings.get("queries", 1) == queries
    assert order.min() >= 0 and order.max() < number
    assert all(len(np.unique(own)) == queries for own in order)


@pytest.mark.parametrize(
    ("name", "access", "online"),
    [("lira", "confidence", True), ("lira_offline", "confidence", False), ("rmia", "confidence", True),
     ("calibrated_boundary:30", "label", True), ("calibrated_rays:30", "label", True)],
)  # fmt: skip
def test_an_attack_on_a_statistic_says_what_it_sees(name, access, online):
    attack = built(name)
    assert (attack.name, attack.access, attack.online, attack.pool) == (name.split(":")[0], access, online, None)
    assert attack.statistic.access == access


def test_calibrated_label_asks_about_the_example_itself_and_calibrated_noise_about_one_strength():
    label, noise = built("calibrated_label"), built("calibrated_noise:5")
    rates = chosen.answer_rates(normal_reference(RNG.normal(size=(P, K, sum(noise.pool.counts)))))
    assert label.pool.kinds == ("itself",)
    (order,) = np.unique(noise.choose(rates, noise.pool), axis=0)  # the same for all points
    kinds = np.repeat(np.arange(len(noise.pool.counts)), noise.pool.counts)[order]
    assert len(np.unique(kinds)) == 1 and noise.pool.kinds[kinds[0]].startswith("noise")


def test_attacks_that_choose_from_one_pool_have_the_same_pool():
    names = ("chosen:1", "chosen:25", "chosen_offline:5", "calibrated_noise:25")
    assert len({built(name).pool for name in names}) == 1


def test_lira_compares_the_logit_of_the_labels_probability():
    features, shadow, y = log_probabilities(P), log_probabilities(P, K), RNG.integers(0, 4, P)
    found = built("lira").score(features, y, normal_reference(shadow), None)
    p = np.exp(features[np.arange(P), y].astype(float))
    shadow_p = np.exp(shadow[np.arange(P), :, y].astype(float))
    expected = calibration.student(np.log(p / (1 - p)), normal_reference(np.log(shadow_p / (1 - shadow_p))[..., None]))
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
    np.testing.assert_allclose(found.false_positive_rate, expected.false_positive_rate, rtol=1e-4)


@pytest.mark.parametrize("name", ["lira", "lira_offline", "rmia"])
def test_a_probability_of_0_or_1_scores_as_the_nearest_other_one(name):
    shadow, y = log_probabilities(2, K), np.zeros(2, int)
    shadow[1] = shadow[0]
    certain = np.where(np.arange(4) == 0, 0.0, -np.inf)
    for answer in (certain, np.roll(certain, 1)):
        shadow[:, 2] = answer
        attack = built(name)
        inside = INSIDE[:2] & attack.online
        found = attack.score(np.stack([answer] * 2), y, Reference(shadow, inside, ~INSIDE[:2]), None)
        assert np.isfinite(found.score).all() and np.isfinite(found.false_positive_rate).all()
        assert found.score[0] == pytest.approx(found.score[1])


def test_rmia_divides_the_probability_by_its_mean_over_the_models_that_calibrate():
    features, shadow, y = log_probabilities(P), log_probabilities(P, K), RNG.integers(0, 4, P)
    reference = Reference(shadow, INSIDE & (np.arange(K) != 1), ~INSIDE & (np.arange(K) != 4))
    found = built("rmia").score(features, y, reference, None)
    for point in range(P):
        typical = np.mean([np.exp(shadow[point, k, y[point]]) for k in (0, 2, 3, 5)])
        assert found.score[point] == pytest.approx(np.log(np.exp(features[point, y[point]]) / typical), rel=1e-4)


def test_a_distance_is_that_of_the_last_checkpoint():
    features, shadow, y = RNG.lognormal(size=(P, 3)), RNG.lognormal(size=(P, K, 3)), np.zeros(P, int)
    attack = built("calibrated_rays:30")
    found = attack.score(features, y, normal_reference(shadow), None)
    expected = calibration.hurdle(features[:, -1], normal_reference(shadow[..., -1:]))
    np.testing.assert_array_equal(found.score, expected.score)


def dhattack_statistic(answers: list[bool]) -> float:
    """DHAttack's statistic by its definition, one answer at a time."""
    n = len(answers)
    if answers[0]:
        distance = next((i for i, right in enumerate(answers) if not right), n)
    else:
        wrong = next((i for i, right in enumerate(answers) if right), n)
        distance = np.exp(-float(wrong)) * max(n // 100, 1)
    s = np.exp(-float(distance)) + 1e-8
    p = np.exp(-s)
    return float(np.log(p / (1 - p)))


def test_the_statistic_of_dhattack_is_that_of_its_definition_and_rises_with_the_distance():
    answers = RNG.random((200, 9)) < np.linspace(0.2, 1, 200)[:, None]
    found = calibrated._line_logit(answers)
    np.testing.assert_allclose(found, [dhattack_statistic(own) for own in answers.tolist()], rtol=1e-6)
    first_change = calibrated._line_logit(np.arange(9) < np.arange(1, 10)[:, None])
    assert (np.diff(first_change) > 0).all()
    assert calibrated._line_logit(np.arange(9) > 0) < first_change[0]  # the example itself is mislabelled


def test_dhattack_scores_a_later_change_higher_and_uses_models_trained_without_the_point_alone():
    attack, number = built("dhattack:10"), 10
    shadow = np.where(np.arange(number) < RNG.integers(2, 8, (P, K, 1)), 1.0, -1.0)
    reference = Reference(shadow, np.zeros_like(INSIDE), ~INSIDE)
    order = np.tile(np.arange(number), (P, 1))
    scores = [attack.score(np.tile(np.arange(number) < change, (P, 1)), order, reference, None).score
              for change in range(1, number + 1)]  # fmt: skip
    assert (np.diff(scores, axis=0) > 0).all()
    other = reference._replace(features=np.where(INSIDE[..., None], -shadow, shadow))
    again = attack.score(np.ones((P, number), bool), order, other, None).score
    np.testing.assert_array_equal(again, scores[-1])


def test_a_perturbation_of_a_user_is_a_calibrated_attack_and_in_the_pool_of_chosen_queries(monkeypatch):
    def mirrored(strength):
        return lambda key, x: jnp.stack([x, x[::-1], x[:, ::-1]][: 1 + strength])

    family = perturbations.PERTURBATIONS["translation"]._replace(make=mirrored, grid=(1, 2), default=2)
    monkeypatch.setitem(perturbations.PERTURBATIONS, "mirror", family)
    attack = built("calibrated_mirror")
    assert attack.name == "calibrated_mirror" and attack.settings == {"queries": 4}
    assert attack.pool.kinds == ("itself", "mirror 1", "mirror 2") and attack.pool.counts == (1, 1, 2)
    assert "mirror 2" in built("chosen:5").pool.kinds


def test_a_perturbation_of_images_is_no_calibrated_attack_on_a_table():
    with pytest.raises(ValueError) as refused:
        attacks.build("calibrated_rotation", BITS)
    assert str(refused.value) == "rotate(2): example of shape (12,), expected an image [H W C]"


@pytest.mark.parametrize("name", ["chosen:0", "chosen:", "chosen:2.5", "chosen:five", "chosen:-1", "chosen:²"])
def test_a_budget_that_is_no_whole_number_is_refused(name):
    with pytest.raises(ValueError, match="expected NAME:BUDGET with a whole number of queries of at least 1"):
        attacks.build(name, IMAGE)


def test_unknown_attacks_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown attack 'calibrated_gap'.*chosen_offline.*lira"):
        attacks.build("calibrated_gap", IMAGE)


@pytest.mark.parametrize(
    "name", ["chosen", "chosen_offline", "chosen_sequential", "chosen_crafted", "calibrated_noise", "dhattack"]
)
def test_a_budget_whose_answers_fill_any_memory_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=rf"^budget=999999 of attack {name}: expected at most 10000 [^\n]*$"):
        attacks.build(f"{name}:999999", BITS)
    assert built(f"{name}:2500", BITS).settings["queries"] > 0  # as many as the paper's
