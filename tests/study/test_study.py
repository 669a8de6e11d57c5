"""Studies of many defenses are those of each, on one split; who does not know of a defense is message nothing of it."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest

from experiments.paper import tables
from mi_jax import attacks, audit, data, defenses, study, training
from mi_jax.data.outliers import outliers
from mi_jax.evaluation import exposed
from mi_jax.evaluation.page import SHOWN
from mi_jax.querying import oracle
from mi_jax.study import ensembles, runs
from mi_jax.study.config import Config, resolve
from mi_jax.types import Defense, Model, Recipe

TINY = Config(preset="smoke", attacks=("gap",), model="mlp:8")
SHORT = Recipe(max_epochs=10)
MODEL = Model(lambda key, x: None, lambda params, x: x, "any")
WRITTEN = ("none", "memguard:0.001", "dropout:0.2", "l2:1", "dropout:0.6")


@pytest.fixture(scope="module")
def studies():
    return dict(zip(WRITTEN, study.prepare_grid(TINY, WRITTEN, recipe=SHORT), strict=True))


def test_strengths_of_one_defense_are_trained_together_and_outputs_are_no_reason_to_train_again():
    context = defenses.DefenseContext(40, None, (8, 8, 1), 10)
    found = [defenses.build(text, context) for text in (*WRITTEN, "dropout:0.2+memguard", "ldl:0.1")]
    assert ensembles.group_by_training(found) == [[0, 1, 6], [2, 4], [3], [5]]


@pytest.mark.parametrize("text", ["dropout:0.6", "memguard:0.001"])
def test_a_study_of_a_grid_is_to_the_bit_the_study_alone(studies, text):
    alone = study.prepare(Config(**vars(TINY) | {"defense": text}), recipe=SHORT)
    jax.tree.map(np.testing.assert_array_equal, alone.params, studies[text].params)
    assert alone.config == studies[text].config and alone.trained == studies[text].trained
    np.testing.assert_array_equal(alone.split.members, studies[text].split.members)


def test_reference_rows_are_nobodys_else_and_as_many_as_there_are():
    config = Config(**vars(TINY) | {"n_train": 40})
    dataset = data.load("digits")
    resolved = resolve(config, dataset)
    split = study.draw_split(resolved, dataset, reference=True)
    assert split.reference.shape == split.members.shape
    for k in range(len(split.members)):
        others = np.concatenate([split.members[k], split.nonmembers[k]])
        assert not np.isin(split.reference[k], others).any()
    large = resolve(Config(**vars(TINY) | {"n_train": 440}), dataset)
    assert study.draw_split(large, dataset, reference=True).reference.shape[1] == 1797 // 2 - 880
    assert study.draw_split(large, dataset, reference=False).reference.shape[1] == 0


def test_a_non_adaptive_attacker_queries_undefended_shadow_models(studies):
    plain, defended = studies["none"], studies["l2:1"]
    both, x = study.non_adaptive(defended, plain), plain.dataset.x[:64]
    for k in plain.split.trials.ravel():
        own = defended if k in plain.split.trials[:, 0] else plain
        expected = own.target(k, "confidence").answer(x, 64)
        np.testing.assert_array_equal(both.target(k, "confidence").answer(x, 64), expected)


def test_memguard_hides_confidences_from_a_non_adaptive_attacker(studies):
    plain, guarded = studies["none"], studies["memguard:0.001"]
    column = tables.Column(lambda context: attacks.build("confidence_threshold", context))
    blind, _ = tables.run_column(study.non_adaptive(guarded, plain), "confidence", column)
    assert blind["attacks"]["confidence"]["balanced_accuracy"]["values"] == [0.5, 0.5]
    gap = tables.run_column(plain, "gap", tables.CHEAP["gap"])[0]["attacks"]["gap"]["balanced_accuracy"]["values"]
    same = tables.run_column(guarded, "gap", tables.CHEAP["gap"])[0]["attacks"]["gap"]["balanced_accuracy"]["values"]
    assert gap == same


def test_a_private_study_says_its_epsilon_with_all_it_depends_on():
    private = study.prepare(Config(**vars(TINY) | {"defense": "dp_sgd:8"})).trained["privacy"]
    assert 7.92 <= private["epsilon"] <= 8 and private["delta"] == 1 / 40 and set(private["dropped"]) == {0}
    for word in ("delta", "one row added or removed", "Poisson", "clip", "noise multiplier", "PLD"):
        assert word in private["statement"]


def test_a_finished_study_of_a_grid_is_found_again(tmp_path):
    first = study.prepare_grid(TINY, WRITTEN[:3], recipe=SHORT, out=tmp_path)
    again = study.prepare_grid(TINY, WRITTEN[:3], recipe=SHORT, out=tmp_path)
    for one, other in zip(first, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert [s.environment["parts_found"] for s in again] == [4, 0, 4]  # MemGuard's are those of no defense


def test_cached_results_of_another_grid_are_not_used(tmp_path):
    study.prepare_grid(TINY, ("none", "l2:1", "l2:2"), recipe=SHORT, out=tmp_path)
    *_, last = study.prepare_grid(TINY, ("none", "l2:1", "l2:3"), recipe=SHORT, out=tmp_path)
    alone = study.prepare(Config(**vars(TINY) | {"defense": "l2:3"}), recipe=SHORT)
    jax.tree.map(np.testing.assert_array_equal, last.params, alone.params)
    with_reference = study.prepare_grid(TINY, ("none", "l2:1"), recipe=SHORT, out=tmp_path, reference=True)[0]
    assert with_reference.environment["parts_found"] == 0  # another split


def test_an_attacker_without_knowledge_needs_shadow_models_that_are_no_targets(studies):
    plain = studies["none"]
    shared = plain.split._replace(trials=np.array([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="a target is another trial's shadow model"):
        study.non_adaptive(plain._replace(split=shared), plain)


def test_every_attack_is_shown_an_example_before_training(monkeypatch):
    monkeypatch.setattr(training, "train_ensemble", None)
    config = Config(dataset="synthetic:purchase:400", preset="smoke", attacks=("random_augmentation",))
    with pytest.raises(ValueError, match=r"mirror_shift_cutout\(4\): example of shape \(600,\), expected an image"):
        study.prepare(config)


def test_the_initial_network_is_identified_by_its_weights_and_not_by_what_it_is_combined_with():
    def network(kernel, *combined, **field):
        return ensembles.initial_network(Defense(strength=({"Dense_0": {"kernel": kernel}}, *combined), **field))

    kernel, other = np.ones((2, 3)), np.full((2, 3), 2.0)
    checksum = network(kernel, init_params=lambda strength, fresh: fresh)
    assert checksum == network(kernel, 1.0, np.float32(0.5), frozen=lambda body: body)
    assert checksum != network(other, init_params=lambda strength, fresh: fresh)
    assert network(kernel, penalty=lambda strength, params: 0.0) is None


def test_answers_are_cached_under_a_name_that_changes_with_any_weight():
    digests = set()
    for a, b in ((0, 0), (1, 0), (0, 1)):
        params = {"a": np.full(3, a, np.float32), "b": np.full(3, b, np.float32)}
        digests |= {oracle.model_oracle(MODEL, params, 2, access=access).digest for access in ("label", "confidence")}
    assert len(digests) == 6


def test_the_digest_of_a_run_changes_with_all_that_its_results_depend_on():
    dataset, config = data.load("synthetic:purchase:400"), Config()
    changed = [dataset._replace(x=1 - dataset.x), dataset._replace(y=dataset.y[::-1])]
    settings = [(config, dataset, Recipe()), *((config, other, Recipe()) for other in changed)]
    settings += [(Config(seed=1), dataset, Recipe()), (config, dataset, Recipe(batch_size=50))]
    found = [runs.run_environment(*one)["run_digest"] for one in settings]
    found.append(runs.run_environment(*settings[0], Defense(strength=0.5))["run_digest"])
    found.append(runs.run_environment(*settings[0], split="another")["run_digest"])
    assert len(set(found)) == len(found) == 7


@pytest.fixture
def grouped(tmp_path) -> Callable[[list[str]], str]:
    """Writes a table of 80 rows with an array of these groups, in turn, and returns its name."""

    def write(names: list[str]) -> str:
        x = np.random.default_rng(0).random((80, 3)).astype(np.float32)
        where = np.resize(names, 80)
        np.savez(tmp_path / "mine.npz", x=x, y=np.arange(80) % 2, where=where)
        return f"npz:{tmp_path / 'mine.npz'}"

    return write


BALANCED = {"preset": "smoke", "split": "balanced", "n_train": 20, "num_shadows": 5, "group": "where"}


def test_groups_stand_with_the_points_that_are_attacked(grouped):
    record, scores = study.run(Config(grouped(["north", "south"]), attacks=("gap", "calibrated_label"), **BALANCED))
    np.testing.assert_array_equal(scores["group"], np.where(scores["rows"] % 2, "south", "north"))
    assert record["config"]["group"] == "where"


@pytest.mark.parametrize("groups", [["a"] * 79, [["a"]] * 80, "a"])
def test_groups_that_are_not_one_for_each_row_are_refused_before_the_first_query(grouped, groups):
    prepared = study.prepare(Config(grouped(["north"]), attacks=("gap", "calibrated_label"), **BALANCED))
    made = {"gap": attacks.build("gap", prepared.context)}
    with pytest.raises(ValueError, match=r"^groups of shape .*: expected \[80\], one for each row of the data$"):
        audit.audit(prepared.key, prepared.dataset, prepared.split, lambda k, access: None, made, groups=groups)


def test_a_group_needs_an_attack_that_lists_exposed_records(grouped):
    with pytest.raises(ValueError, match="^group=where: expected an attack on labels that judges every point"):
        study.identify(Config(grouped(["north"]), attacks=("gap", "lira"), **BALANCED))


def test_other_groups_are_another_run(grouped):
    found = [study.identify(Config(grouped(names), attacks=("chosen:1",), **BALANCED))[1]
             for names in (["north", "south"], ["south", "north"], ["north", "south"])]  # fmt: skip
    assert found[0] == found[2] != found[1]


def test_of_the_attacked_images_those_alone_are_marked_and_those_that_the_page_shows_are_kept():
    config = Config(preset="smoke", split="balanced", num_shadows=5, attacks=("gap", "calibrated_label"))
    record, scores = study.run(config)
    digits, attacked = data.load("digits"), np.unique(scores["rows"])
    alone, _ = outliers(digits.x[attacked].reshape(len(attacked), -1))
    assert 0 < alone.sum() < 0.1 * len(alone)
    np.testing.assert_array_equal(scores["alone"], np.isin(scores["rows"], attacked[alone]))
    found = exposed.leading_records(record, scores)
    assert {row["row"] for row in exposed.strongest(found.rows, SHOWN)} == found.images.keys() and len(
        found.images
    ) == 20
    for row, image in found.images.items():
        np.testing.assert_allclose(image / 255, digits.x[row], atol=0.5 / 255)
    _, without = study.run(dataclasses.replace(config, attacks=("gap",)))
    assert not without.keys() & {"alone", "group", "images", "image_rows"}
