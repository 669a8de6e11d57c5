"""Figures draw whatever an audit may hand them, and a ROC shows attainable points only."""

import io
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from mi_jax.evaluation import plots
from tests.evaluation.records import synthetic


def lines(figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): line.get_data() for line in figure.axes[0].get_lines()}


@pytest.mark.parametrize("draw", [plots.roc_curves, plots.score_histograms])
@pytest.mark.parametrize("kind", ["plain", "tied", "one target", "one point a side", "many attacks"])
def test_figures_draw(draw, kind):
    record, scores = synthetic(targets=1 if kind == "one target" else 3, n=1 if kind == "one point a side" else 20)
    if kind == "tied":
        for name in record["attacks"]:
            scores[f"attack/{name}/scores"][:] = 0.1
    if kind == "many attacks":  # more than there are colours, and an incomplete last row of panels
        for i in range(10):
            record["attacks"][f"another_{i}"] = record["attacks"]["gap"]
            scores[f"attack/another_{i}/scores"] = scores["attack/gap/scores"]
    image = matplotlib.image.imread(io.BytesIO(plots.png(draw(record, scores))))
    assert image.std() > 0.01  # something is on it


@pytest.mark.parametrize("draw", [plots.roc_curves, plots.score_histograms])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_unfinished_points_and_infinite_scores_are_drawn_around(draw, odd):
    """NaN: a cap left the point unfinished. +inf: no start could flip it, a member at every threshold."""
    record, scores = synthetic()
    scores["attack/noise/scores"][:, ::7] = odd
    assert plots.png(draw(record, scores))


@pytest.mark.parametrize("infinite", ["inf", float("inf")])
def test_infinite_thresholds_are_left_out_of_the_mean(infinite):
    """As text, which is how a record is read back, and as the number a run in memory holds."""
    record, scores = synthetic()
    record["attacks"]["noise"]["tuned"]["threshold"] = [0.25, infinite, 0.75]
    figure = plots.score_histograms(record, scores)
    panel = figure.axes[list(record["attacks"]).index("noise")]
    drawn = [line.get_xdata()[0] for line in panel.get_lines()]
    assert drawn == [0.5]
    assert plots.png(figure)


