"""Figures from a record and its scores. The only module that imports matplotlib.

No figure belongs to pyplot, and no backend is chosen: importing this module leaves the settings of a notebook as they
are. A notebook shows a figure that a cell returns; `png` and `svg` write it.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from mi_jax.evaluation import metrics
from mi_jax.evaluation.text import accuracy_interval, counted, has_interval, spoken

# Okabe and Ito's palette: distinguishable in print and by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
STYLES = {"label": "-", "confidence": "--", "gradient": ":"}


class _Figure(Figure):
    """A figure that a notebook shows although pyplot does not know of it."""

    def _repr_png_(self) -> bytes:
        return png(self)


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options) -> tuple[Figure, Any]:
    """A figure, in inches, and its axes, as `pyplot.subplots` returns them, with the options of `Figure.subplots`."""
    figure = _Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def roc_curves(record: dict, scores: dict[str, np.ndarray]) -> Figure:
    """Log-log ROC of every attack: the mean over targets of the TPR attainable at no more than each FPR.

    A curve begins where every target has a positive: to the left of that the attack names no point of some target a
    member, and a mean with its zero would be no curve of any.
    """
    is_member, attacks = scores["is_member"], record["attacks"]
    nonmembers = int((~is_member).sum(1).min())
    rates = np.arange(1, nonmembers + 1) / nonmembers
    lowest = min(0.5 / nonmembers, 1e-3)
    figure, axes = subplots(figsize=(5.4, 4.4 + 0.09 * len(attacks)))
    _draw_chance(axes, lowest, nonmembers)
    styles = _styles(record, scores)
    for name, entry in attacks.items():
        curves = [_tpr_at(rates, s, m) for s, m in zip(scores[f"attack/{name}/scores"], is_member, strict=True)]
        mean, begun = np.mean([tpr for tpr, _ in curves], 0), np.all([positive for _, positive in curves], 0)
        drawn = begun & ((np.diff(mean, prepend=0) != 0) | (np.cumsum(begun) == 1))  # where it begins, and steps
        drawn[-1] = True
        label = f"{_title(name)} (AUC {entry['auc']['mean']:.3f})"
        axes.step(rates[drawn], mean[drawn], where="post", marker=".", markevery=[0], label=label, **styles[name])
    targets = counted(len(is_member), "target")
    mean_over = "" if len(is_member) == 1 else ", mean over targets"
    labels = {"xlabel": "false positive rate", "ylabel": f"true positive rate{mean_over}"}
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.05), **labels)
    axes.set_title(f"Membership inference on {_title(record['config']['dataset'])} ({targets})", fontsize=10)
    title = "bold: judges every point by itself; dashed: sees probabilities, dotted: gradients\n"
    title += "a dot: the lowest rate that is attained on every target"
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, title=title, title_fontsize=7, frameon=False)
    return figure


def _styles(record: dict, scores: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The line of each attack: a colour for each kind, paler for its smaller budgets (NAME:5 beside NAME:25), thin for
    one threshold, bold where every point is judged by itself.
    """
    kinds: dict[str, list[str]] = {}
    for name in record["attacks"]:
        kinds.setdefault(name.partition(":")[0], []).append(name)
    styles = {}
    for i, names in enumerate(kinds.values()):
        for j, name in enumerate(names):
            paler = 0.55 * (len(names) - 1 - j) / max(1, len(names) - 1)
            colour = np.array(matplotlib.colors.to_rgb(COLOURS[i % len(COLOURS)]))
            width = 2.2 if f"attack/{name}/false_positive_rate" in scores else 1.1
            access = record["attacks"][name]["access"]
            styles[name] = {"color": tuple(colour + paler * (1 - colour)), "ls": STYLES[access], "lw": width}
    return styles


def _draw_chance(axes, lowest: float, nonmembers: int) -> None:
    """Draws the line of random guesses, and marks the rates that so few non-members cannot resolve."""
    axes.plot([lowest, 1], [lowest, 1], color="0.6", lw=1, label="chance")
    axes.axvspan(lowest, 1 / nonmembers, color="0.93", zorder=0)
    text = f"below one of\n{nonmembers} non-members:\nnot resolvable"
    wide = lowest * nonmembers < 0.2
    place = {"x": np.sqrt(lowest / nonmembers), "ha": "center"} if wide else {"x": 1.1 / nonmembers, "ha": "left"}
    axes.text(y=0.9, s=text, va="top", fontsize=7, color="0.35", **place)


