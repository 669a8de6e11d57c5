"""Figure 3 and supplement, figure S8: attacks on models trained with all translations by d pixels.

Artefact: record.json and fig3.png in --out (default results/records/fig3-PRESET): attack accuracy by the d of training,
          and of the translation attack for every pair of a d in training and a d in the attack.
Command:  python -m experiments.paper.fig3_augmented_training --preset=smoke  digits; seconds
          python -m experiments.paper.fig3_augmented_training --preset=cpu  CIFAR-10, n = 500, d = 0, 1, 3, 5; one trial
          python -m experiments.paper.fig3_augmented_training --preset=paper  CIFAR-10, n = 2,500, d = 0..5; 3 trials
          originals in --data_dir or $MI_JAX_DATA/cifar10; --distances=0,5 trains with some of the d.
Settings: the paper's CNN, one shadow model for each target, trained as the target is: --defense=augmentation:d, an
          epoch over all 4d + 1 images of every row. The translation attack queries the shifts of one d; the line
          named translation has the d that does best on the shadow models. In the cpu preset boundary takes 609 queries
          on 200 points a side.
Differs:  DIFFERS, which the record holds too.
Expected: PAPER and PAPER_GRID, accuracy in per cent: translation 78.6 at d = 0 and 87.0 at d = 5, gap 74.7 and 71.1;
          test accuracy 49.7 and 58.7.
Hardware: cpu preset: two cores, 90 minutes beside other runs.
Status:   cpu preset run (results/records/fig3-cpu): test accuracy 36.8 at d = 0 and 43.0 at 5, gap 81.6 and 78.5,
          translation 84.7 and 94.7, at d = 5 above confidence (91.6) and boundary (89.5); paper preset not yet run
"""

import dataclasses
from pathlib import Path

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import common
from experiments.paper import records, tables
from experiments.paper.tables import CIFAR, SMOKE, Column, column
from mi_jax import attacks, perturbations, study
from mi_jax.evaluation import plots, report
from mi_jax.study.config import Config

SHIFTS = tuple(range(6))  # pixels, of training and of the attack
PAPER, PAPER_GRID = tables.read_paper("fig3"), tables.read_paper("fig3, grid")  # the grid by d of the attack
DIFFERS = (
    *tables.DIFFERS,
    "the d of the translation attack is chosen on the shadow models, the paper's line is the best d on the target",
    "cpu preset: n = 500 and one trial, the paper 2,500 and three; boundary with 609 queries on 200 points a side",
)
CHEAP = {name: tables.CHEAP[name] for name in ("gap", "confidence")}
COLUMNS = CHEAP | {"boundary": column("boundary")}
ON_TWO_CORES = CHEAP | {"boundary": column("boundary", num_points=200)}
PRESETS = {  # changes to the config, columns beside translation, d of training, d of the attack
    "smoke": (SMOKE, COLUMNS, (0, 2), (0, 2)),
    "cpu": (CIFAR | {"n_train": 500, "num_targets": 1, "budget": 609}, ON_TWO_CORES, (0, 1, 3, 5), SHIFTS),
    "paper": (CIFAR | {"n_train": 2500, "num_targets": 3, "budget": 2409}, COLUMNS, SHIFTS, SHIFTS),
}


def translation(*shifts: int) -> Column:
    """The translation attack with the best of these d on shadow models."""
    candidates = {f"translation {d}": perturbations.translate(d) for d in shifts}
    return Column(lambda context: attacks.perturbation_attack("translation", candidates))


def measure_distance(config: Config, columns: dict[str, Column], shifts: tuple[int, ...], out: Path) -> dict:
    """The entry of one d of training: every column, and the translation attack at every d of its own."""
    prepared, d = study.prepare(config, out=out), config.defense.partition(":")[2]
    columns = columns | {"translation": translation(*shifts)}
    entry = tables.measure(prepared, columns, tables.paper_at(PAPER, d, config, n_train=2500))
    # Queried under the same name, so that a column of the grid is to the bit the line where that d was chosen.
    grid = {str(at): tables.run_column(prepared, "translation", translation(at))[0]["attacks"]["translation"]
            for at in shifts}  # fmt: skip
    return entry | {"grid": tables.with_paper(grid, tables.paper_at(PAPER_GRID, d, config, n_train=2500))}


