"""A query curve ends with the audit's own result, and its checkpoints cost what the target was asked."""

import pytest

from mi_jax import attacks, study
from mi_jax.evaluation import paired
from mi_jax.study.config import Config


@pytest.fixture(scope="module")
def prepared():
    return study.prepare(Config(preset="smoke", attacks=("gap",), model="mlp:16", budget=60))


@pytest.mark.parametrize("name", ["rays", "boundary"])
def test_the_last_checkpoint_of_a_curve_is_the_attack_with_its_whole_budget(prepared, name):
    curve = study.query_curve(prepared, name, num_points=20)
    record, scores = study.attack(prepared, {name: attacks.build(name, prepared.context)}, num_points=20)
    row, hits = record["attacks"][name], paired.hits(name, record, scores)
    assert curve.checkpoints[-1]["balanced_accuracy"]["mean"] == row["balanced_accuracy"]["mean"]
    assert curve.checkpoints[-1]["auc"]["mean"] == row["auc"]["mean"]
    assert curve.checkpoints[-1]["queries"]["mean"] == pytest.approx(row["queries_per_example"])
    for ours, theirs in zip(curve.hits[-1].correct, hits.correct, strict=True):
        assert ours.tolist() == theirs.tolist()
    queries = [checkpoint["queries"]["mean"] for checkpoint in curve.checkpoints]
    assert queries == sorted(set(queries)) and len(curve.hits) == len(queries)


def test_a_curve_of_noise_has_a_checkpoint_for_each_of_its_counts_below_the_budget(prepared):
    curve = study.query_curve(prepared, "noise", budget=12, num_points=10, num_trials=1)
    queries = [checkpoint["queries"]["mean"] for checkpoint in curve.checkpoints]
    measured = (queries[-1] - 1) / 12  # the share of points that are labelled correctly, and queried on
    assert queries == pytest.approx([1 + measured * count for count in (1, 2, 3, 5, 10, 12)]) and 0 < measured <= 1


def test_a_curve_of_an_attack_of_one_query_is_refused(prepared):
    with pytest.raises(ValueError, match="query curve of 'gap': expected noise, rays, boundary or combined"):
        study.query_curve(prepared, "gap")
