"""Figures 5 and 6, as a record of defenses has them."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from experiments.paper import defense_plots


def defense(test: float, attack: float, **models) -> dict:
    mean = {"train_accuracy": {"mean": 1.0}, "test_accuracy": {"mean": test}} | models
    attacks = {name: {"balanced_accuracy": {"mean": attack}} for name in ("label_only", "confidence")}
    return {"models": mean, "attacks": attacks, "not_adaptive": {}}


RECORD = {"config": {"dataset": "cifar10", "n_train": 2500}, "defenses": {
    "none": defense(0.5, 0.8), "dropout:0.5": defense(0.6, 0.7), "l2:1": defense(0.6, 0.8),
    "dp_sgd:8": defense(0.4, 0.55, privacy={"statement": "epsilon 8 at delta 0.01"}), "l1:1": defense(0.3, 0.55),
}}  # fmt: skip
PAPER = {"none": (51.1, 49.1, 82.3), "l2:1": (49.2, 10.0, 55.2), "l2:3": (46.3, 7.0, 53.5)}  # the last is not ours


def crosses(axes: Axes) -> list[tuple[float, float]]:
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "x"]


def test_figure_5_ties_the_papers_points_to_ours_and_leaves_out_those_that_are_not_there():
    (axes,) = defense_plots.draw_trade_off(RECORD, PAPER).axes
    assert crosses(axes) == [(51.1, 82.3), (49.2, 55.2)]
    ties = [line.get_xydata() for line in axes.lines if line.get_linestyle() == ":" and line.get_color() == "0.6"]
    ours = [(50, 80), (60, 80)]
    np.testing.assert_allclose(ties[:2], [[own, paper] for own, paper in zip(ours, crosses(axes), strict=True)])
    assert [text.get_text() for text in axes.get_legend().get_texts()].count("paper") == 1
    assert axes.get_title() == "cifar10, n = 2500"


def test_figure_6_has_the_gap_attack_as_a_line_in_both_panels():
    for axes, attack in zip(defense_plots.draw_gap(RECORD).axes, ("label-only", "confidence"), strict=True):
        (line,) = (line for line in axes.lines if line.get_linestyle() == "--")
        x, y = line.get_xydata().T
        assert y == pytest.approx(50 + x / 2) and x[1] >= 70  # the largest gap of the record
        assert attack in axes.get_title()