def is_paper(record: dict) -> bool:
    """Are the data and the number of training rows the paper's?"""
    return (record["config"]["dataset"], record["config"]["n_train"]) == ("cifar10", 2500)


def draw(record: dict) -> Figure:
    """Left a line an attack over the d of training, right the grid; the paper's points where n is the paper's."""
    figure, (left, right) = plots.subplots(1, 2, figsize=(12, 4.6))
    tables.draw_lines(left, record["distances"], list(PAPER), PAPER if is_paper(record) else {})
    labels = []
    for d, entry in record["distances"].items():
        train, test = (100 * entry["models"][f"{side}_accuracy"]["mean"] for side in ("train", "test"))
        labels.append(f"{d}\n{train:.1f}\n{test:.1f}")
    left.set_xticks([int(d) for d in record["distances"]], labels)
    left.set(xlabel="d in training; below it train and test accuracy (%)",
             title=f"{record['dataset']}, n = {record['config']['n_train']}")  # fmt: skip
    draw_grid(right, record)
    return figure


def draw_grid(axes: Axes, record: dict) -> None:
    """The translation attack's accuracy, a row for each d of training and a column for each d of the attack."""
    entries, paper = record["distances"], is_paper(record)
    rows = [[100 * cell["balanced_accuracy"]["mean"] for cell in entry["grid"].values()] for entry in entries.values()]
    shifts = list(next(iter(entries.values()))["grid"])
    low, high = min(map(min, rows)), max(map(max, rows))
    axes.imshow(rows, cmap="Blues", aspect="auto", vmin=low, vmax=2 * high - low + 1)  # pale, to be written on
    for i, (d, row) in enumerate(zip(entries, rows, strict=True)):
        for j, value in enumerate(row):
            text = f"{value:.1f}" + (f"\n({PAPER_GRID[shifts[j]][d]:.1f})" if paper else "")
            weight = "bold" if value == max(row) else "normal"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, fontweight=weight)
    axes.set_xticks(range(len(shifts)), shifts)
    axes.set_yticks(range(len(entries)), list(entries))
    axes.set(xlabel="d in the attack (bold: best of its row)", ylabel="d in training",
             title=f"translation attack (%){' and the paper (in brackets)' if paper else ''}")  # fmt: skip


def format_distance(d: str, entry: dict) -> str:
    """What is printed of one d of training."""
    models, grid = entry["models"], entry["grid"]
    lines = [f"d={d}: train accuracy {report.percent(models['train_accuracy'])}, "
             f"test {report.percent(models['test_accuracy'])}, epochs {models['epochs']}"]  # fmt: skip
    for name, row in entry["attacks"].items():
        lines.append(f"  {name:12}{row['queries_per_example']:8.1f}  {tables.format_accuracy(row)}")
    cells = (f"{at}: {100 * cell['balanced_accuracy']['mean']:.1f}" for at, cell in grid.items())
    return "\n".join([*lines, f"  translation by d of the attack: {', '.join(cells)}"])


def body() -> None:
    """Every d of training of the preset."""
    (changes, columns, distances, shifts), given, folder = common.parse_preset(
        PRESETS, "fig3", no_defense="augmentation is what figure 3 trains with"
    )
    names = flags.FLAGS.distances or [str(d) for d in distances]
    unknown = [d for d in names if d not in map(str, SHIFTS)]
    if unknown:
        raise ValueError(f"distances={unknown[0]}: expected whole numbers in {SHIFTS[0]}..{SHIFTS[-1]}")
    entries = {}
    for d in names:
        config = Config(**changes | given | {"defense": f"augmentation:{d}"})
        entries[d] = measure_distance(config, columns, shifts, folder / f"d-{d}")
        print(format_distance(d, entries[d]))
    settings = dataclasses.asdict(config) | {"defense": [entry["config"]["defense"] for entry in entries.values()]}
    record = {"config": settings, "dataset": config.dataset, "distances": entries}
    records.finish(folder, record, differs=DIFFERS, fig3=draw)


if __name__ == "__main__":
    common.run(body, distances="d of training, in pixels; default: those of the preset")
