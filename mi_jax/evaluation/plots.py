"""Figures from a record and its scores. The only module that imports matplotlib."""

import base64
import io

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mi_jax.evaluation import metrics

# Okabe and Ito's palette: distinguishable in print and by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
STYLES = {"label": "-", "confidence": "--", "gradient": ":"}


def roc_curves(record: dict, scores: dict[str, np.ndarray]) -> Figure:
    """Log-log ROC of every attack: the mean over targets of the TPR attainable at no more than each FPR."""
    is_member = scores["is_member"]
    nonmembers = int((~is_member).sum(1).min())
    rates = np.arange(1, nonmembers + 1) / nonmembers
    lowest = min(0.5 / nonmembers, 1e-3)
    figure, axes = plt.subplots(figsize=(7.6, 4.8), layout="constrained")
    _draw_chance(axes, lowest, nonmembers)
    for colour, (name, entry) in zip(_colours(record), record["attacks"].items(), strict=False):
        curves = [_tpr_at(rates, s, m) for s, m in zip(scores[f"attack/{name}/scores"], is_member, strict=True)]
        mean = np.maximum(np.mean(curves, 0), lowest)
        label = f"{_title(name)} (AUC {entry['auc']['mean']:.3f})"
        axes.step(rates, mean, where="post", color=colour, ls=STYLES[entry["access"]], lw=1.6, label=label)
    targets = "1 target" if len(is_member) == 1 else f"{len(is_member)} targets"
    mean_over = "" if len(is_member) == 1 else ", mean over targets"
    labels = {"xlabel": "false positive rate", "ylabel": f"true positive rate{mean_over}"}
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.05), **labels)
    axes.set_title(f"Membership inference on {record['config']['dataset']} ({targets})", fontsize=10)
    title = "dashed: sees probabilities, dotted: gradients"
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
    axes.legend(fontsize=8, title=title, title_fontsize=7, **place)
    return figure


def _draw_chance(axes, lowest: float, nonmembers: int) -> None:
    """Draws the line of random guesses, and marks the rates that so few non-members cannot resolve."""
    axes.plot([lowest, 1], [lowest, 1], color="0.6", lw=1, label="chance")
    axes.axvspan(lowest, 1 / nonmembers, color="0.93", zorder=0)
    text = f"below one of\n{nonmembers} non-members:\nnot resolvable"
    axes.text(np.sqrt(lowest / nonmembers), 0.7, text, ha="center", va="center", fontsize=7, color="0.35")


def score_histograms(record: dict, scores: dict[str, np.ndarray]) -> Figure:
    """Histograms of the scores of members and non-members of all targets, one panel per attack, with the threshold."""
    names = list(record["attacks"])
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.5 * rows), layout="constrained", squeeze=False)
    members = scores["is_member"]
    for axes, name in zip(grid.flat, names, strict=False):
        values = scores[f"attack/{name}/scores"]
        finite = values[np.isfinite(values)]
        bins = np.linspace(finite.min(), finite.max() + 1e-9, 31)
        for side, colour, label in ((members, COLOURS[1], "members"), (~members, COLOURS[0], "non-members")):
            axes.hist(values[side & np.isfinite(values)], bins, color=colour, alpha=0.55, label=label)
        thresholds = record["attacks"][name]["tuned"]["threshold"]
        thresholds = [t for t in map(float, thresholds) if np.isfinite(t)]  # float("inf") is a number too
        if thresholds:
            axes.axvline(np.mean(thresholds), color="0.2", lw=1, ls=":", label="threshold (mean)")
        axes.set_yscale("symlog", linthresh=10)
        axes.set_title(_title(name), fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    grid.flat[0].legend(fontsize=7)
    figure.supxlabel("score (higher: more likely a member)", fontsize=9)
    figure.supylabel("points", fontsize=9)
    return figure


def band(axes, x: list, entries: list[dict], colour: str, label: str, marker: str = ".") -> None:
    """Draws rates in per cent: the means as a line, their intervals, where there are any, as a band."""
    mean, low, high = ([100 * (e[key] if e[key] is not None else e["mean"]) for e in entries]
                       for key in ("mean", "low", "high"))  # fmt: skip
    axes.plot(x, mean, marker=marker, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def accuracy_interval(row: dict) -> dict:
    """The balanced accuracy of an attack with its interval over targets, or over points if there is one target."""
    over_targets = row["balanced_accuracy"]
    return over_targets if over_targets["low"] is not None else row.get("over_points") or over_targets


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
    figure, axes = plt.subplots(figsize=(6.4, 1.1 + 0.42 * len(rows)), layout="constrained")
    for y, row in enumerate(rows.values()):
        entry, values = accuracy_interval(row), row["balanced_accuracy"]["values"]
        axes.plot(100 * np.array(values), [y] * len(values), "|", color=COLOURS[0], alpha=0.6)
        axes.plot(100 * entry["mean"], y, "o", color=COLOURS[0])
        if entry["low"] is not None:
            axes.plot([100 * entry["low"], 100 * entry["high"]], [y, y], color=COLOURS[0], lw=1.4)
        if row.get("paper") is not None:
            axes.plot(row["paper"], y, "x", color=COLOURS[1])
    axes.plot([], [], "o", color=COLOURS[0], label="here")
    axes.plot([], [], "x", color=COLOURS[1], label="paper")
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(50, color="0.6", lw=1, ls=":")
    axes.set(xlabel="attack accuracy (%)\nbars: 95 % interval over targets, or over points for one target", title=title)
    axes.legend(fontsize=8)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def data_url(image: bytes) -> str:
    """A PNG as a data URL, for a self-contained page."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _tpr_at(rates: np.ndarray, scores: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """The TPR at the largest attainable FPR not above each of `rates`."""
    finished = ~np.isnan(scores)
    fpr, tpr, _ = metrics.roc(scores[finished], is_member[finished])
    return tpr[np.searchsorted(fpr, rates + 1e-12, side="right") - 1]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _colours(record: dict) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(record["attacks"]))]
