"""Table 1: attacks on image classifiers, undefended and under MemGuard.

Artefact: record.json and accuracies.png in --out/DATASET (default results/records/table1-PRESET).
Command:  python -m experiments.paper.table1_images --preset=smoke  digits; seconds
          python -m experiments.paper.table1_images --preset=cpu  MNIST, n = 1,000, the paper's CNN
          python -m experiments.paper.table1_images --preset=paper  MNIST, and CIFAR-100 with n = 30,000: an accelerator
          --only=DATASET runs one row; originals in --data_dir or $MI_JAX_DATA/DATASET.
Settings: three targets with one shadow model each; gap, confidence and augmentation (the best rotation or translation
          on shadow models) on all points; in the cpu preset boundary on 500 points a side and combined on 150, both of
          one trial. CIFAR-100 has 60,000 rows: members and non-members change places between target and shadow.
Differs:  DIFFERS, which the record holds too.
Expected: PAPER, accuracy in per cent. On MNIST gap 53.2, confidence 55.7, boundary 57.8, combined 58.7.
Hardware: MNIST: two cores, 160 minutes beside other runs.
Status:   MNIST run (results/records/table1-cpu/mnist); CIFAR-100 not yet
"""

from experiments import common
from experiments.paper import tables
from experiments.paper.tables import CHEAP, COSTLY, column

PAPER = tables.read_paper("table1")
DIFFERS = (
    *tables.DIFFERS,
    "cpu preset: boundary on 500 points a side and combined on 150, of one trial; the paper all points of three",
)
ON_TWO_CORES = {
    "boundary": column("boundary", num_points=500, num_trials=1),
    "combined": column("combined", num_points=150, num_trials=1),
}
TRIALS = {"num_targets": 3, "num_shadows": 1, "model": "cnn", "budget": 2409}
MNIST, CIFAR100 = TRIALS | {"n_train": 1000}, TRIALS | {"n_train": 30000, "split": "swap"}
SMOKE = {"num_targets": 2, "num_shadows": 1, "n_train": 40, "budget": 60}
PRESETS = {
    "smoke": {"digits": (SMOKE, CHEAP | COSTLY)},
    "cpu": {"mnist": (MNIST, CHEAP | ON_TWO_CORES)},
    "paper": {"mnist": (MNIST, CHEAP | COSTLY), "cifar100": (CIFAR100, CHEAP | COSTLY)},
}
body = tables.table_body(PRESETS, PAPER, "table1", DIFFERS)

if __name__ == "__main__":
    common.run(body, only="data sets of the preset; default: all of them")
