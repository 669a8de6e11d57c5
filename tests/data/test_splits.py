import itertools

import numpy as np
import pytest
from scipy import stats

from mi_jax.data import splits
from mi_jax.types import Split


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


@pytest.mark.parametrize("name", splits.SPLITS)
def test_the_digest_is_that_of_the_rows_and_the_seed_decides_them(name):
    draw = splits.SPLITS[name]
    one, same, other = (draw(seed, 100, 10, num_targets=2, num_shadows=1) for seed in (0, 0, 1))
    for ours, theirs in zip(one, same, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert splits.split_digest(one) == splits.split_digest(same) != splits.split_digest(other)
    swapped = one._replace(members=one.nonmembers, nonmembers=one.members)
    assert splits.split_digest(swapped) != splits.split_digest(one)


@pytest.mark.parametrize(("rows", "n", "reference"), [(60, 30, 0), (5010, 1600, 0), (64, 20, 12)])
def test_swap_exchanges_members_and_nonmembers_between_a_target_and_its_shadow(rows, n, reference):
    split = splits.swap(0, rows, n, num_targets=3, num_shadows=1, num_reference=reference)
    assert split.members.shape == (6, n) and split.trials.tolist() == [[0, 1], [2, 3], [4, 5]]
    for target, shadow in split.trials:
        np.testing.assert_array_equal(split.members[shadow], split.nonmembers[target])
        np.testing.assert_array_equal(split.nonmembers[shadow], split.members[target])
        used = np.concatenate([split.members[target], split.nonmembers[target], *split.reference[[target, shadow]]])
        assert len(np.unique(used)) == 2 * n + 2 * reference and used.min() >= 0 and used.max() < rows
    assert not np.array_equal(np.sort(split.members[0]), np.sort(split.members[2]))


@pytest.mark.parametrize(("rows", "n", "models", "reference"), [(400, 200, 16, 0), (500, 100, 4, 10), (60, 30, 2, 0)])
def test_every_row_of_a_balanced_split_is_a_member_of_exactly_half_of_the_models(rows, n, models, reference):
    split = splits.balanced(3, rows, n, num_targets=2, num_shadows=models - 1, num_reference=reference)
    assert split.members.shape == split.nonmembers.shape == (models, n)
    times_member, times_held_out = (np.bincount(side.ravel(), minlength=rows) for side in split[:2])
    np.testing.assert_array_equal(times_member, times_held_out)
    assert (times_member == models // 2).sum() == 2 * n and (times_member == 0).sum() == rows - 2 * n
    used = [np.concatenate([split.members[k], split.nonmembers[k]]) for k in range(models)]
    assert all(len(np.unique(own)) == 2 * n for own in used)
    kept = np.concatenate([used[0], split.reference.ravel()])
    assert len(np.unique(kept)) == 2 * n + models * reference


def test_the_first_points_of_a_balanced_split_are_the_same_rows_for_every_model():
    split = splits.balanced(0, 300, 150, num_targets=1, num_shadows=7)
    first = np.sort(np.concatenate([split.members[:, :20], split.nonmembers[:, :20]], axis=1))
    assert (first == first[0]).all() and len(np.unique(first[0])) == 40


def test_any_two_models_of_a_balanced_split_share_the_members_that_chance_gives_them():
    n, models = 2000, 8
    split = splits.balanced(0, 2 * n, n, num_targets=1, num_shadows=models - 1)
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], n, (models - 2) / (2 * models - 2))  # 28 pairs, all: 0.9994
    for one, other in itertools.combinations(split.members, 2):
        assert low <= len(np.intersect1d(one, other)) <= high


def test_every_target_of_a_balanced_split_has_all_other_models_as_shadows():
    split = splits.balanced(0, 40, 10, num_targets=4, num_shadows=3)
    assert split.trials.tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("disjoint", {"n": 500}, "n_train=500 needs 2000 rows .* has 1797: at most n_train=449"),
        ("disjoint", {"n": 440, "num_reference": 30}, "needs 1820 rows .*: at most n_train=434"),
        ("disjoint", {"num_reference": 900}, "at most n_train=0"),
        ("swap", {"n": 900}, "n_train=900 needs 1800 rows .*share.* has 1797: at most n_train=898"),
        ("swap", {"n": 898, "num_reference": 2}, "needs 1800 rows .*reference.*: at most n_train=896"),
        ("swap", {"num_shadows": 2}, "num_shadows=2: expected 1 for swap"),
        ("swap", {"num_shadows": 0}, "num_shadows=0: expected 1 for swap"),
        ("balanced", {"n": 899}, "n_train=899 needs 1798 rows .* has 1797: at most n_train=898"),
        ("balanced", {"num_shadows": 4}, "num_shadows=4: expected an odd number for balanced"),
        ("balanced", {"num_shadows": -1}, "num_shadows=-1: expected an odd number"),
        ("balanced", {"num_targets": 5, "num_shadows": 3}, "num_targets=5: expected at most 4 for balanced"),
        *((name, {"n": 0}, "n_train=0: expected at least 1") for name in splits.SPLITS),
        *((name, {"num_targets": 0}, "num_targets=0: expected at least 1") for name in splits.SPLITS),
        *((name, {"num_reference": -1}, "num_reference=-1: expected at least 0") for name in splits.SPLITS),
        ("disjoint", {"num_shadows": 0}, "num_shadows=0: expected at least 1"),
    ],
)
def test_a_split_that_cannot_be_is_refused(name, arguments, says):
    arguments = {"n": 100, "num_targets": 1, "num_shadows": 1} | arguments
    with pytest.raises(ValueError, match=says):
        splits.SPLITS[name](0, 1797, arguments.pop("n"), **arguments)


