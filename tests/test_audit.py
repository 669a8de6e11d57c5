"""The whole path against models whose leakage is known: none (untrained), all (planted), and what both imply."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import attacks, audit, perturbations
from mi_jax.attacks import measures
from mi_jax.data import splits
from mi_jax.evaluation import metrics
from mi_jax.querying import driver, oracle, white_box
from mi_jax.types import Attack, Dataset, Fitted, Model, Split

SHAPE, C, N = (8, 8, 1), 4, 400
KEY = jax.random.key(0)
TASK = attacks.AttackContext(SHAPE, C, None, budget=40)


def noise_dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset("noise", rng.random((N, *SHAPE), np.float32), rng.integers(0, C, N).astype(np.int32), C)


def memory() -> Model:
    """A classifier that remembers: each stored example votes for its label, the nearer the louder."""

    def apply(params, x, key=None):
        near = ((x.reshape(len(x), 1, -1) - params["x"].reshape(len(params["x"]), -1)) ** 2).sum(-1)  # [B n]
        return 6 * jnp.exp(-near) @ jax.nn.one_hot(params["y"], C) + 1e-3 * x.reshape(len(x), -1)[:, :C]

    return Model(lambda key, x: None, apply)


TUNED = tuple(name for name in attacks.ATTACKS if isinstance(attacks.build(name, TASK)[0], Attack))  # the paper's
MEMORY = memory()  # one object: compiled programs are found by the identity of a model's functions


def run(dataset, split, params_of, model, names=TUNED, context=TASK, **options):
    def target(k, access):
        if access == "gradient":
            return white_box.WhiteBox(model.apply, params_of(k))
        return oracle.model_oracle(model, params_of(k), C, access=access)

    chosen = {name: attacks.build(name, context) for name in names}
    return audit.audit(KEY, dataset, split, target, chosen, **options)


def answering(params_of, hear):
    """The target whose model k answers what `hear(k, live, answers)` returns, or its answers where that is None."""

    def target(k, access):
        own = oracle.model_oracle(MEMORY, params_of(k), C, access=access)

        def answer(x, live):
            answers = own.answer(x, live)
            changed = hear(k, live, answers)
            return answers if changed is None else changed

        return own._replace(answer=answer)

    return target


@pytest.fixture(scope="module")
def planted():
    dataset = noise_dataset()
    split = splits.disjoint(0, N, 40, num_targets=2, num_shadows=1)

    def params_of(k):
        rows = split.members[k]
        return {"x": jnp.asarray(dataset.x[rows]), "y": jnp.asarray(dataset.y[rows])}

    return dataset, split, params_of, run(dataset, split, params_of, MEMORY)


@pytest.mark.parametrize("name", TUNED)
def test_every_attack_finds_planted_members(planted, name):
    *_, (record, _) = planted
    entry = record["attacks"][name]
    # Members are remembered and right, non-members guessed (1/C right): even the gap is 7/8. A flipped sign is < 1/2.
    assert min(entry["auc"]["values"]) > 0.8
    assert min(entry["balanced_accuracy"]["values"]) > 0.7


def test_no_attack_finds_members_of_untrained_models():
    dataset, split = noise_dataset(), splits.disjoint(1, N, 40, num_targets=3, num_shadows=1)  # compiled for 40 above
    weights = np.random.default_rng(5).normal(size=(len(split.members), 64, C)).astype(np.float32)
    linear = Model(lambda key, x: None, lambda params, x, key=None: x.reshape(len(x), -1) @ params)
    record, _ = run(dataset, split, lambda k: jnp.asarray(weights[k]), linear)
    # Under the null the AUC of one target has standard deviation sqrt((m + n + 1) / (12 m n)) or less (ties).
    bound = 3.3 * np.sqrt(81 / (12 * 40 * 40) / 3)  # 3.3 deviations of a mean of 3: one in a thousand
    for name, entry in record["attacks"].items():
        assert abs(entry["auc"]["mean"] - 0.5) < bound, name


def test_gap_accuracy_is_half_plus_half_the_train_test_gap_exactly(planted):
    *_, (record, _) = planted
    models, gap = record["models"], record["attacks"]["gap"]["balanced_accuracy"]["values"]
    pairs = zip(models["train_accuracy"]["values"], models["test_accuracy"]["values"], strict=True)
    assert gap == [0.5 + (train - test) / 2 for train, test in pairs]


def test_query_counts_of_the_target_are_exact(planted):
    dataset, split, params_of, (record, scores) = planted
    right = []
    for k in split.trials[:, 0]:
        rows = np.concatenate([split.members[k], split.nonmembers[k]])
        right.append(
            oracle.query_labels(oracle.model_oracle(MEMORY, params_of(k), C), dataset.x[rows]) == dataset.y[rows]
        )
    np.testing.assert_array_equal(scores["attack/noise/queries"], 1 + 40 * np.array(right))
    settings = record["attacks"]["translation"]["tuned"]["settings"]
    assert {s["perturbation"] for s in settings} <= {"translation 1", "translation 2"}
    bits = [4 * int(s["perturbation"][-1]) + 1 for s in settings]
    np.testing.assert_array_equal(scores["attack/translation/queries"], np.repeat(np.array(bits)[:, None], 80, 1))
    for name in ("gap", "confidence_threshold", "confidence_network"):
        assert record["attacks"][name]["queries_per_example"] == 1


def test_scores_reproduce_every_number_of_the_record(planted):
    *_, (record, scores) = planted
    for name, entry in record["attacks"].items():
        for t, threshold in enumerate(entry["tuned"]["threshold"]):
            own, is_member = scores[f"attack/{name}/scores"][t], scores["is_member"][t]
            assert entry["auc"]["values"][t] == metrics.auc(own, is_member)
            assert entry["balanced_accuracy"]["values"][t] == metrics.balanced_accuracy(own, is_member, threshold)
        assert entry["tpr_at_fpr"]["0.01"] is None  # forty non-members cannot resolve one in a hundred
        assert entry["tpr_at_fpr"]["0.1"] is not None


def test_thresholds_and_tuning_do_not_move_with_the_target(planted):
    dataset, split, params_of, (record, scores) = planted
    constant = {"x": jnp.zeros((40, *SHAPE)), "y": jnp.zeros(40, jnp.int32)}
    targets = set(split.trials[:, 0])
    names = tuple(name for name in TUNED if name != "white_box")  # the slowest, and tuned like the others
    other, _ = run(dataset, split, lambda k: constant if k in targets else params_of(k), MEMORY, names)
    for name in names:
        assert other["attacks"][name]["tuned"] == record["attacks"][name]["tuned"]


def test_a_target_is_asked_only_by_the_attack_as_tuned(planted):
    dataset, split, params_of, (record, _) = planted
    seen = {}

    target = answering(params_of, lambda k, live, labels: seen.update({k: seen.get(k, 0) + live}))
    _, scores = audit.audit(KEY, dataset, split, target, {"noise": attacks.build("noise", TASK)})
    for t, trial in enumerate(split.trials):
        # 80 labels for its accuracy, 64 asked again, then the bill.
        assert seen[trial[0]] == 80 + 64 + scores["attack/noise/queries"][t].sum()


def test_num_points_attacks_the_first_rows_of_each_side(planted):
    dataset, split, params_of, _ = planted
    _, scores = run(dataset, split, params_of, MEMORY, names=("gap",), num_points=7)
    for t, k in enumerate(split.trials[:, 0]):
        expected = np.concatenate([split.members[k][:7], split.nonmembers[k][:7]])
        np.testing.assert_array_equal(scores["rows"][t], expected)
        np.testing.assert_array_equal(scores["is_member"][t], np.arange(14) < 7)
        np.testing.assert_array_equal(scores["labels"][t], dataset.y[expected])


def test_a_target_that_changes_its_answers_is_refused_unless_allowed(planted):
    dataset, split, params_of, _ = planted
    asked = []

    def changed(k, live, labels):
        asked.append(live)
        return (np.asarray(labels) + len(asked)) % C  # another label at every call

    target = answering(params_of, changed)
    gap = {"gap": attacks.build("gap", TASK)}
    with pytest.raises(ValueError, match="differently when queried again.*--allow_random_target"):
        audit.audit(KEY, dataset, split, target, gap)
    record, _ = audit.audit(KEY, dataset, split, target, gap, allow_random_target=True)
    assert min(record["models"]["flip_rate"]["values"]) == 1.0


def test_a_cap_leaves_points_that_count_nowhere_but_in_finished(planted, monkeypatch):
    dataset, split, params_of, (_, whole) = planted
    monkeypatch.setattr(driver, "query", functools.partial(driver.query, points_at_once=8))
    bill = whole["attack/noise/queries"].sum(1)
    record, scores = run(dataset, split, params_of, MEMORY, names=("noise",), cap=int(bill.min()) - 1)
    done = ~np.isnan(scores["attack/noise/scores"])
    assert record["attacks"]["noise"]["finished"] == done.mean() < 1
    np.testing.assert_array_equal(scores["attack/noise/scores"][done], whole["attack/noise/scores"][done])
    for t, threshold in enumerate(record["attacks"]["noise"]["tuned"]["threshold"]):
        own, is_member = scores["attack/noise/scores"][t][done[t]], scores["is_member"][t][done[t]]
        expected = metrics.balanced_accuracy(own, is_member, threshold)
        assert record["attacks"]["noise"]["balanced_accuracy"]["values"][t] == expected
    with pytest.raises(ValueError, match="cap=85: let noise finish no member or no non-member"):
        run(dataset, split, params_of, MEMORY, names=("noise",), cap=85)


def table_of_both_kinds(rng) -> np.ndarray:
    """Rows [N 64]: six real columns among 58 bits."""
    return np.where(MIXED, rng.random((N, 64)) < 0.5, rng.random((N, 64))).astype(np.float32)


MIXED = ~np.isin(np.arange(64), [0, 1, 20, 21, 40, 63])


def test_noise_finds_planted_members_of_a_table_of_bits_and_real_columns():
    rng = np.random.default_rng(0)
    dataset = Dataset("table", table_of_both_kinds(rng), rng.integers(0, C, N).astype(np.int32), C, MIXED)
    split = splits.disjoint(0, N, 40, num_targets=2, num_shadows=1)
    remembered = [{"x": jnp.asarray(dataset.x[rows]), "y": jnp.asarray(dataset.y[rows])} for rows in split.members]
    context = attacks.AttackContext((64,), C, MIXED, budget=40)
    record, _ = run(dataset, split, remembered.__getitem__, MEMORY, names=("gap", "noise"), context=context)
    noise, gap = (record["attacks"][name] for name in ("noise", "gap"))
    # As on images above, and an attack that asks more must not do worse than the gap it starts from.
    assert min(noise["auc"]["values"]) > 0.8 and min(noise["balanced_accuracy"]["values"]) > 0.7
    assert noise["balanced_accuracy"]["mean"] >= gap["balanced_accuracy"]["mean"] - 0.02
    for settings in noise["tuned"]["settings"]:
        assert settings.keys() >= {"p", "sigma", "queries"} and settings["queries"] == 40


def test_an_untrained_model_of_such_a_table_reveals_nothing_to_noise():
    rng = np.random.default_rng(1)
    dataset = Dataset("table", table_of_both_kinds(rng), rng.integers(0, C, N).astype(np.int32), C, MIXED)
    split = splits.disjoint(1, N, 40, num_targets=3, num_shadows=1)
    weights = rng.normal(size=(len(split.members), 64, C)).astype(np.float32)
    linear = Model(lambda key, x: None, lambda params, x, key=None: (x - 0.5) @ params)
    context = attacks.AttackContext((64,), C, MIXED, budget=40)
    record, _ = run(dataset, split, lambda k: jnp.asarray(weights[k]), linear, names=("noise",), context=context)
    # 3.3 deviations of a mean of three, as above.
    assert abs(record["attacks"]["noise"]["auc"]["mean"] - 0.5) < 3.3 * np.sqrt(81 / (12 * 40 * 40) / 3)


@pytest.mark.parametrize("name", ["swap", "balanced"])
def test_planted_members_are_found_where_models_share_their_rows(name):
    dataset = noise_dataset()
    split = splits.SPLITS[name](0, N, 40, num_targets=2, num_shadows=1 if name == "swap" else 3)
    remembered = [{"x": jnp.asarray(dataset.x[rows]), "y": jnp.asarray(dataset.y[rows])} for rows in split.members]
    record, scores = run(dataset, split, remembered.__getitem__, MEMORY, names=("gap", "noise"), num_points=30)
    assert scores["attack/noise/scores"].shape == (2, 60)
    for entry in record["attacks"].values():
        assert min(entry["auc"]["values"]) > 0.8 and min(entry["balanced_accuracy"]["values"]) > 0.7


# Scripted answers: what model k answers is given, so that what an audit decides from it can be said in advance.

ROWS = np.arange(20)


def scripted_audit(answers_of, candidates, shadows=1):
    """(record, scores) of one trial with 10 + 10 points a model; `answers_of(k, name)` are features [20] of model k."""
    count = 20 * (1 + shadows)
    members, nonmembers = np.split(np.arange(count).reshape(-1, 20), 2, axis=1)
    split = Split(members, nonmembers, members[:, :0], np.arange(1 + shadows)[None])
    dataset = Dataset("scripted", np.zeros((count, 2), np.float32), np.zeros(count, np.int32), 2, np.ones(2, bool))

    def cache(name, compute):
        features = np.asarray(answers_of(int(re.search(r"-model-(\d+)-", name)[1]), name), np.float32)
        return {"features": features[:, None, None], "queries": np.ones(20, int), "finished": np.ones(20, bool)}

    zeros = oracle.function_oracle(lambda x: np.zeros(len(x), int), 2)._replace(digest="zeros")
    return audit.audit(KEY, dataset, split, lambda k, access: zeros, {"scripted": candidates}, cache=cache)


def scripted_attack(**fields) -> Attack:
    def fit(key, features, y, is_member):
        return Fitted(lambda features, y: features[:, 0, 0].astype(float), features[:, 0, 0].astype(float))

    return Attack("scripted", "label", perturbations.only_itself, measures.label_is_correct(), fit)._replace(**fields)


SIDES = np.arange(20) < 10  # of the points of a model, members first


def test_what_the_target_answers_moves_nothing_that_is_chosen_on_shadow_models():
    """Members score 1 above non-members, on the target 10 higher: the shadow models' threshold calls all members."""
    record, scores = scripted_audit(lambda k, name: SIDES + 10.0 * (k == 0), (scripted_attack(),))
    entry = record["attacks"]["scripted"]
    assert entry["tuned"]["threshold"] == [0.5] and entry["tuned"]["shadow_accuracy"] == [1.0]
    assert entry["balanced_accuracy"]["mean"] == 0.5 and entry["auc"]["mean"] == 1.0
    np.testing.assert_array_equal(scores["shadow/attack/scripted/scores"], [SIDES.astype(float)])