def score_histograms(record: dict, scores: dict[str, np.ndarray], names: Sequence[str] | None = None) -> Figure:
    """Histograms of the scores of members and non-members of all targets, one panel per attack, with the threshold.

    `names`: the attacks to draw (None: all).
    """
    names = list(record["attacks"]) if names is None else names
    columns = max(1, min(3, len(names)))
    rows = -(-len(names) // columns) or 1
    figure, grid = subplots(rows, columns, figsize=(3.4 * columns, 2.6 * rows), squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        thresholds = record["attacks"][name]["tuned"]["threshold"]
        _draw_histogram(axes, name, scores[f"attack/{name}/scores"], scores["is_member"], thresholds)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    if names:
        grid.flat[0].legend(fontsize=7)
    figure.supxlabel("score (higher: more likely a member)", fontsize=9)
    figure.supylabel("points", fontsize=9)
    return figure


def _draw_histogram(axes, name: str, values: np.ndarray, is_member: np.ndarray, thresholds: list) -> None:
    """Draws one panel: non-members filled, members as a line over them, so that both are seen wherever they are."""
    finite, title = np.isfinite(values), _title(name)
    edges = _bin_edges(values[finite].astype(np.float64))
    sides = (("non-members", ~is_member, COLOURS[0], True), ("members", is_member, COLOURS[1], False))
    for label, side, colour, fill in sides:
        counts = np.histogram(values[side & finite].astype(np.float64), edges)[0]
        axes.stairs(counts, edges, color=colour, fill=fill, alpha=0.45 if fill else 1, lw=1.4, label=label)
    known = [t for t in map(float, thresholds) if np.isfinite(t)]  # float("inf") is a number too
    if known:
        axes.axvline(np.mean(known), color="0.2", lw=1, ls=":", label="threshold (mean)")
    if infinite := int(np.isinf(values).sum()):
        title += f"\n{counted(infinite, 'infinite score')} not shown"
    axes.set_yscale("symlog", linthresh=10)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)


def _bin_edges(values: np.ndarray) -> np.ndarray:
    """The edges of 30 bins; the values may be equal up to rounding, or none."""
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    scale = max(1.0, abs(low), abs(high))
    if high - low < 1e-9 * scale:
        low, high = low - scale / 2, high + scale / 2
    return np.linspace(low, high, 31)


def band(axes, x: list, entries: list[dict], colour: str, label: str, marker: str = ".") -> None:
    """Draws rates in per cent: the means as a line, their intervals, where there are any, as a band."""
    mean, low, high = ([100 * (e[key] if e[key] is not None else e["mean"]) for e in entries]
                       for key in ("mean", "low", "high"))  # fmt: skip
    axes.plot(x, mean, marker=marker, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def lines(axes, attacks_at: dict[float, dict[str, dict]], names: list[str], paper: dict[str, tuple] | None) -> None:
    """Draws the accuracy of each named attack over x; `attacks_at`: x -> attacks; `paper`: name -> (x, per cent)."""
    for colour, name in zip(COLOURS, names, strict=False):
        entries = [accuracy_interval(attacks[name]) for attacks in attacks_at.values()]
        band(axes, list(attacks_at), entries, colour, name)
        if paper and name in paper:
            axes.plot(*paper[name], "x", color=colour)
    if paper:
        axes.plot([], [], "x", color="0.3", label="the paper's")
    axes.set_ylabel("attack accuracy (%)")
    axes.legend(fontsize=8)


def paper_comparison(title: str, rows: dict[str, dict]) -> Figure:
    """The accuracy of each attack with its interval over targets, and the paper's value where a row has one."""
    figure, axes = subplots(figsize=(6.4, 1.1 + 0.42 * len(rows)))
    for y, row in enumerate(rows.values()):
        entry, values = accuracy_interval(row), row["balanced_accuracy"]["values"]
        axes.plot(100 * np.array(values), [y] * len(values), "|", color=COLOURS[0], alpha=0.6)
        axes.plot(100 * entry["mean"], y, "o", color=COLOURS[0])
        if has_interval(entry):
            axes.plot([100 * entry["low"], 100 * entry["high"]], [y, y], color=COLOURS[0], lw=1.4)
        if row.get("paper") is not None:
            axes.plot(row["paper"], y, "x", color=COLOURS[1])
    axes.plot([], [], "o", color=COLOURS[0], label="here")
    axes.plot([], [], "x", color=COLOURS[1], label="paper")
    axes.set_yticks(range(len(rows)), [spoken(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(50, color="0.6", lw=1, ls=":")
    axes.set(xlabel="attack accuracy (%)\nbars: 95 % interval over targets, or over points for one target", title=title)
    axes.legend(fontsize=8)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an <svg> element to stand in a page, its text as text; the same figure gives the same element."""
    buffer, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mi_jax"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    element = buffer.getvalue()[buffer.getvalue().index("<svg ") :]
    element = re.sub(
        r' id="[a-z][a-z0-9.]*_\d+"| xmlns(:xlink)?="[^"]*"', "", element
    )  # two figures of a page would share ids
    return re.sub(r"\s*\n\s*", "\n", element).strip()


def image_png(image: np.ndarray, *, longest: int = 96) -> bytes:
    """A small PNG of one image [H W C] uint8 with 1, 3 or 4 channels; every k-th pixel of one longer than `longest`."""
    step = -(-max(image.shape[:2]) // longest)
    shown = image[::step, ::step]
    shown = np.repeat(shown, 3, -1) if shown.shape[-1] == 1 else shown
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, shown, format="png", metadata={"Software": "mi_jax"})
    return buffer.getvalue()


def _tpr_at(rates: np.ndarray, scores: np.ndarray, is_member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the TPR at the largest attainable FPR not above each of `rates`, whether any point is called a member there)."""
    finished = ~np.isnan(scores)
    fpr, tpr, _ = metrics.roc(scores[finished], is_member[finished])
    at = np.searchsorted(fpr, rates + 1e-12, side="right") - 1
    found = np.where(at < 0, 0.0, tpr[at])
    return found, (found > 0) | ((at >= 0) & (fpr[at] > 0))


def _title(name: str) -> str:
    """A name in a figure, where $ would begin a formula."""
    return spoken(name).replace("$", r"\$")