@pytest.mark.parametrize("constant", [None, 0.1, 0.0, 1.0, -1e6, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_histograms_count_every_point(constant, dtype):
    record, scores = synthetic()
    for name in record["attacks"]:
        values = scores[f"attack/{name}/scores"].astype(dtype)
        scores[f"attack/{name}/scores"] = values if constant is None else np.full_like(values, constant)
    figure = plots.score_histograms(record, scores)
    for panel in figure.axes[: len(record["attacks"])]:
        assert [int(step.get_data().values.sum()) for step in panel.patches] == [60, 60]  # non-members, members


@pytest.mark.parametrize("values", [[], [0.3, 0.3 + 5e-17], [1e6, 1e6], [-3.0, 4.0]])
def test_bins_rise_whatever_the_scores_are(values):
    edges = plots._bin_edges(np.array(values))
    assert len(edges) == 31 and (np.diff(edges) > 0).all()
    assert all(edges[0] <= value <= edges[-1] for value in values)


def test_members_are_a_line_over_filled_non_members():
    record, scores = synthetic()
    panel = plots.score_histograms(record, scores, ["noise"]).axes[0]
    assert [(step.get_label(), step.get_fill()) for step in panel.patches] == [
        ("non-members", True),
        ("members", False),
    ]


def test_scores_that_are_infinite_are_counted_in_the_title():
    record, scores = synthetic()
    scores["attack/noise/scores"][:, :2] = np.inf
    assert "6 infinite scores not shown" in plots.score_histograms(record, scores, ["noise"]).axes[0].get_title()


def test_png_returns_png_bytes_and_a_notebook_shows_them():
    figure = plots.roc_curves(*synthetic())
    assert plots.png(figure)[:8] == b"\x89PNG\r\n\x1a\n" == figure._repr_png_()[:8]


def test_the_same_record_gives_the_same_bytes():
    one, other = (plots.roc_curves(*synthetic()) for _ in range(2))
    assert plots.png(one) == plots.png(other) and plots.svg(one) == plots.svg(other)


def test_an_svg_is_one_element_with_text_as_text_and_no_numbered_ids():
    record, scores = synthetic()
    record["config"]["dataset"] = "a $b$ <c>"
    image = plots.svg(plots.roc_curves(record, scores))
    assert image.startswith("<svg ") and image.endswith("</svg>") and image.count("<svg ") == 1
    assert "Membership inference on a $b$ &lt;c&gt; (3 targets)" in image
    assert "xmlns" not in image and not re.search(r' id="[a-z0-9.]*_\d+"', image)


@pytest.mark.slow
def test_nothing_of_the_package_changes_the_users_matplotlib():
    """In another process, where no test has imported pyplot: backend, settings, and no pyplot at all."""
    code = """
import importlib, pkgutil, sys, matplotlib, mi_jax
matplotlib.rcParams["lines.linewidth"] = 7.0
settings = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
before = settings()
for module in pkgutil.walk_packages(mi_jax.__path__, "mi_jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from mi_jax.evaluation import plots
from tests.evaluation.records import synthetic
plots.svg(plots.roc_curves(*synthetic()))
assert "mi_jax.cli" in sys.modules and "matplotlib.pyplot" not in sys.modules
assert settings() == before and matplotlib.get_backend(auto_select=False) is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_roc_steps_between_attainable_points_and_never_interpolates():
    """One target, four points a side: thresholds 3, 2, 1, 0 reach members 2, 2, 4, 4 and non-members 0, 2, 2, 4.

    The ties at 2 and 0 take two non-members each, so an FPR of 1/4 is attained by nothing above 0 and shows the TPR
    at 0, which is 1/2. A straight line through the tie, or one drawn from point to point, would differ there.
    """
    record, scores = synthetic(targets=1, n=4)
    record["attacks"] = {"gap": record["attacks"]["gap"]}
    scores["attack/gap/scores"] = np.array([[3.0, 3.0, 1.0, 1.0, 2.0, 2.0, 0.0, 0.0]])
    figure = plots.roc_curves(record, scores)
    drawn = lines(figure)
    x, y = next(data for label, data in drawn.items() if label.startswith("gap"))
    np.testing.assert_array_equal(x, [0.25, 0.5, 1.0])  # where it rises, and its end
    np.testing.assert_array_equal(y, [0.5, 1.0, 1.0])
    curve = next(line for line in figure.axes[0].get_lines() if line.get_label().startswith("gap"))
    assert curve.get_drawstyle() == "steps-post"  # between two false positive rates the left one's TPR holds


def roc_of_gap(scores_of_gap: list[list[float]], n: int) -> tuple[list[float], list[float]]:
    """The curve of an attack with these scores of n members, then n non-members, of each target."""
    record, scores = synthetic(targets=len(scores_of_gap), n=n)
    record["attacks"] = {"gap": record["attacks"]["gap"]}
    scores["attack/gap/scores"] = np.array(scores_of_gap)
    x, y = next(data for label, data in lines(plots.roc_curves(record, scores)).items() if label.startswith("gap"))
    return x.tolist(), y.tolist()


def test_the_roc_averages_targets_at_the_same_false_positive_rate():
    """Target 1 separates: its TPR is 1 everywhere. Of target 2 one non-member is above all members."""
    assert roc_of_gap([[2, 2, 1, 1], [1, 1, 2, 0]], 2) == ([0.5, 1.0], [1.0, 1.0])
    assert roc_of_gap([[2, 2, 1, 1], [1, 0, 2, 0.5]], 2) == ([0.5, 1.0], [0.75, 1.0])


def test_a_curve_begins_where_every_target_has_a_positive():
    """Below that a mean with the zeros of the other targets would look worse than guessing."""
    assert roc_of_gap([[2, 2, 2, 2, 2, 0, 0, 0], [2, 2, 2, 2, 2, 2, 2, 0]], 4) == ([0.75, 1.0], [1.0, 1.0])


def test_the_chance_line_is_true_positives_equal_to_false_positives():
    x, y = lines(plots.roc_curves(*synthetic()))["chance"]
    np.testing.assert_array_equal(x, y)


def test_attacks_that_see_probabilities_are_dashed():
    record, scores = synthetic()
    styles = {
        line.get_label().split(" (")[0]: line.get_linestyle() for line in plots.roc_curves(record, scores).axes[0].lines
    }
    assert styles["gap"] == styles["noise"] == "-"
    assert styles["confidence threshold"] == "--"


def test_a_curve_begins_at_the_first_rate_that_an_attack_attains():
    """The gap attack calls all points labelled correctly members: here both members and half of the non-members."""
    assert roc_of_gap([[1, 1, 1, 1, 1, 1, 0, 0]], 4) == ([0.5, 1.0], [1.0, 1.0])


def test_a_rate_below_that_of_infinite_scores_is_not_attained():
    """+inf is a member at every threshold: with it on two of four non-members no rate below 1/2 exists."""
    scores, is_member = np.array([np.inf, 1.0, np.inf, np.inf, 0.0, 0.0]), np.arange(6) < 2
    tpr, positive = plots._tpr_at(np.array([0.25, 0.5, 1.0]), scores, is_member)
    assert tpr.tolist() == [0.0, 1.0, 1.0] and positive.tolist() == [False, True, True]


def test_attacks_that_judge_every_point_are_bold_and_the_smaller_budgets_of_one_are_paler():
    record, scores = synthetic()
    for name in ("chosen:1", "chosen:5"):
        record["attacks"][name] = record["attacks"]["noise"]
        scores[f"attack/{name}/scores"] = scores[f"attack/{name}/false_positive_rate"] = scores["attack/noise/scores"]
    drawn = {line.get_label().split(" (")[0]: line for line in plots.roc_curves(record, scores).axes[0].lines}
    assert drawn["chosen:1"].get_linewidth() == drawn["chosen:5"].get_linewidth() > drawn["noise"].get_linewidth()
    pale, full = (np.array(drawn[name].get_color()) for name in ("chosen:1", "chosen:5"))
    np.testing.assert_allclose(full, matplotlib.colors.to_rgb(plots.COLOURS[3]))
    np.testing.assert_allclose(1 - pale, 0.45 * (1 - full))
