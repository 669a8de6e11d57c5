"""SciPy is the reference for interpolation, `rot90` for direction, plain indexing for shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mi_jax.perturbations import PERTURBATIONS, mirror_shift_cutout, only_itself, rotate, translate
from mi_jax.testing import as_whole, check_perturbation, constant_oracle, count_queries, linear_oracle, sphere_oracle

KEY = jax.random.key(0)


def noise(*shape: int) -> np.ndarray:
    """An image without any symmetry, so that a wrong axis, sign or order shows."""
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def scipy_rotation(x: np.ndarray, degrees: float) -> np.ndarray:
    return ndimage.rotate(x.astype(np.float64), degrees, axes=(0, 1), reshape=False)


def test_only_itself_returns_the_example_alone():
    for x in (noise(5, 4, 3), noise(7)):
        np.testing.assert_array_equal(only_itself(KEY, x), x[None])


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 12, 3), (5, 2, 1), (4, 1, 2)])
@pytest.mark.parametrize("degrees", [0, 1, 9, 15, 45, 77.7, 90, 180])
def test_rotation_equals_clipped_scipy_splines(shape, degrees):
    x = noise(*shape)
    expected = np.stack([x, *(np.clip(scipy_rotation(x, angle), 0, 1) for angle in (degrees, -degrees))])
    # float32 sums of 16 products of order 1: a few units of 6e-8, far below 1e-5.
    np.testing.assert_allclose(rotate(degrees)(KEY, x), expected, rtol=0, atol=1e-5)


def test_clipping_is_no_empty_word():
    x = (noise(12, 12, 1) > 0.5).astype(np.float32)
    unclipped = scipy_rotation(x, 10)
    assert unclipped.min() < -0.1 and unclipped.max() > 1.1  # splines overshoot at edges
    turned = rotate(10)(KEY, x)
    assert turned.min() >= 0 and turned.max() <= 1


def test_rotation_by_90_degrees_is_rot90():
    x = noise(7, 7, 2)
    np.testing.assert_allclose(rotate(90)(KEY, x), [x, jnp.rot90(x), jnp.rot90(x, -1)], rtol=0, atol=1e-5)


def test_rotation_holds_the_example_itself_first_to_the_bit():
    x = noise(6, 5, 3)
    np.testing.assert_array_equal(rotate(12)(KEY, x)[0], x)


def test_rotation_paints_corners_black():
    assert rotate(45)(KEY, np.ones((9, 9, 1), np.float32))[1, 0, 0, 0] == 0


def test_rotation_does_not_depend_on_the_batch_to_the_bit():
    x, keys = noise(64, 8, 8, 1), jax.random.split(KEY, 64)
    batched = jax.jit(jax.vmap(rotate(7)))
    for size in (1, 7):
        np.testing.assert_array_equal(batched(keys[:size], x[:size]), batched(keys, x)[:size])


@pytest.mark.parametrize("d", [0, 1, 2, 3, 4])
def test_translation_holds_the_4d_plus_1_shifts_of_length_d_exactly(d):
    height, width = 11, 9
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    x = np.stack([rows, columns], axis=-1).astype(np.float32) / 16  # a pixel's value says where it stood
    shifted = np.asarray(translate(d)(KEY, x)) * 16  # exact: division by a power of two
    np.testing.assert_array_equal(shifted[0], x * 16)
    offsets = [tuple((np.array([5, 4]) - image[5, 4]).astype(int)) for image in shifted]  # at the centre, no edge
    assert len(offsets) == 4 * d + 1
    assert set(offsets[1:]) == {(i, j) for i in range(-d, d + 1) for j in range(-d, d + 1) if abs(i) + abs(j) == d > 0}
    for (i, j), image in zip(offsets, shifted, strict=True):
        repeated = [np.clip(rows - i, 0, height - 1), np.clip(columns - j, 0, width - 1)]
        np.testing.assert_array_equal(image, np.stack(repeated, axis=-1))


def test_translation_equals_scipys_shift_with_repeated_edges():
    x = noise(8, 10, 3)
    shifted = translate(1)(KEY, x)
    for image, (i, j) in zip(shifted, [(0, 0), (-1, 0), (0, -1), (0, 1), (1, 0)], strict=True):
        # scipy interpolates with a spline even where it need not: its rounding is the tolerance.
        np.testing.assert_allclose(image, ndimage.shift(x, (i, j, 0), mode="nearest"), rtol=0, atol=1e-5)


def test_equal_strengths_give_the_identical_function():
    assert rotate(9) is rotate(9.0) is rotate(np.float32(9))
    assert translate(1) is translate(np.int64(1)) is translate(1.0)
    assert rotate(9) is not rotate(8) and translate(1) is not translate(2)


@pytest.mark.parametrize("degrees", [-1, 180.5, np.nan, np.inf, "9", None, True, [9], 10**400])
def test_rotation_refuses_what_is_no_angle(degrees):
    with pytest.raises(ValueError, match=r"rotate: degrees=.*expected a finite number in \[0, 180\]"):
        rotate(degrees)


@pytest.mark.parametrize("d", [-1, 1.5, np.nan, np.inf, "1", None, True, np.array([1, 2])])
def test_translation_refuses_what_is_no_number_of_pixels(d):
    translate(1)  # True == 1: the answer must not come from the cache
    with pytest.raises(ValueError, match="translate: d=.*expected a whole number of pixels"):
        translate(d)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_table_row_is_refused_when_traced(name):
    family = PERTURBATIONS[name]
    with pytest.raises(ValueError, match=r"example of shape \(446,\), expected an image \[H W C\]"):
        jax.eval_shape(family.make(family.default), KEY, jnp.zeros(446))


def test_translation_refuses_an_image_that_it_would_push_out():
    translate(4)(KEY, noise(5, 5, 1))
    with pytest.raises(ValueError, match=r"translate\(5\): image of 5 x 9 pixels, expected sides above 5"):
        translate(5)(KEY, noise(5, 9, 1))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_dtype_of_the_example_is_kept(name):
    family = PERTURBATIONS[name]
    assert family.make(family.default)(KEY, jnp.zeros((8, 8, 1), jnp.bfloat16)).dtype == jnp.bfloat16


def test_grids_hold_the_default_and_no_strength_twice():
    for family in PERTURBATIONS.values():
        assert family.default in family.grid and len(set(family.grid)) == len(family.grid)


def cutout(side: int):
    """A user's perturbation, as the README shows one: random, so it needs its key."""

    def cut(key, x):
        row, column = jax.random.randint(key, (2,), 0, jnp.array(x.shape[:2]) - side + 1)
        hole = jnp.zeros((side, side, x.shape[2]), x.dtype)
        return jnp.stack([x, jax.lax.dynamic_update_slice(x, hole, (row, column, 0))])

    return cut