SPLIT = splits.disjoint(0, 60, 5, num_targets=2, num_shadows=1, num_reference=3)


def changed(field, k, i, value):
    rows = np.array(getattr(SPLIT, field))
    rows[k, i] = value
    return SPLIT._replace(**{field: rows})


@pytest.mark.parametrize("name", splits.SPLITS)
@pytest.mark.parametrize("reference", [0, 2])
def test_every_split_of_ours_passes_its_check(name, reference):
    split = splits.SPLITS[name](0, 60, 5, num_targets=2, num_shadows=1, num_reference=reference)
    for field, rows in zip(Split._fields, splits.check_split(split, 60), strict=True):
        np.testing.assert_array_equal(rows, getattr(split, field))
    splits.check_split(Split(*(rows.tolist() if rows.size else rows for rows in split)), 60)  # lists are split too


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (changed("nonmembers", 2, 1, SPLIT.members[2, 3]), "is a member and a non-member of model 2"),
        (changed("reference", 1, 0, SPLIT.members[1, 0]), "is a member and a reference row of model 1"),
        (changed("reference", 1, 0, SPLIT.nonmembers[1, 0]), "is a non-member and a reference row of model 1"),
        (changed("members", 0, 0, SPLIT.members[0, 1]), "is twice among the members of model 0"),
        (changed("nonmembers", 3, 0, SPLIT.nonmembers[3, 4]), "is twice among the non-members of model 3"),
        (changed("members", 0, 0, 60), r"row 60 in members, expected 0\.\.59"),
        (changed("nonmembers", 0, 0, -1), r"row -1 in nonmembers, expected 0\.\.59"),
        (changed("trials", 0, 1, 4), r"model 4 in trials, expected 0\.\.3"),
        (changed("trials", 1, 1, 2), "model 2 is twice in trial 1"),
        (changed("trials", 1, 0, 0), "model 0 is the target of several trials"),
        (None, "split: a NoneType, expected a Split"),
        (SPLIT._replace(members=[[1, 2], [3]]), "members is no array of rows"),
        (SPLIT._replace(trials=SPLIT.trials[:, :1]), r"trials is int32 of shape \[2, 1\], expected models \[T 1\+S\]"),
        (SPLIT._replace(trials=SPLIT.trials[:0]), "trials is int32 of shape"),
        (SPLIT._replace(members=SPLIT.members * 1.0), "members is float64 of shape"),
        (SPLIT._replace(members=SPLIT.members[0]), "members is int32 of shape"),
        (SPLIT._replace(nonmembers=SPLIT.nonmembers[:, :0]), "nonmembers is int32 of shape"),
        (SPLIT._replace(nonmembers=SPLIT.nonmembers[:2]), "4 of members, 2 of nonmembers, 4 of reference"),
    ],
)
def test_a_split_that_is_none_is_refused_and_the_row_named(split, says):
    with pytest.raises(ValueError, match=says):
        splits.check_split(split, 60)


def test_shadow_overlap_is_the_share_of_the_targets_rows_that_shadow_models_were_trained_on():
    overlap = {name: splits.shadow_overlap(splits.SPLITS[name](0, 60, 5, num_targets=2, num_shadows=1))
               for name in splits.SPLITS}  # fmt: skip
    assert overlap["disjoint"] == {"members": 0, "nonmembers": 0}
    assert overlap["swap"] == overlap["balanced"] == {"members": 0, "nonmembers": 1}
    half = SPLIT._replace(members=np.concatenate([SPLIT.members[:1], SPLIT.members[:1], SPLIT.members[2:]]))
    assert splits.shadow_overlap(half) == {"members": 0.5, "nonmembers": 0}


BALANCED = splits.balanced(0, 100, 50, num_targets=8, num_shadows=7)


def rows_of(split: Split, k: int) -> np.ndarray:
    return np.sort(np.concatenate([split.members[k], split.nonmembers[k]]))


@pytest.mark.parametrize("target", range(8))
def test_as_many_models_calibrate_a_row_from_either_side_whatever_the_target_was_trained_on(target):
    rows, shadows = rows_of(BALANCED, target), BALANCED.trials[target, 1:]
    inside, outside = splits.calibration_models(BALANCED, target, shadows, rows)
    assert inside.shape == outside.shape == (100, 8)
    np.testing.assert_array_equal(inside.sum(1), 3)  # of 3 shadow models with the row of a member, 4 of a non-member
    np.testing.assert_array_equal(outside.sum(1), 3)
    trained = np.stack([np.isin(rows, members) for members in BALANCED.members], axis=1)
    assert not (inside & ~trained).any() and not (outside & trained).any()
    assert not inside[:, target].any() and not outside[:, target].any()


