"""Attacks that judge every point, on networks trained on digits: what they find, and that nothing else reveals it."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from mi_jax import attacks, data, models, trials
from mi_jax.attacks import crafted, crafting, pools
from mi_jax.data import splits
from mi_jax.evaluation import metrics
from mi_jax.querying.collect import Points, select_points
from mi_jax.study import ensembles
from mi_jax.training import ensemble
from mi_jax.trials import per_example
from mi_jax.types import Dataset, Recipe, Split

K, N, T = 14, 250, 4  # so that 1,000 non-members resolve a rate of .1 %; 10 models that are no target, 4 of them craft
SURROGATES, INTERVALS = 4, 10  # of OSLO, whose questions need not be good to show that they know no membership
KEY = jax.random.key(0)
NAMES = ("calibrated_label", "calibrated_noise:5", "calibrated_noise:25", "chosen:1", "chosen:5", "chosen:25",
         "chosen_offline:5", "chosen_sequential:5", "dhattack:10", "calibrated_rays:8", "lira", "lira_offline",
         "rmia", "yoqo", "yoqo_offline", "calibrated_yoqo", "oslo", "calibrated_oslo",
         "chosen_crafted:5")  # fmt: skip
ONE_IN_A_THOUSAND = 3.3  # deviations


@pytest.fixture(scope="module")
def digits():
    """(data set, split, model, parameters of K networks and of the surrogates, a cache of what they answer)."""
    dataset = data.load("digits")
    split = splits.balanced(1, len(dataset.x), N, num_targets=T, num_shadows=K - 1, num_surrogates=SURROGATES)
    model = models.build("mlp:64", dataset.x.shape[1:], dataset.num_classes)
    recipe = Recipe(batch_size=50, max_epochs=60, patience=None)
    params, _ = ensemble.train_ensemble(KEY, model, recipe, dataset.x, dataset.y, split.members,
                                        models_at_once=len(split.members))  # fmt: skip
    entries = {}

    def cache(name, compute):
        if name not in entries:
            entries[name] = compute()
        return entries[name]

    return dataset, split, model, params, cache


@pytest.fixture(scope="module", autouse=True)
def small():
    """Pools of few copies, short paths of OSLO, and one stand-in for a target."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "COPIES", 9)
        patch.setattr(crafted, "COPIES", 3)
        patch.setattr(crafted, "SOURCES", SURROGATES - 1)
        patch.setattr(crafting, "oslo", functools.partial(crafting.oslo, intervals=INTERVALS))
        patch.setattr(per_example, "STAND_INS", 1)
        yield


def run(dataset: Dataset, split: Split, target, names=NAMES, *, cache=lambda name, compute: compute(), points=None):
    """{name: trials}, with attacks on one pool together."""
    context = attacks.context_of(dataset, 10)
    built = {name: attacks.build(name, context) for name in names}
    plan = trials.Plan(dataset, split, points or [select_points(split, k, None) for k in range(len(split.members))])
    found = {}
    for group in trials.group_attacks(built):
        of_group, _ = trials.run_group(KEY, plan, {name: built[name] for name in group}, target, cache, lambda q: None)
        found |= of_group
    return found


