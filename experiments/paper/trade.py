"""What a record of defenses says: the price of each in test accuracy, and what attacks still get.

`fig5_6_defenses.py` makes such records, `verdicts_on_defenses.py` decides claims by them. An entry of one has `models`
(`test_accuracy`, `train_accuracy`), `attacks` and `not_adaptive`: attack -> its `balanced_accuracy`.
"""

import numpy as np
from matplotlib import pyplot as plt

from mi_jax import defenses
from mi_jax.evaluation import plots, report

LEVELS = (52, 55, 58, 60, 65, 70, 75, 80, 100)  # attack accuracy, per cent, of the Pareto table


def numbers(entry: dict) -> tuple[float, float, float, float]:
    """Test accuracy, gap, `label_only` and confidence attack, in per cent."""
    models, attacks = entry["models"], entry["attacks"]
    test, train = (100 * models[f"{side}_accuracy"]["mean"] for side in ("test", "train"))
    label, confidence = (100 * attacks[name]["balanced_accuracy"]["mean"] for name in ("label_only", "confidence"))
    return test, train - test, label, confidence


def strongest(entry: dict) -> float:
    """The accuracy of the best attack on a defense in per cent, of all columns, with and without knowledge of it.

    The largest of several estimates on the same targets reads high: a defense is called good rather too rarely.
    """
    every = [*entry["attacks"].values(), *entry["not_adaptive"].values()]
    return round(100 * max(attack["balanced_accuracy"]["mean"] for attack in every), 9)  # 0.55 is 55 to a level


def best_trade(found: dict[str, dict]) -> dict[str, dict | None]:
    """Attack accuracy in per cent -> the defense of the best test accuracy where every attack stays at or below it."""
    table = {}
    for level in LEVELS:
        allowed = {text: entry for text, entry in found.items() if strongest(entry) <= level}
        best = max(allowed, key=lambda text: numbers(allowed[text])[0], default=None)
        shown = ("test_accuracy", "gap", "label_only", "confidence")
        table[str(level)] = best and {"defense": best} | dict(zip(shown, numbers(allowed[best]), strict=True))
    return table


def overview(record: dict) -> str:
    """The defenses as a plain-text table, the best kept secret first; below it what each epsilon in it means."""
    rows = [("defense", "test accuracy", "label-only", "confidence", "strongest of all", "trade")]
    entries, reached = record["defenses"], 0.0
    found = {text: (*numbers(entry), strongest(entry)) for text, entry in entries.items()}
    for text, (test, _, *attacked) in sorted(found.items(), key=lambda one: (one[1][-1], -one[1][0])):
        best = test > reached  # none that tests as well keeps attacks as low
        rows.append((text, *(f"{value:.1f} %" for value in (test, *attacked)), "best" if best else ""))
        reached = max(reached, test)
    private = {text: entry["models"]["privacy"]["statement"] for text, entry in entries.items()
               if "privacy" in entry["models"]}  # fmt: skip
    return "\n".join([report.aligned(rows), *(f"{text}: {said}" for text, said in private.items())])


def kind_of(text: str) -> str:
    return "+".join(part.partition(":")[0] for part in defenses.split_names(text))


def points(axes, record: dict, x: int, y: int) -> None:
    """A marker for each defense, larger for a later one in the grid of its kind, along which they are joined."""
    kinds: dict[str, list[str]] = {}
    for text in record["defenses"]:
        kinds.setdefault(kind_of(text), []).append(text)
    for i, (kind, texts) in enumerate(kinds.items()):
        at = np.array([numbers(record["defenses"][text]) for text in texts])
        colour = plots.COLOURS[i % len(plots.COLOURS)]
        marker = "osD^vP*X"[(i + i // len(plots.COLOURS)) % 8]  # another one when the colours come round again
        axes.plot(at[:, x], at[:, y], color=colour, lw=0.8, alpha=0.5)
        axes.scatter(at[:, x], at[:, y], s=14 + 60 * (1 + np.arange(len(at))) / len(at), color=colour, marker=marker,
                     alpha=0.75, label=kind, lw=0)  # fmt: skip


def draw_trade(record: dict, paper: dict[str, tuple]) -> plt.Figure:
    """Figure 5: `label_only` against test accuracy; the paper's points as crosses, each tied to ours.

    `paper`: defense -> test accuracy, gap and label-only attack in per cent.
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    points(axes, record, 0, 2)
    for text, entry in record["defenses"].items():
        if text in paper:
            test, _, attack = paper[text]
            own = numbers(entry)
            axes.plot([own[0], test], [own[2], attack], color="0.6", lw=0.7, ls=":", zorder=0)
            axes.plot(test, attack, "x", color="0.3", label="paper" if text == "none" else None)
    axes.axhline(50, color="0.6", lw=1, ls=":")
    axes.set(xlabel="test accuracy (%)", ylabel="label-only attack chosen on shadow models (%)", title=titled(record))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="larger: more STRENGTH",
                title_fontsize=7)  # fmt: skip
    return figure


def draw_gap(record: dict) -> plt.Figure:
    """Figure 6: attacks against the gap between train and test accuracy, beside the gap attack's own line."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained", sharey=True)
    for axes, y, title in zip(panels, (2, 3), ("label-only", "confidence"), strict=True):
        points(axes, record, 1, y)
        right = max(axes.get_xlim()[1], 10)
        axes.plot([0, right], [50, 50 + right / 2], color="0.4", lw=1, ls="--", label="gap attack: 50 + gap / 2")
        axes.set(xlabel="train minus test accuracy (pp)", ylabel="attack accuracy (%)",
                 title=f"{titled(record)}: {title}")  # fmt: skip
    panels[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def titled(record: dict) -> str:
    return f"{record['config']['dataset']}, n = {record['config']['n_train']}"
