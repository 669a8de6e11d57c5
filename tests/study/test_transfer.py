"""A surrogate learns from the labels of other rows: its queries are counted, and it knows what these labels reveal."""

import zlib
from collections import Counter

import jax
import numpy as np
import pytest

from mi_jax import attacks, study, training
from mi_jax.evaluation import entries, exposed, metrics, report
from mi_jax.querying import oracle
from mi_jax.study import transfer
from mi_jax.study.config import Config
from mi_jax.training import ensemble
from mi_jax.types import Recipe

DISJOINT = Config(preset="smoke", attacks=("gap", "transfer"), model="mlp:8", num_shadows=3)
BALANCED = Config(**vars(DISJOINT) | {"split": "balanced", "num_shadows": 7, "num_targets": 4})
SHORT = Recipe(max_epochs=10)
M = 50  # auxiliary rows: more than the 40 members, because fewer are refused


@pytest.fixture(scope="module")
def prepared():
    return {"disjoint": study.prepare(DISJOINT, recipe=SHORT), "balanced": study.prepare(BALANCED, recipe=SHORT)}


def audited(prepared: study.Study, *names: str) -> tuple[dict, dict]:
    """The record and scores of the gap attack and others."""
    return study.attack(prepared, {name: attacks.build(name, prepared.context) for name in ("gap", *names)})


def counted(prepared: study.Study) -> tuple[study.Study, Counter]:
    """The study with targets that count the rows they are asked."""
    seen = Counter()

    def target(k: int, access: str):
        model = prepared.target(k, access)

        def answer(x, live):
            seen[int(k)] += live
            return model.answer(x, live)

        return model._replace(answer=answer)

    return prepared._replace(target=target), seen


def answering(prepared: study.Study, label) -> study.Study:
    """The study with targets that answer label(k, x [B *x]) [B]."""
    num_classes = prepared.dataset.num_classes
    return prepared._replace(
        target=lambda k, access: oracle.function_oracle(lambda x: label(int(k), x), num_classes, access=access)
    )


@pytest.mark.parametrize("split, models", [("disjoint", {0, 1, 2, 4, 5, 6}), ("balanced", {0, 1, 2, 3})])
def test_every_query_is_counted_once_and_none_is_about_a_candidate(prepared, split, models):
    record, scores = audited(prepared[split])
    with_counts, seen = counted(prepared[split])
    found, arrays = transfer.add_transfer(with_counts, SHORT, record, scores)
    assert seen == dict.fromkeys(models, M)  # balanced: targets stand in for each other, and are asked once
    targets = len(scores["rows"])
    expected = {"target": targets * M, "shadow": (len(models) - targets) * M}
    assert found["queries"]["by_attack"]["transfer"] == expected
    assert found["queries"]["total"] == record["queries"]["total"] + len(models) * M == entries.all_queries(found)
    assert found["attacks"]["transfer"]["phases"] == {"auxiliary rows": targets * M}
    assert found["attacks"]["transfer"]["queries_per_example"] == M / 80
    assert arrays["attack/transfer/queries"].sum() == pytest.approx(targets * M)


@pytest.mark.parametrize("split", ["disjoint", "balanced"])
def test_no_model_labels_a_row_that_it_knows_or_is_attacked_on(prepared, split):
    of_split, dataset = prepared[split].split, prepared[split].dataset
    drawn = {k: transfer.auxiliary_rows(jax.random.key(0), dataset, of_split, k) for k in range(4)}
    for k, rows in drawn.items():
        assert len(set(rows)) == M and not np.isin(rows, [*of_split.members[k], *of_split.nonmembers[k]]).any()
    if split == "balanced":
        attacked = np.concatenate([of_split.members, of_split.nonmembers])
        assert not any(np.isin(rows, attacked).any() for rows in drawn.values())
    assert drawn[0].tolist() != drawn[1].tolist()


def test_reference_rows_of_a_model_do_not_train_its_surrogate(prepared):
    of_split, dataset = prepared["balanced"].split, prepared["balanced"].dataset
    free = np.setdiff1d(np.arange(len(dataset.x)), np.concatenate([of_split.members[0], of_split.nonmembers[0]]))
    reference = np.tile(free[:-M], (len(of_split.members), 1))
    rows = transfer.auxiliary_rows(jax.random.key(0), dataset, of_split._replace(reference=reference), 0)
    assert rows.tolist() == free[-M:].tolist()


