"""How close an audit of a model trained elsewhere comes to calling it in a plain loop, and what memory it takes.

Artefact: results/records/benchmark-any_model.json and a printed line.
Command:  python -m experiments.benchmarks.any_model [--rounds=3] [--out=FILE]
Method:   a forest behind a pipeline on 100,000 rows by 200 columns (real, integer, category, decimals, bool), half of
          them members; gap and noise on 500 rows of each side. Each round runs the audit and then calls the model in a
          plain loop over as many rows in batches of the same sizes; ratios are within a round, medians over rounds. The
          first audit, which compiles, is timed apart. Memory is the peak of the process, with the data frame in it.
Goal:     at least 0.8 of the plain loop.
Hardware: two cores, 10 minutes.
"""

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

import mi_jax
from mi_jax import cli, environment

FLAGS = flags.FLAGS
ROWS, COLUMNS, TRAINED, POINTS, BUDGET = 100_000, 200, 5000, 500, 50


def table() -> tuple[Any, np.ndarray]:
    """(a data frame [ROWS COLUMNS] of five kinds of columns, labels that follow from two of them)."""
    import pandas as pd

    rng, columns = np.random.default_rng(0), {}
    for i in range(COLUMNS // 5):
        columns |= {
            f"real{i}": rng.normal(size=ROWS),
            f"integer{i}": rng.integers(0, 1000, ROWS),
            f"category{i}": rng.choice(list("abcdefgh"), ROWS),
            f"decimal{i}": np.round(rng.random(ROWS) * 100, 2),
            f"bool{i}": rng.random(ROWS) < 0.2,
        }
    frame = pd.DataFrame(columns)
    return frame, (frame["real0"] + frame["integer0"] / 500 + rng.normal(size=ROWS) > 1).astype(int).to_numpy()


def main() -> None:
    rows, y = table()
    coded = make_column_transformer(
        (OrdinalEncoder(), make_column_selector(dtype_exclude=["number", "bool"])), remainder="passthrough"
    )
    forest = RandomForestClassifier(100, min_samples_leaf=2, n_jobs=1, random_state=0)
    model = make_pipeline(coded, forest).fit(rows[:TRAINED], y[:TRAINED])
    half, batches = ROWS // 2, []

    def predict(x):
        batches.append(len(x))
        return model.predict(x)

    def audit() -> float:
        started = time.perf_counter()
        mi_jax.audit_model(predict, (rows[:half], y[:half]), (rows[half:], y[half:]), attacks=["gap", "noise"],
                           budget=BUDGET, num_points=POINTS)  # fmt: skip
        return time.perf_counter() - started

    def plain() -> float:
        started = time.perf_counter()
        for size in batches:
            model.predict(rows[:size])
        return time.perf_counter() - started

    first, rounds = audit(), []
    for _ in range(FLAGS.rounds):
        batches.clear()
        seconds = audit()
        rounds.append({"audit": seconds, "plain": plain(), "rows": sum(batches), "batches": len(batches)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    record = {
        "environment": environment.environment(),
        "method": "one audit and one plain loop a round, interleaved; medians; the first audit apart",
        "first_seconds": first,
        "rounds": rounds,
        "share_of_plain_loop": statistics.median(one["plain"] / one["audit"] for one in rounds),
        "peak_bytes": peak,
        "frame_bytes": int(rows.memory_usage(deep=True).sum()),
    }
    Path(FLAGS.out).write_text(json.dumps(record, indent=1) + "\n")
    print(
        f"{record['share_of_plain_loop']:.2f} of a plain loop over {rounds[0]['rows']:,} rows; peak {peak / 1e9:.1f} GB"
    )


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 3, "rounds", lower_bound=1)
    flags.DEFINE_string("out", "results/records/benchmark-any_model.json", "file of the record")
    app.run(lambda argv: sys.exit(cli.main(main)(argv)), flags_parser=cli.parse)