def test_the_model_left_out_of_the_larger_side_is_drawn_for_each_row_and_by_chance():
    split = splits.balanced(0, 2000, 1000, num_targets=1, num_shadows=7)
    rows = rows_of(split, 0)
    inside, outside = splits.calibration_models(split, 0, split.trials[0, 1:], rows)
    left_out = ~(inside | outside)[:, 1:]
    np.testing.assert_array_equal(left_out.sum(1), 1)
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], 2000, 1 / 7)
    assert ((low <= left_out.sum(0)) & (left_out.sum(0) <= high)).all()


def test_what_calibrates_a_row_does_not_change_with_other_rows_or_their_order():
    rows, shadows = rows_of(BALANCED, 2), BALANCED.trials[2, 1:]
    whole = splits.calibration_models(BALANCED, 2, shadows, rows)
    order = np.random.default_rng(0).permutation(100)[:30]
    for some, every in zip(splits.calibration_models(BALANCED, 2, shadows, rows[order]), whole, strict=True):
        np.testing.assert_array_equal(some, every[order])


def test_only_the_given_shadow_models_calibrate():
    rows, shadows = rows_of(BALANCED, 0), np.array([2, 3, 5, 6, 7])
    inside, outside = splits.calibration_models(BALANCED, 0, shadows, rows[:20])
    assert not inside[:, [0, 1, 4]].any() and not outside[:, [0, 1, 4]].any()
    np.testing.assert_array_equal(inside.sum(1), outside.sum(1))


def test_models_that_draw_their_members_independently_calibrate_as_many_as_the_smaller_side_has():
    rng = np.random.default_rng(3)
    members = np.stack([rng.permutation(60)[:30] for _ in range(9)])
    others = np.stack([np.setdiff1d(np.arange(60), own) for own in members])
    split = Split(members, others, members[:, :0], np.arange(9)[None])
    inside, outside = splits.calibration_models(split, 0, np.arange(1, 9), np.arange(60))
    trained = np.stack([np.isin(np.arange(60), own) for own in members[1:]], axis=1).sum(1)
    np.testing.assert_array_equal(inside.sum(1), np.minimum(trained, 8 - trained))
    np.testing.assert_array_equal(outside.sum(1), inside.sum(1))


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (splits.disjoint(0, 100, 10, num_targets=1, num_shadows=3), "0 of 3 other models were trained with row"),
        (splits.swap(0, 100, 10, num_targets=1, num_shadows=1), "[01] of 1 other models were trained with row"),
        (splits.balanced(0, 100, 10, num_targets=1, num_shadows=1), "expected some with and some without it"),
        (splits.balanced(0, 100, 10, num_targets=1, num_shadows=3)._replace(trials=np.array([[0, 1]])), "model 0"),
    ],
)
def test_rows_without_shadow_models_on_both_sides_are_refused_in_one_line(split, says):
    with pytest.raises(ValueError, match=says) as refused:
        splits.calibration_models(split, 0, split.trials[0, 1:], rows_of(split, 0))
    assert "\n" not in str(refused.value)


def test_even_sides_are_as_many_models_with_a_row_as_without_it():
    models, rows = np.array([1, 4, 5, 7]), rows_of(BALANCED, 0)
    inside, outside = splits.even_sides(BALANCED, models, rows)
    trained = np.stack([np.isin(rows, BALANCED.members[k]) for k in models], axis=1)
    np.testing.assert_array_equal(inside.sum(1), np.minimum(trained.sum(1), (~trained).sum(1)))
    np.testing.assert_array_equal(outside.sum(1), inside.sum(1))
    assert not (inside & ~trained).any() and not (outside & trained).any()
    some, _ = splits.even_sides(BALANCED, models, rows[::-3])
    np.testing.assert_array_equal(some, inside[::-3])  # whatever the order of rows


@pytest.mark.parametrize("number", [3, 4])
def test_which_models_are_taken_does_not_tell_what_another_was_trained_on(number):
    """Of 8 models 3 with a row and 1 without it leave one of each, but make another one without it likelier."""
    split = splits.balanced(0, 8000, 4000, num_targets=1, num_shadows=7)
    models, rows = np.arange(8 - number, 8), rows_of(split, 0)
    inside, outside = splits.even_sides(split, models, rows)
    single, is_member = inside.sum(1) == 1, np.isin(rows, split.members[0])
    for pair in itertools.permutations(range(number), 2):
        same = single & inside[:, pair[0]] & outside[:, pair[1]]
        low, high = stats.binom.ppf([1e-5, 1 - 1e-5], same.sum(), 0.5)
        assert same.sum() > 100 and low <= is_member[same].sum() <= high, pair