def test_the_strength_chosen_with_few_queries_is_the_one_that_attacks_the_target():
    grid = [scripted_attack(settings={"sigma": sigma, "queries": 1},
                            full_budget=scripted_attack(settings={"sigma": sigma, "queries": 9}))
            for sigma in (1, 2, 3)]  # fmt: skip
    record, _ = scripted_audit(lambda k, name: SIDES * ("sigma-2" in name), tuple(grid), shadows=2)
    assert record["attacks"]["scripted"]["tuned"]["settings"] == [{"sigma": 2, "queries": 9}]
    assert record["attacks"]["scripted"]["balanced_accuracy"]["mean"] == 1.0


def test_every_query_is_counted_and_named(planted):
    dataset, split, params_of, _ = planted
    put = []

    target = answering(params_of, lambda k, live, answers: put.append(live))
    chosen = {name: attacks.build(name, TASK) for name in ("gap", "rotation", "noise", "confidence_threshold")}
    record, scores = audit.audit(KEY, dataset, split, target, chosen)
    queries = record["queries"]
    assert queries["total"] == sum(put) and queries["accuracy"] == 2 * 80 and queries["flip_test"] == 2 * 64
    assert queries["failed"] == queries["repeated"] == 0
    for name, entry in record["attacks"].items():
        to_targets = scores[f"attack/{name}/queries"].sum()
        assert queries["by_attack"][name]["target"] == to_targets == sum(entry["phases"].values())
    assert queries["by_attack"]["gap"] == {"target": 160, "shadow": 160}