def pooled(split: Split, found) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(scores of each attack on all targets, is_member)."""
    is_member = np.concatenate([select_points(split, k, None).is_member for k in split.trials[:, 0]])
    return {name: np.concatenate([trial.scores for trial in of_attack]) for name, of_attack in found.items()}, is_member


def labels_only(target):
    """The models of `target` as they answer who may see no probabilities."""
    return lambda k, access: target(k, "label")


def memberships_of_other_models(split: Split, seed: int = 1) -> Split:
    """The split that another ensemble of balanced models would have on the same pairs of rows.

    To exchange the models of one ensemble is not enough: a shadow model would then be trained on what is called the
    target's membership, and reveal a little of it.
    """
    pairs = np.stack([split.members[0], split.nonmembers[0]])
    half = np.tile(np.arange(K) % 2, (pairs.shape[1], 1))
    side = np.random.default_rng(seed).permuted(half, axis=1).T
    columns, members, nonmembers = np.arange(pairs.shape[1]), split.members.copy(), split.nonmembers.copy()
    members[:K], nonmembers[:K] = pairs[side, columns], pairs[1 - side, columns]  # surrogates keep theirs
    return split._replace(members=members, nonmembers=nonmembers)


def deviations(scores: np.ndarray, is_member: np.ndarray) -> float:
    """How far the AUC is from 1/2, in its standard deviations under the null (ties make that smaller)."""
    inside, outside = is_member.sum(), (~is_member).sum()
    return (metrics.auc(scores, is_member) - 0.5) / np.sqrt((inside + outside + 1) / (12 * inside * outside))


def most_by_chance(nonmembers: int, fpr: float) -> float:
    """The TPR that chance exceeds one time in a thousand: members before the non-member that no longer passes."""
    return stats.nbinom.ppf(0.999, np.floor(nonmembers * fpr) + 1, 0.5) / nonmembers


def nothing_found(scores: dict[str, np.ndarray], is_member: np.ndarray) -> list[str]:
    """What exceeds chance, one line each."""
    lines = []
    for name, own in scores.items():
        if abs(z := deviations(own, is_member)) > ONE_IN_A_THOUSAND:
            lines.append(f"{name}: AUC {z:+.1f} deviations from 1/2")
        for fpr in (0.1, 0.01, 0.001):
            tpr, _ = metrics.tpr_at_fpr(own, is_member, fpr) or (np.nan, 0)
            if not tpr <= most_by_chance((~is_member).sum(), fpr):
                lines.append(f"{name}: TPR {tpr} at {fpr}")
    return lines


@pytest.fixture(scope="module")
def audited(digits):
    dataset, split, model, params, cache = digits
    return run(dataset, split, ensembles.target_oracles(model, params, dataset), cache=cache)


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_finds_members_of_networks_that_fit_them_better(digits, audited, name):
    scores, is_member = pooled(digits[1], {name: audited[name]})
    assert deviations(scores[name], is_member) > ONE_IN_A_THOUSAND


def test_queries_to_choose_from_beat_one_label_and_probabilities_beat_labels(digits, audited):
    scores, is_member = pooled(digits[1], audited)
    auc = {name: metrics.auc(own, is_member) for name, own in scores.items()}
    assert auc["lira"] > auc["chosen:5"] > auc["calibrated_label"]


@pytest.mark.parametrize("name", NAMES)
def test_the_rates_of_a_target_are_counted_among_the_non_members_of_its_stand_ins(digits, audited, name):
    _, is_member = pooled(digits[1], {name: audited[name]})
    rate = np.concatenate([trial.false_positive_rate for trial in audited[name]])
    ranks = rate * (1 + N)  # one stand-in, which has N non-members
    np.testing.assert_allclose(ranks, np.round(ranks), atol=1e-6)
    assert ranks.min() >= 1 and ranks.max() <= 1 + N
    for level in (0.02, 0.1):  # T N non-members, compared with as many; of half of them models differ by more
        found, error = np.mean(rate[~is_member] <= level), np.sqrt(2 * level * (1 - level) / N / T)
        # How far a model labels the way to white as y differs from model to model, and there is one stand-in.
        assert found < level + (level if name == "dhattack:10" else ONE_IN_A_THOUSAND * error)


def test_no_attack_finds_anything_with_the_membership_of_other_models(digits):
    dataset, split, model, params, cache = digits
    other = memberships_of_other_models(split)
    found = run(dataset, other, ensembles.target_oracles(model, params, dataset), cache=cache)
    assert nothing_found(*pooled(other, found)) == []


def test_no_attack_finds_anything_of_untrained_networks(digits):
    dataset, split, model, *_ = digits
    keys = jax.random.split(jax.random.key(7), len(split.members))
    params = jax.vmap(lambda key: model.init(key, dataset.x[:1]))(keys)
    found = run(dataset, split, ensembles.target_oracles(model, params, dataset))
    assert nothing_found(*pooled(split, found)) == []


def all_models(split: Split, target: int, shadows: np.ndarray, rows: np.ndarray):
    """What `splits.calibration_models` must not do: all shadow models, half of them and one more or one less."""
    inside = np.stack([(k in shadows) & np.isin(rows, member) for k, member in enumerate(split.members)], axis=1)
    return inside, ~inside & np.isin(np.arange(len(split.members)), shadows)


def test_the_control_notices_membership_that_is_read_from_the_number_of_models(digits, monkeypatch):
    dataset, split, model, params, cache = digits
    other, target = memberships_of_other_models(split), ensembles.target_oracles(model, params, dataset)
    attack = functools.partial(run, dataset, other, labels_only(target), ("calibrated_label", "chosen:1"))
    assert nothing_found(*pooled(other, attack())) == []
    monkeypatch.setattr(splits, "calibration_models", all_models)
    scores, is_member = pooled(other, attack())
    # Nothing but the count differs: of a label that all models give right, that of a non-member is rarer outside.
    assert abs(deviations(scores["calibrated_label"], is_member)) > 10
    assert nothing_found(scores, is_member) != []


# What a trial may see. All on the first target, whose shadow models are asked once for all tests.


@pytest.fixture(scope="module")
def first(digits):
    """(data set, split with one trial, target, attacks on its last trial: names -> {name: Trial})."""
    dataset, split, model, params, cache = digits
    split = split._replace(trials=split.trials[:1])
    target = ensembles.target_oracles(model, params, dataset)

    def run_on(names, target=target, cache=cache, split=split, **options):
        return {name: one for name, (*_, one) in run(dataset, split, target, names, cache=cache, **options).items()}

    return dataset, split, target, run_on


def equal(one: trials.Trial, other: trials.Trial) -> bool:
    """Whether two trials have the same scores, rates and thresholds to the bit."""
    arrays = ("scores", "false_positive_rate", "shadow_scores", "threshold", "shadow_accuracy")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)


LABELS = ("calibrated_label", "chosen:5", "dhattack:10", "calibrated_rays:8")


@pytest.mark.parametrize("name", ["calibrated_label", "chosen:5", "chosen_offline:5"])
def test_what_the_target_answers_as_a_shadow_model_of_others_never_calibrates_it(first, name):
    dataset, split, target, run_on = first
    another = np.roll(split.trials[0], -1)  # in which model 0 is a shadow model, asked first
    both = split._replace(trials=np.stack([another, split.trials[0]]))

    def poisoned(k, access):
        own = target(k, access)
        absurd = np.where(np.arange(dataset.num_classes) == 3, 0.0, -np.inf)
        if k == 0 and access == "confidence":
            return own._replace(answer=lambda x, live: np.tile(absurd, (len(x), 1)), digest=None)
        return own

    assert equal(run_on((name,), split=both, target=poisoned)[name], run_on((name,))[name])
    other = split._replace(trials=another[None])
    assert not equal(run_on((name,), split=other, target=poisoned)[name], run_on((name,), split=other)[name])


def test_neither_the_target_nor_a_stand_in_is_among_the_models_that_calibrate_it(first, monkeypatch):
    _, split, _, run_on = first
    asked, own = [], splits.calibration_models

    def recorded(split, target, shadows, rows):
        inside, outside = own(split, target, shadows, rows)
        asked.append((int(target), set(map(int, shadows)), np.flatnonzero((inside | outside).any(0))))
        return inside, outside

    monkeypatch.setattr(splits, "calibration_models", recorded)
    monkeypatch.setattr(per_example, "STAND_INS", 3)
    run_on(("calibrated_label",))
    assert [model for model, *_ in asked] == split.trials[0, :4].tolist()
    for model, shadows, used in asked:
        assert shadows == set(range(K)) - {model, 0} and set(used.tolist()) <= shadows


@pytest.mark.parametrize("name", ["chosen:5", "lira", "calibrated_rays:8"])
def test_scores_do_not_depend_on_the_order_of_the_points(first, name):
    dataset, split, _, run_on = first
    plain = run_on((name,))[name]
    points = [select_points(split, k, None) for k in range(K)]
    order = np.random.default_rng(0).permutation(2 * N)
    points[0] = Points(points[0].rows[order], points[0].is_member[order])
    other = run_on((name,), points=points)[name]
    np.testing.assert_array_equal(other.scores, plain.scores[order])
    np.testing.assert_array_equal(other.false_positive_rate, plain.false_positive_rate[order])
    np.testing.assert_array_equal(other.answers.queries, plain.answers.queries[order])


def test_attacks_on_one_pool_score_together_as_they_score_alone(first):
    *_, run_on = first
    names = ("chosen:1", "calibrated_noise:5", "chosen_offline:5", "chosen:5")
    together = run_on(names)
    assert trials.group_attacks({name: (one.attack,) for name, one in together.items()}) == [list(names)]
    for name in names:
        assert equal(run_on((name,))[name], together[name])


@pytest.mark.parametrize("name", LABELS)
def test_scores_of_labels_do_not_change_with_the_scale_of_the_targets_logits(first, digits, name):
    dataset, split, target, run_on = first
    *_, model, params, _ = digits
    louder = model._replace(apply=lambda params, x, key=None: 4 * model.apply(params, x, key), name="louder")
    scaled = ensembles.target_oracles(louder, params, dataset)
    other = run_on((name,), target=lambda k, access: (scaled if access == "label" else target)(k, access))[name]
    assert equal(other, run_on((name,))[name])


def test_the_target_is_asked_as_many_questions_as_the_attack_says(first):
    *_, run_on = first
    for name, one in run_on(("chosen:1", "calibrated_noise:5", "dhattack:10", "lira")).items():
        assert (one.answers.queries == one.attack.settings.get("queries", 1)).all() and one.answers.finished.all(), name


def test_points_beyond_a_cap_have_no_score_and_the_others_have_theirs(first):
    dataset, split, target, run_on = first
    whole = run_on(("chosen:5",))["chosen:5"]
    built = {"chosen:5": (whole.attack,)}
    plan = trials.Plan(dataset, split, [select_points(split, k, None) for k in range(K)], cap=5 * 300 + 4)
    (capped,) = trials.run_group(KEY, plan, built, target, lambda name, compute: compute(), lambda q: None)[0][
        "chosen:5"
    ]
    done = ~np.isnan(capped.scores)
    assert done.sum() == 300 and capped.answers.queries.sum() == 1500
    np.testing.assert_array_equal(capped.answers.finished, done)
    np.testing.assert_array_equal(capped.scores[done], whole.scores[done])
    np.testing.assert_array_equal(np.isnan(capped.false_positive_rate), ~done)


@pytest.mark.parametrize("name", ["calibrated_label", "lira", "chosen_offline"])
def test_models_trained_on_other_rows_make_no_such_attack(digits, name):
    dataset, _, model, params, _ = digits
    split = splits.disjoint(0, len(dataset.x), 20, num_targets=1, num_shadows=3)
    with pytest.raises(ValueError, match=r"^attacks that judge every point: model 0, 0 of 3 other models.*[^\n]*$"):
        run(dataset, split, ensembles.target_oracles(model, params, dataset), (name,))


def test_a_corrected_rate_counts_the_non_members_at_or_below_it():
    rng = np.random.default_rng(0)
    rate, null = rng.integers(0, 6, 50) / 5, rng.integers(0, 6, 30) / 5  # many ties
    expected = [(1 + sum(other <= own for other in null)) / 31 for own in rate]
    np.testing.assert_allclose(per_example.corrected_rate(rate, null), expected)


@pytest.mark.parametrize("distort", [lambda u: u, lambda u: u**4, lambda u: np.round(u, 1)])
def test_a_corrected_rate_of_a_non_member_is_at_most_p_with_probability_p(distort):
    rng = np.random.default_rng(1)
    found = np.concatenate([per_example.corrected_rate(distort(rng.random(5)), distort(rng.random(99)))
                            for _ in range(4000)])  # fmt: skip
    assert found.min() >= 0.01 and found.max() <= 1
    for level in (0.01, 0.05, 0.1, 0.5):
        assert np.mean(found <= level) < level + ONE_IN_A_THOUSAND * np.sqrt(level * (1 - level) / 4000)
    if distort(0.123) != 0.1:  # without ties it is level
        assert abs(np.mean(found <= 0.5) - 0.5) < ONE_IN_A_THOUSAND * np.sqrt(0.25 / 4000)