def test_auxiliary_rows_are_as_many_as_members_where_the_pool_has_them(prepared):
    dataset, of_split = prepared["balanced"].dataset, prepared["balanced"].split
    for n, expected in ((400, 400), (800, 1797 - 1600)):
        members = np.arange(n)[None]
        large = of_split._replace(members=members, nonmembers=members + n, reference=members[:, :0])
        assert len(transfer.auxiliary_rows(jax.random.key(0), dataset, large, 0)) == expected


def test_a_score_is_the_confidence_of_a_network_trained_on_the_labels_alone(prepared):
    """The slow way, for one target: train on its labels, take the softmax, take the logit."""
    one = prepared["disjoint"]
    _, scores = transfer.add_transfer(one, SHORT, *audited(one))
    key = jax.random.fold_in(one.key, zlib.crc32(b"transfer"))
    rows = transfer.auxiliary_rows(key, one.dataset, one.split, 0)
    labels = np.asarray(one.model.apply(jax.tree.map(lambda leaf: leaf[0], one.params), one.dataset.x[rows])).argmax(1)
    first = jax.random.fold_in(jax.random.fold_in(key, 0), 0)
    params, _ = training.train(first, one.model, SHORT, one.dataset.x[rows], labels)
    points = scores["rows"][0]
    p = np.asarray(jax.nn.softmax(one.model.apply(params, one.dataset.x[points])), float)
    p_y = p[np.arange(len(points)), one.dataset.y[points]]
    # float32 probabilities of rounding 1e-7, and a training whose order of sums depends on the size of the pool
    np.testing.assert_allclose(scores["attack/transfer/scores"][0], np.log(p_y / (1 - p_y)), rtol=1e-3, atol=1e-3)


def test_the_same_key_gives_the_same_bits_and_a_stopped_run_trains_no_surrogate_again(tmp_path, monkeypatch):
    record, scores = study.run(DISJOINT, recipe=SHORT, out=tmp_path)
    monkeypatch.setattr(ensemble, "_train_group", None)
    again, same = study.run(DISJOINT, recipe=SHORT, out=tmp_path)
    assert again["attacks"] == record["attacks"] and list(record["attacks"]) == ["gap", "transfer"]
    assert scores.keys() == same.keys() and all(np.array_equal(scores[name], same[name]) for name in scores)


def test_an_attacker_who_does_not_know_of_a_defense_resumes_as_well(tmp_path, monkeypatch):
    plain, guarded = study.prepare_grid(DISJOINT, ("none", "memguard:0.001"), recipe=SHORT, out=tmp_path)
    blind = study.non_adaptive(guarded, plain)
    first = transfer.add_transfer(blind, SHORT, *audited(blind))[1]
    monkeypatch.setattr(ensemble, "_train_group", None)
    again = transfer.add_transfer(blind, SHORT, *audited(blind))[1]
    assert np.array_equal(again["attack/transfer/scores"], first["attack/transfer/scores"])


def test_surrogates_of_a_large_pool_train_in_groups(prepared, monkeypatch):
    one = prepared["disjoint"]
    together = transfer.add_transfer(one, SHORT, *audited(one))[1]["attack/transfer/scores"]
    pools, train = [], training.train_ensemble

    def noted(key, model, recipe, x, *rest, **options):
        pools.append(len(x))
        return train(key, model, recipe, x, *rest, **options)

    monkeypatch.setattr(training, "train_ensemble", noted)
    monkeypatch.setattr(transfer, "POOL_BYTES", 4 * M * one.dataset.x[0].nbytes)
    grouped = transfer.add_transfer(one, SHORT, *audited(one))[1]["attack/transfer/scores"]
    assert pools == [4 * M, 2 * M]
    np.testing.assert_allclose(grouped[0], together[0], rtol=1e-3, atol=1e-3)  # the first group has the same keys
    assert np.isfinite(grouped).all()


def test_labels_that_depend_on_membership_leak_through_the_surrogate(prepared):
    """A row is labelled like the nearest row the model is attacked on if that is a member, else wrongly."""
    one = prepared["disjoint"]
    x, y = one.dataset.x.reshape(len(one.dataset.x), -1), one.dataset.y

    def label(k: int, asked: np.ndarray) -> np.ndarray:
        rows = np.concatenate([one.split.members[k], one.split.nonmembers[k]])
        nearest = rows[((asked.reshape(len(asked), 1, -1) - x[rows]) ** 2).sum(-1).argmin(1)]
        return np.where(np.isin(nearest, one.split.members[k]), y[nearest], (y[nearest] + 1) % 10)

    leaking = answering(one, label)
    entry = transfer.add_transfer(leaking, Recipe(max_epochs=500), *audited(leaking))[0]["attacks"]["transfer"]
    assert min(entry["auc"]["values"]) > 0.65 and np.mean(entry["tuned"]["shadow_accuracy"]) > 0.55