def test_a_run_whose_target_failed_resumes_to_the_same_record(planted, tmp_path):
    dataset, split, params_of, _ = planted
    chosen = {name: attacks.build(name, TASK) for name in ("gap", "noise")}

    def run_until(limit, folder):
        put = [0]

        def target(k, access):
            own = oracle.model_oracle(MEMORY, params_of(k), C)

            def label(x):
                put[0] += len(x)
                if put[0] > limit:
                    raise TimeoutError("no answer")
                size = -(-len(x) // 128) * 128
                return np.asarray(own.answer(np.resize(x, (size, *SHAPE)), size))[: len(x)]

            return oracle.function_oracle(label, C, name=f"model {k}", rows_per_call=128)

        return audit.audit(KEY, dataset, split, target, chosen, answers=folder), put[0]

    (whole, scores), asked = run_until(10**9, tmp_path / "whole")
    for limit in (100, 5000):
        with pytest.raises(TimeoutError):
            run_until(limit, tmp_path / "broken")
    (resumed, resumed_scores), asked_again = run_until(10**9, tmp_path / "broken")
    for name, values in scores.items():
        np.testing.assert_array_equal(resumed_scores[name], values)
    assert resumed["attacks"] == whole["attacks"] and asked_again < asked
    bound = 128 + oracle.PROBES * np.log2(1 + whole["queries"]["total"] / 4 / oracle.PROBES)  # by one run of one model
    assert 0 < resumed["queries"]["failed"] <= 2 * 128 and 0 < resumed["queries"]["repeated"] <= 2 * 4 * bound
    extra = resumed["queries"]["failed"] + resumed["queries"]["repeated"]
    assert resumed["queries"]["total"] == whole["queries"]["total"] + extra


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_points": 0}, "num_points=0: expected a whole number of at least 1"),
        ({"num_points": 2.5}, "num_points=2.5: expected a whole number"),
        ({"num_points": 1}, "trial 0: 1 members and 1 non-members of shadow models, expected at least two"),
        ({"cap": 0}, "cap=0: expected a whole number of at least 1"),
        ({"cap": float("nan")}, "cap=nan: expected a whole number"),
        ({"cap": True}, "cap=True: expected a whole number"),
        ({"names": ()}, r"attacks: \{\}, expected at least one"),
    ],
)
def test_numbers_that_make_no_audit_are_refused(planted, arguments, says):
    dataset, split, params_of, _ = planted
    with pytest.raises(ValueError, match=says):
        run(dataset, split, params_of, MEMORY, **arguments)


