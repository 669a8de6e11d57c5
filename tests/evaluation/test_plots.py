"""Figures draw whatever an audit may hand them, and a ROC shows attainable points only."""

import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib import pyplot as plt

from mi_jax.evaluation import plots
from tests.evaluation.test_report import synthetic


def lines(figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): line.get_data() for line in figure.axes[0].get_lines()}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


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
        assert sum(bar.get_height() for bar in panel.patches) == scores["is_member"].size


def test_png_returns_png_bytes_and_closes_the_figure():
    figure = plots.roc_curves(*synthetic())
    image = plots.png(figure)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert not plt.fignum_exists(figure.number)


def test_the_same_record_gives_the_same_bytes():
    assert plots.png(plots.roc_curves(*synthetic())) == plots.png(plots.roc_curves(*synthetic()))


def test_a_png_as_a_url_holds_the_png():
    assert plots.data_url(b"abc") == "data:image/png;base64,YWJj"


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
    np.testing.assert_array_equal(x, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(y, [0.5, 1.0, 1.0, 1.0])
    curve = next(line for line in figure.axes[0].get_lines() if line.get_label().startswith("gap"))
    assert curve.get_drawstyle() == "steps-post"  # between two false positive rates the left one's TPR holds


def test_the_roc_averages_targets_at_the_same_false_positive_rate():
    record, scores = synthetic(targets=2, n=2)
    record["attacks"] = {"gap": record["attacks"]["gap"]}
    # Target 1 separates, so its TPR is 1 everywhere; target 2 is reversed: 0 until both non-members are in.
    scores["attack/gap/scores"] = np.array([[2.0, 2.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0]])
    x, y = next(data for label, data in lines(plots.roc_curves(record, scores)).items() if label.startswith("gap"))
    np.testing.assert_array_equal(x, [0.5, 1.0])
    np.testing.assert_array_equal(y, [0.5, 1.0])


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
