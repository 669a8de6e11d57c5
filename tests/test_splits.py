import numpy as np
import pytest

from mi_jax import splits


@pytest.mark.parametrize(("rows", "n", "shadows"), [(1797, 100, 4), (5010, 1200, 1), (50, 10, 5), (8, 2, 1)])
def test_target_rows_are_disjoint_from_each_other_and_from_its_shadows(rows, n, shadows):
    split = splits.disjoint(0, rows, n, num_targets=3, num_shadows=shadows, num_reference=0)
    assert split.members.shape == split.nonmembers.shape == (3 * (1 + shadows), n)
    for target, *others in split.trials:
        own = np.concatenate([split.members[target], split.nonmembers[target]])
        assert len(np.unique(own)) == 2 * n and own.min() >= 0 and own.max() < rows
        for k in others:
            theirs = np.concatenate([split.members[k], split.nonmembers[k]])
            assert len(np.unique(theirs)) == 2 * n and not np.intersect1d(own, theirs).size


def test_shadow_models_share_no_rows_where_the_pool_suffices():
    split = splits.disjoint(0, 1797, 100, num_targets=1, num_shadows=7)
    rows = np.concatenate([split.members[1:], split.nonmembers[1:]], axis=1)
    assert len(np.unique(rows)) == rows.size


def test_reference_rows_are_a_third_set():
    split = splits.disjoint(0, 100, 10, num_targets=2, num_shadows=2, num_reference=5)
    for k in range(6):
        rows = np.concatenate([split.members[k], split.nonmembers[k], split.reference[k]])
        assert len(np.unique(rows)) == 25


def test_the_digest_is_that_of_the_rows_and_the_seed_decides_them():
    one, same, other = (splits.disjoint(seed, 100, 10, num_targets=2, num_shadows=1) for seed in (0, 0, 1))
    assert splits.digest(one) == splits.digest(same) != splits.digest(other)
    swapped = one._replace(members=one.nonmembers, nonmembers=one.members)
    assert splits.digest(swapped) != splits.digest(one)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 500}, "n_train=500 needs 2000 rows .* has 1797: at most n_train=449"),
        ({"n": 0}, "n_train=0: expected at least 1"),
        ({"num_targets": 0}, "num_targets=0"),
        ({"num_shadows": 0}, "num_shadows=0"),
    ],
)
def test_a_split_that_cannot_be_is_refused(arguments, says):
    arguments = {"n": 100, "num_targets": 1, "num_shadows": 1} | arguments
    with pytest.raises(ValueError, match=says):
        splits.disjoint(0, 1797, arguments.pop("n"), **arguments)