def test_a_split_whose_non_members_are_members_is_refused_before_the_first_query(planted):
    dataset, split, _, _ = planted
    wrong = split._replace(nonmembers=split.members)
    with pytest.raises(ValueError, match=r"split: row \d+ is a member and a non-member of model 0"):
        run(dataset, wrong, lambda k: 1 / 0, MEMORY, names=("gap",))


def test_what_shadow_models_share_with_their_target_is_in_the_record(planted):
    dataset, split, params_of, (record, _) = planted
    assert record["split"] == {"members": 40, "nonmembers": 40, "shadow_overlap": {"members": 0, "nonmembers": 0}}
    shared = split._replace(members=split.members[[0, 0, 2, 3]], nonmembers=split.nonmembers[[0, 0, 2, 3]])
    again, _ = run(dataset, shared, lambda k: params_of(0 if k < 2 else k), MEMORY, names=("gap",))
    assert again["split"]["shadow_overlap"] == {"members": 0.5, "nonmembers": 0}


def test_a_strength_at_the_end_of_its_grid_is_said():
    grid = [scripted_attack(settings={"sigma": sigma, "unit": "of each column"}) for sigma in (1, 3, 2)]
    for best, says in ((1, "sigma=1 is the smallest tried"), (2, None), (3, "sigma=3 is the largest tried")):
        record, _ = scripted_audit(lambda k, name, best=best: SIDES * (f"sigma-{best}" in name), tuple(grid))
        assert record["attacks"]["scripted"]["tuned"]["at_edge"] == [says]
    record, _ = scripted_audit(lambda k, name: SIDES * ("sigma-1" in name), tuple(grid[:2]))
    assert record["attacks"]["scripted"]["tuned"]["at_edge"] == [None]  # of two, each is at an end
    named = [scripted_attack(settings={"perturbation": name}) for name in ("by 9", "by 10", "by 11")]
    record, _ = scripted_audit(lambda k, name: SIDES * ("by-11" in name), tuple(named))
    assert record["attacks"]["scripted"]["tuned"]["at_edge"] == ["perturbation=by 11 is the last tried"]