@pytest.mark.parametrize("good", [only_itself, cutout(2)])
def test_contract_accepts_a_good_perturbation(good):
    check_perturbation(good, (6, 5, 1))


def test_contract_accepts_a_perturbation_of_table_rows():
    check_perturbation(lambda key, x: jnp.stack([x, 1 - x]), (7,))


def remembers():
    calls = []

    def counts_its_calls(key, x):
        calls.append(0)
        return x[None] * 0 + len(calls) / 1e6

    return counts_its_calls


def branches_on_values(key, x):
    return x[None] if x.sum() > 0 else 1 - x[None]


def looks_whether_it_is_traced(key, x):
    return x[None] * (0.5 if isinstance(x, jax.core.Tracer) else 1.0)


BROKEN = {
    "no leading axis": (lambda key, x: x, r"returned shape \(6, 5, 1\), expected \(M, 6, 5, 1\)"),
    "no neighbour": (lambda key, x: x[None][:0], r"returned shape \(0, 6, 5, 1\).*M >= 1"),
    "scalar": (lambda key, x: x.sum(), r"returned shape \(\), expected \(M, 6, 5, 1\)"),
    "cropped": (lambda key, x: x[None, 1:], r"returned shape \(1, 5, 5, 1\), expected \(M, 6, 5, 1\)"),
    "varying M": (lambda key, x: jnp.stack([x] * (1 + int(x.min()))), r"returned shape \(2, 6, 5, 1\).*one M"),
    "half precision": (lambda key, x: x[None].astype(jnp.float16), "returned float16 for a float32 example"),
    "above 1": (lambda key, x: x[None] + 0.5, r"returned values in \[0\.5\d*, 1\.4\d*\], expected values in \[0, 1\]"),
    "below 0": (lambda key, x: -x[None], r"returned values in \[-0\.99\d*, -0\.\d*\]"),
    "example last": (
        lambda key, x: jnp.stack([1 - x, x]),
        "returned the example as number 2 of 2, expected it first",
    ),
    "NaN": (lambda key, x: x[None] / x.sum(), "returned NaN or infinite values"),
    "a list": (lambda key, x: [x], "returned a list when called, expected one array"),
    "hidden state": (remembers(), "other values when called again with the same key"),
    "Python branch": (branches_on_values, "failed when inside jit: TracerBoolConversionError"),
    "peeks": (looks_whether_it_is_traced, "returned other values inside jit than when called plainly"),
    "raises": (lambda key, x: x[None].reshape(7), "failed when called: TypeError"),
    "an image's": (rotate(4), r"rotate\(4\): example of shape \(30,\)"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_contract_names_what_a_broken_perturbation_returned(broken):
    perturbation, message = BROKEN[broken]
    with pytest.raises(ValueError, match=message) as raised:
        check_perturbation(perturbation, (30,) if broken == "an image's" else (6, 5, 1))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(perturbation.__name__)


def test_linear_oracle_changes_its_label_at_the_stated_distance():
    rng = np.random.default_rng(2)
    w, b, x = rng.normal(size=(4, 3, 2)), -0.3, rng.random((50, 4, 3, 2))
    oracle, margin = linear_oracle(w, b), (x * w).sum(axis=(1, 2, 3)) - 0.3
    towards = -np.sign(margin)[:, None, None, None] * w / np.linalg.norm(w)
    distance = (np.abs(margin) / np.linalg.norm(w))[:, None, None, None]
    labels = oracle(x)
    assert set(labels) == {0, 1} and labels.dtype == np.int32 and labels.shape == (50,)
    np.testing.assert_array_equal(labels, margin > 0)
    np.testing.assert_array_equal(oracle(x + towards * distance * 0.999999), labels)
    np.testing.assert_array_equal(oracle(x + towards * distance * 1.000001), 1 - labels)


def test_sphere_oracle_changes_its_label_at_the_stated_distance():
    rng = np.random.default_rng(3)
    center, x = rng.random((4, 3)), rng.random((50, 4, 3))
    oracle, outward = sphere_oracle(center, 1.4), x - center
    length = np.linalg.norm(outward, axis=(1, 2))[:, None, None]
    step = (1.4 - length) * outward / length  # along the ray, by the signed distance
    labels = oracle(x)
    assert set(labels) == {0, 1} and labels.dtype == np.int32
    np.testing.assert_array_equal(oracle(x + step * 0.999999), labels)
    np.testing.assert_array_equal(oracle(x + step * 1.000001), 1 - labels)


def test_oracles_without_a_boundary_to_measure_are_refused():
    for make in (lambda: linear_oracle(np.zeros(3), 1.0), lambda: linear_oracle(np.array([1, np.nan]), 0.0)):
        with pytest.raises(ValueError, match="linear_oracle"):
            make()
    for radius in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sphere_oracle: radius"):
            sphere_oracle(np.zeros(3), radius)


def test_whole_numbers_are_integers_of_any_type_and_nothing_else():
    assert [as_whole(value) for value in (3, -2, np.int64(3), np.uint8(7), np.array(5))] == [3, -2, 3, 7, 5]
    wrong = (True, np.True_, 2.0, np.float32(2), "2", None, [2], np.array([2, 3]))
    assert {as_whole(value) for value in wrong} == {None}


def test_constant_oracle_never_changes_its_label():
    np.testing.assert_array_equal(constant_oracle(3)(noise(5, 2)), [3] * 5)


def test_queries_are_counted_by_rows_and_calls_even_when_the_target_fails():
    counted, counter = count_queries(constant_oracle(1))
    np.testing.assert_array_equal(counted(noise(5, 2)), [1] * 5)
    counted(noise(3, 2))
    assert counter == {"queries": 8, "calls": 2}

    def fails(x):
        raise RuntimeError("no answer")

    counted, counter = count_queries(fails)
    with pytest.raises(RuntimeError):
        counted(noise(4, 2))
    assert counter == {"queries": 4, "calls": 1}


def test_mirror_shift_and_cutout_do_what_they_are_called():
    x = jnp.asarray(np.random.default_rng(0).random((8, 8, 2)), jnp.float32)
    augment = jax.jit(mirror_shift_cutout(2))
    padded = [np.pad(side, ((2, 2), (2, 2), (0, 0)), mode="reflect") for side in (x, x[:, ::-1])]
    places, mirrored = set(), 0
    for i in range(200):
        (seen,) = np.asarray(augment(jax.random.key(i), x))
        grey = (seen == 0.5).all(-1)
        rows, columns = grey.any(1).sum(), grey.any(0).sum()
        assert grey.sum() == rows * columns and {rows, columns} <= {2, 3, 4}  # a square, cut at edges
        fits = [(m, a, b) for m in (0, 1) for a in range(5) for b in range(5)
                if np.array_equal(padded[m][a : a + 8, b : b + 8][~grey], seen[~grey])]  # fmt: skip
        assert len(fits) == 1
        mirrored += fits[0][0]
        places.add(fits[0][1:])
    assert len(places) == 25 and 70 < mirrored < 130  # all shifts (miss: 25 (24/25)^200 < 1 %), half mirrored


def test_mirror_shift_and_cutout_refuse_a_shift_the_image_is_too_small_for():
    with pytest.raises(ValueError, match="image of 3 x 9 pixels, expected sides above 4"):
        mirror_shift_cutout(4)(jax.random.key(0), jnp.zeros((3, 9, 1)))
    with pytest.raises(ValueError, match="pixels=1.5, expected a whole number"):
        mirror_shift_cutout(1.5)
    assert mirror_shift_cutout(2) is mirror_shift_cutout(2.0)
    check_perturbation(mirror_shift_cutout(2), (8, 9, 2))
