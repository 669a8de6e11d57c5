"""Who crafts: shadow models that are no targets, which do not calibrate what they craft."""

import numpy as np
import pytest

from mi_jax import attacks
from mi_jax.data import splits
from mi_jax.querying.questions import Questioner
from mi_jax.querying.white_box import WhiteBox
from mi_jax.trials.asking import CRAFTERS, Asking
from mi_jax.types import Dataset

RNG = np.random.default_rng(0)
DATASET = Dataset("table", RNG.random((80, 4)).astype(np.float32), np.arange(80, dtype=np.int32) % 2, 2,
                  np.zeros(4, bool))  # fmt: skip
ATTACK = attacks.build("yoqo", attacks.context_of(DATASET, 5))[0]


def asking(targets: int, shadows: int = 15) -> tuple[Asking, splits.Split]:
    split = splits.balanced(0, 80, 20, num_targets=targets, num_shadows=shadows)
    weights = RNG.normal(size=(shadows + 1, 4, 2)).astype(np.float32)

    def target(k, access):
        assert access == "gradient"
        return WhiteBox(lambda params, x: x @ params, weights[k])

    return Asking(DATASET, split, target, {}, Questioner(DATASET, target, shadows + 1)), split


def rows_of(split: splits.Split) -> np.ndarray:
    return np.sort(np.concatenate([split.members[0], split.nonmembers[0]]))


def test_models_that_craft_are_no_targets_and_calibrate_nothing():
    asks, split = asking(4)
    questions, calibrating = asks.questions(ATTACK, rows_of(split), split.trials[0])
    left_out = np.setdiff1d(split.trials[0], calibrating)
    assert 4 <= len(left_out) <= CRAFTERS and not set(left_out) & set(split.trials[:, 0])
    assert calibrating[0] == split.trials[0, 0] and questions.crafted.shape == (40, 1, 4)


def test_one_crafting_serves_all_trials():
    asks, split = asking(4)
    first, second = (asks.questions(ATTACK, rows_of(split), trial)[0] for trial in split.trials[:2])
    assert first.crafted is second.crafted


def test_where_all_models_are_targets_nobody_is_left_to_craft():
    asks, split = asking(12)
    with pytest.raises(ValueError, match=r"^attack yoqo crafts[^\n]*4 of them among 16 models, expected 6 [^\n]*$"):
        asks.questions(ATTACK, rows_of(split), split.trials[0])


@pytest.mark.parametrize("shadows", [9, 11, 13, 15, 23])
def test_a_target_and_its_stand_ins_are_calibrated_whichever_models_craft(shadows):
    asks, split = asking(4, shadows)
    rows = rows_of(split)
    calibrating = asks.questions(ATTACK, rows, split.trials[0])[1]
    crafting = np.setdiff1d(split.trials[0], calibrating)
    alike = np.isin(split.members[crafting], split.members[crafting[:1]]).all(0)
    assert 2 <= len(crafting) <= CRAFTERS and (alike.any() or len(crafting) > 2)
    for place, model in enumerate(calibrating[:4]):  # a stand-in goes without the target
        others = calibrating[1:] if place == 0 else np.delete(calibrating, [0, place])
        inside, outside = splits.calibration_models(split, model, others, rows)
        assert inside.any(1).all() and outside.any(1).all()


def test_too_few_models_to_craft_and_calibrate_are_refused_in_one_line():
    asks, split = asking(1, 7)
    with pytest.raises(ValueError, match=r"^attack yoqo crafts[^\n]*7 of them among 8 models, expected[^\n]*$"):
        asks.questions(ATTACK, rows_of(split), split.trials[0])