def test_labels_that_say_nothing_of_members_leave_chance(prepared):
    one = prepared["balanced"]
    blind = answering(one, lambda k, x: np.round(x.reshape(len(x), -1).sum(1) * 16 + k).astype(np.int32) % 10)
    record, scores = transfer.add_transfer(blind, SHORT, *audited(blind))
    limit = 4 * np.sqrt((2 * 40 + 1) / (12 * 40 * 40))  # deviations of a rank sum without ties
    for value, of_target in zip(record["attacks"]["transfer"]["auc"]["values"], scores["is_member"], strict=True):
        assert abs(value - 0.5) < limit and of_target.sum() == 40


def test_a_model_that_overfits_is_not_told_worse_than_by_chance(prepared):
    record, _ = transfer.add_transfer(prepared["balanced"], SHORT, *audited(prepared["balanced"]))
    assert min(record["attacks"]["transfer"]["auc"]["values"]) > 0.5 - 4 * np.sqrt(81 / (12 * 40 * 40))


def test_the_threshold_is_the_best_on_two_shadow_models(prepared, monkeypatch):
    one, seen, choose = prepared["disjoint"], [], transfer.trials.choose

    def noted(key, candidates, answers, y, is_member):
        seen.append((np.concatenate([a.features.ravel() for a in answers[0]]), y, is_member))
        return choose(key, candidates, answers, y, is_member)

    monkeypatch.setattr(transfer.trials, "choose", noted)
    tuned = transfer.add_transfer(one, SHORT, *audited(one))[0]["attacks"]["transfer"]["tuned"]
    assert tuned["threshold"] == [metrics.best_threshold(features, members) for features, _, members in seen]
    assert tuned["settings"] == [{"auxiliary rows": M, "each put": "once"}] * 2
    for (_, y, is_member), (_, *stand_ins, _) in zip(seen, one.split.trials, strict=True):
        rows = np.concatenate([[*one.split.members[k], *one.split.nonmembers[k]] for k in stand_ins])
        np.testing.assert_array_equal(y, one.dataset.y[rows])
        np.testing.assert_array_equal(is_member, np.tile(np.repeat([True, False], 40), 2))


def test_a_record_is_drawn_and_the_rest_of_it_stays_as_it_was(prepared, tmp_path):
    record, scores = audited(prepared["balanced"], "calibrated_label")
    before = {name: dict(entry) for name, entry in record["attacks"].items()}
    found, arrays = transfer.add_transfer(prepared["balanced"], SHORT, record, scores)
    assert "transfer" not in record["attacks"] and "attack/transfer/scores" not in scores
    assert {name: found["attacks"][name] for name in before} == before
    assert found["attacks"]["transfer"]["gain_over_gap"] is not None
    assert exposed.leading_attack(found, arrays) == exposed.leading_attack(record, scores) == "calibrated_label"
    found["config"]["split"] = "balanced"
    report.write(tmp_path, found, arrays)
    assert "transfer" in report.table(report.read(tmp_path)[0])


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"attacks": ("transfer",)}, "attacks=transfer: expected another attack besides, as gap"),
        ({"attacks": ("gap", "transferred")}, r"unknown attack 'transferred': known are .*, white_box, transfer$"),
        ({"cap": 49}, "cap=49: gap may need"),
        ({"cap": 130, "n_train": 140, "num_points": 40}, "cap=130: transfer puts 140 auxiliary rows to each target"),
        ({"split": "balanced", "num_shadows": 7, "n_train": 880}, "attack transfer: 37 rows .*, expected 50 or more"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_training(monkeypatch, flags, message):
    monkeypatch.setattr(training, "train_ensemble", None)
    with pytest.raises(ValueError, match=message) as error:
        study.prepare(Config(**vars(DISJOINT) | flags))
    assert "\n" not in str(error.value)


def test_many_classes_need_two_rows_each(prepared):
    dataset, of_split = prepared["balanced"].dataset, prepared["balanced"].split
    many = dataset._replace(num_classes=1000)
    with pytest.raises(ValueError, match=r"attack transfer: 1717 rows of the pool .* model 3, expected 2000 or more"):
        transfer.auxiliary_rows(jax.random.key(0), many, of_split, 3)
