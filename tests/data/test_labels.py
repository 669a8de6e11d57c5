import numpy as np
import pandas as pd
import pytest

from mi_jax.data import labels

Y = np.array([0, 1, 2, 1, 0, 2, 2, 1])
NAMES = np.array(["cat", "dog", "eel"])


@pytest.mark.parametrize(
    "given",
    [Y, Y + 1, Y.astype(float), Y[:, None], np.eye(3)[Y], NAMES[Y], NAMES[Y].tolist(), pd.Series(NAMES[Y]), Y - 1,
     pd.Series(NAMES[Y], dtype="category"), NAMES[Y].astype(object), [int(one) * 1000 for one in Y]],
)  # fmt: skip
def test_labels_of_any_coding_are_numbers_of_classes(given):
    coding = labels.coding_of(given)
    assert len(coding.classes) == 3
    np.testing.assert_array_equal(coding.encode(given), Y)


@pytest.mark.parametrize(
    "given, message",
    [
        ([0.5, 1.0], "label 0.5: expected classes"),
        ([None, "a"], "labels of types NoneType, str"),
        (["a", 1], "labels of types int, str"),
        ([1, 1], "labels: 1 classes"),
        (np.zeros((3, 4, 2)), "labels of shape [3, 4, 2]"),
        (np.array([[1, 1], [0, 1]]), "labels: rows of 0 and 1 with another sum than 1"),
        ([], "labels of shape [0]"),
    ],
)
def test_what_is_no_label_is_refused_in_one_line(given, message):
    with pytest.raises(ValueError) as error:
        labels.coding_of(given)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match="label 'fox': expected one of cat, dog, eel"):
        labels.coding_of(NAMES).encode(["cat", "fox"])


PROBABILITIES = np.eye(3)[Y] * 0.7 + 0.1


@pytest.mark.parametrize(
    "answers, described",
    [
        (Y, "0..2 for the classes in order"),
        (Y + 1, "1..3 for the classes in order"),
        (Y[:, None], "0..2 for the classes in order"),
        (NAMES[Y], "labels as in the data"),
        (PROBABILITIES, "probabilities of 3 classes, the classes in order"),
        (np.log(PROBABILITIES) + 5, "logits of 3 classes, the classes in order"),
        (np.eye(3)[Y], "probabilities of 3 classes, the classes in order"),
    ],
)
def test_answers_of_any_coding_are_read_by_the_labels_of_known_rows(answers, described):
    reading = labels.reading_of(answers, labels.coding_of(NAMES[Y]), Y)
    assert reading.described == described
    np.testing.assert_array_equal(reading.labels(answers), Y)
    if reading.probabilities is not None:
        np.testing.assert_array_equal(reading.probabilities(answers).argmax(1), Y)
        np.testing.assert_allclose(reading.probabilities(answers).sum(1), 1, rtol=1e-6)


def test_answers_from_1_on_are_told_from_those_of_the_data_by_how_well_they_agree():
    """The answers 1 and 2 are labels of the data too, but hardly any would be right."""
    y = np.array([0, 1, 0, 1, 1, 0, 2])
    reading = labels.reading_of(y[:6] + 1, labels.coding_of(y), y[:6])
    np.testing.assert_array_equal(reading.labels(np.array([1, 2, 3])), [0, 1, 2])
    assert labels.reading_of(y[:6], labels.coding_of(y), y[:6]).described == "labels as in the data"


@pytest.mark.parametrize("code", [(-1, 1), (0, 1), (1, 2)])
@pytest.mark.parametrize("own", [(-1, 1), (0, 1), (False, True), ("no", "yes")])
def test_two_classes_have_many_names(code, own):
    y = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    reading = labels.reading_of(np.array(code)[y], labels.coding_of(np.array(own)[y]), y)
    np.testing.assert_array_equal(reading.labels(np.array(code)[y]), y)


@pytest.mark.parametrize("scale, kind", [(lambda p: p, "probability"), (lambda p: np.log(p / (1 - p)), "logit")])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_number_for_two_classes_is_a_score_of_the_second(scale, kind, shape):
    y = np.array([0, 1, 1, 0])
    answers = scale(np.array([0.2, 0.9, 0.6, 0.45])).reshape(shape)
    reading = labels.reading_of(answers, labels.coding_of(["a", "b", "b", "a"]), y)
    assert reading.described == f"one {kind}, of the class b"
    np.testing.assert_array_equal(reading.labels(answers), y)
    np.testing.assert_allclose(reading.probabilities(answers)[:, 1], [0.2, 0.9, 0.6, 0.45], rtol=1e-6)


def test_columns_of_scores_follow_the_models_own_classes():
    own = np.array(["eel", "cat", "dog"])
    answers = PROBABILITIES[:, [2, 0, 1]]
    reading = labels.reading_of(answers, labels.coding_of(NAMES[Y]), Y, own)
    np.testing.assert_array_equal(reading.labels(answers), Y)


@pytest.mark.parametrize(
    "answers, message",
    [
        (["cat", "fox"] * 4, "the model answered 'fox': expected one of"),
        ([0, 7] * 4, "the model answered 0: expected one of"),
        (np.zeros((8, 2)), "the model answered scores of 2 classes: expected 3"),
        (np.full(8, 0.25), "the model answered 0.25 for a row: expected labels, or scores [B 3]"),
        (np.full(8, np.nan), "the model answered NaN"),
        ([0, 1], "the model answered [2] for 8 rows"),
        (None, "the model answered"),
    ],
)
def test_answers_that_fit_no_coding_are_refused_in_one_line(answers, message):
    with pytest.raises(ValueError) as error:
        labels.reading_of(answers, labels.coding_of(NAMES[Y]), Y)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_an_answer_that_no_class_has_is_refused_later_too():
    reading = labels.reading_of(NAMES[Y], labels.coding_of(NAMES[Y]), Y)
    with pytest.raises(ValueError, match="the model answered 'fox'"):
        reading.labels(["cat", "fox"])
    with pytest.raises(ValueError, match=r"expected \[B 3\]"):
        labels.reading_of(PROBABILITIES, labels.coding_of(Y), Y).labels(np.zeros((4, 2)))