def test_points_that_no_query_flipped_share_the_highest_score_and_are_counted():
    features = np.where(np.arange(20) % 5 == 0, np.inf, SIDES + 1.0)
    record, scores = scripted_audit(lambda k, name: features, (scripted_attack(),))
    assert record["attacks"]["scripted"]["never_flipped"] == 0.2
    assert np.isposinf(scores["attack/scripted/scores"]).sum() == 4
    assert "never_flipped" not in scripted_audit(lambda k, name: SIDES, (scripted_attack(),))[0]["attacks"]["scripted"]


def test_the_gain_over_gap_is_that_of_the_points_both_attacks_finished(planted):
    *_, (record, _) = planted
    attacked = record["attacks"]
    assert attacked["gap"]["gain_over_gap"] is None
    for name in ("noise", "boundary"):
        gain = attacked[name]["gain_over_gap"]
        difference = attacked[name]["balanced_accuracy"]["mean"] - attacked["gap"]["balanced_accuracy"]["mean"]
        assert gain["low"] < gain["mean"] < gain["high"] and gain["mean"] == pytest.approx(difference)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dataset": None}, "dataset and target: a NoneType and a function"),
        ({"target": 3}, "a Dataset and a int, expected"),
        ({"attacks": ["gap"]}, r"attacks: \['gap'\], expected at least one: name -> candidates"),
        ({"attacks": {"gap": "gap"}}, "attacks: gap has 'gap', expected candidates, as attacks.build returns"),
        ({"attacks": {"gap": (None,)}}, "attacks: gap has"),
        ({"attacks": {"gap": attacks.build("gap", TASK)[0]}}, "attacks: gap has Attack"),
        ({"attacks": {5: attacks.build("gap", TASK)}}, "attacks: the name 5, expected printable text"),
        ({"attacks": {"a\0": attacks.build("gap", TASK)}}, "attacks: the name"),
        ({"split": None}, "split: a NoneType, expected a Split"),
        ({"attacks": {"gap": attacks.build("gap", TASK), "last": (
            scripted_attack(neighbours=lambda key, x: x[:2]),)}}, r"the perturbation of scripted returned shape"),
    ],
)  # fmt: skip
def test_what_is_no_audit_is_refused_before_the_first_query(planted, arguments, says):
    dataset, split, *_ = planted
    given = {"dataset": dataset, "split": split, "target": lambda k, access: 1 / 0,
             "attacks": {"gap": attacks.build("gap", TASK)}} | arguments  # fmt: skip
    with pytest.raises(ValueError, match=says):
        audit.audit(KEY, **given)
