"""Figures 5 and 6, drawn from the record of defenses that `fig5_6_defenses.py` writes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_jax import defenses
from mi_jax.evaluation import pareto, plots

_BESIDE = {"fontsize": 7, "loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}  # a legend


def kind_of(defense: str) -> str:
    """A defense's name without its strengths."""
    return "+".join(part.partition(":")[0] for part in defenses.split_names(defense))


def draw_trade_off(record: dict, paper: dict[str, tuple]) -> Figure:
    """Figure 5: `label_only` against test accuracy; the paper's points as crosses, each tied to ours.

    `paper`: defense -> test accuracy, gap and label-only attack in per cent.
    """
    figure, axes = plots.subplots(figsize=(8, 5))
    _scatter(axes, record, 0, 2)
    for name, entry in record["defenses"].items():
        if name in paper:
            (test, _, attack), ours = paper[name], pareto.defense_accuracies(entry)
            axes.plot([ours[0], test], [ours[2], attack], color="0.6", lw=0.7, ls=":", zorder=0)
            axes.plot(test, attack, "x", color="0.3", label="paper" if name == "none" else None)
    axes.axhline(50, color="0.6", lw=1, ls=":")
    axes.set(xlabel="test accuracy (%)", ylabel="label-only attack chosen on shadow models (%)", title=_title(record))
    axes.legend(**_BESIDE, title="larger: more STRENGTH", title_fontsize=7)
    return figure


def draw_gap(record: dict) -> Figure:
    """Figure 6: attacks against the gap between train and test accuracy, and the line of the gap attack."""
    figure, panels = plots.subplots(1, 2, figsize=(12, 4.8), sharey=True)
    for axes, y, name in zip(panels, (2, 3), ("label-only", "confidence"), strict=True):
        _scatter(axes, record, 1, y)
        right = max(axes.get_xlim()[1], 10)
        axes.plot([0, right], [50, 50 + right / 2], color="0.4", lw=1, ls="--", label="gap attack: 50 + gap / 2")
        axes.set(xlabel="train minus test accuracy (pp)", ylabel="attack accuracy (%)",
                 title=f"{_title(record)}: {name}")  # fmt: skip
    panels[1].legend(**_BESIDE)
    return figure


def _scatter(axes: Axes, record: dict, x: int, y: int) -> None:
    """A marker for each defense, larger for a later one in the grid of its kind, along which they are joined."""
    kinds: dict[str, list[str]] = {}
    for name in record["defenses"]:
        kinds.setdefault(kind_of(name), []).append(name)
    for i, (kind, names) in enumerate(kinds.items()):
        points = np.array([pareto.defense_accuracies(record["defenses"][name]) for name in names])
        colour = plots.COLOURS[i % len(plots.COLOURS)]
        marker = "osD^vP*X"[(i + i // len(plots.COLOURS)) % 8]  # another one when the colours come round again
        axes.plot(points[:, x], points[:, y], color=colour, lw=0.8, alpha=0.5)
        axes.scatter(points[:, x], points[:, y], s=14 + 60 * (1 + np.arange(len(points))) / len(points), color=colour,
                     marker=marker, alpha=0.75, label=kind, lw=0)  # fmt: skip


def _title(record: dict) -> str:
    return f"{record['config']['dataset']}, n = {record['config']['n_train']}"
