"""How close queries of an attack come to the bare forward-pass rate of the target, and what memory they take.

Artefact: results/records/benchmark-queries.json and a printed table.
Command:  python -m experiments.benchmarks.queries [--rounds=5] [--out=FILE]
Method:   the paper's CIFAR CNN with untrained weights (speed does not depend on them), 256 random images labelled
          as the network labels them, so that every copy is measured. Each round runs, one after the other: a bare
          forward pass over prepared queries, the noise attack, the translation attack; ratios are within a round,
          medians over rounds. Compilation is timed apart, as the first run of each.
          Memory: the peak of a process that makes 100, or 10,000, noisy queries for each of 16 points.
Goal:     noise >= 0.85 and translation >= 0.95 of the bare rate; memory flat.
Hardware: two cores, 5 minutes.
"""

import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.benchmarks import workers
from mi_jax import cli, environment, models, perturbations
from mi_jax.attacks import measures, one_threshold
from mi_jax.querying import driver, oracle, sizes
from mi_jax.types import Attack

FLAGS = flags.FLAGS
SHAPE, C, POINTS, NOISY, COPIED = (32, 32, 3), 10, sizes.POINTS, 50, 10
KEY = jax.random.key(0)


def targets():
    """(oracle, images [P *x], their labels [P])."""
    model = models.build("cnn", SHAPE, C)
    x = np.random.default_rng(0).random((POINTS, *SHAPE), np.float32)
    target = oracle.model_oracle(model, model.init(KEY, x[:1]), C)
    return target, x, np.asarray(target.answer(x, POINTS))


def attack(measure, neighbours=perturbations.only_itself) -> Attack:
    """An attack without a score."""
    return Attack("benchmark", "label", neighbours, measure, one_threshold.last_feature)


def seconds(function: Callable, *arguments) -> float:
    """Wall time of one call, until its result is there."""
    started = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - started


def jobs() -> dict[str, tuple[Callable, int]]:
    """name -> (function without arguments, queries it makes)."""
    target, x, y = targets()
    noise = attack(measures.hit_rate(perturbations.gaussian_noise, 0.06, NOISY))
    translation = attack(measures.label_is_correct(), perturbations.translate(1))
    many, labels = np.repeat(x, COPIED, 0), np.repeat(y, COPIED)
    prepared = jnp.asarray(np.repeat(x, 25, 0))  # as many rows as one round of the noise attack queries at once

    def forward():
        return [target.answer(prepared, len(prepared)) for _ in range(2)]

    def query(what, x, y):
        return lambda: driver.query(target, what, KEY, x, y, np.arange(len(x))).queries.sum()

    return {"forward": (forward, 2 * len(prepared)), "noise": (query(noise, x, y), POINTS * (NOISY + 1)),
            "translation": (query(translation, many, labels), len(many) * 5)}  # fmt: skip


def measure_rates(rounds: int) -> dict:
    """Queries per second of every job, interleaved, and each as a share of the bare rate of its round."""
    work = jobs()
    timed = {name: functools.partial(seconds, function) for name, (function, _) in work.items()}
    compiling, times, _ = workers.run_rounds(timed, rounds)
    rates = {name: [queries / t for t in times[name]] for name, (_, queries) in work.items()}
    shares = {name: [r / bare for r, bare in zip(rates[name], rates["forward"], strict=True)] for name in work}
    return {name: {"queries_per_second": statistics.median(rates[name]),
                   "share_of_forward": statistics.median(shares[name]), "shares": shares[name],
                   "first_run_seconds": compiling[name]} for name in work}  # fmt: skip


def peak_megabytes(queries: int) -> float:
    """Peak resident memory of a fresh process that makes so many noisy queries for each of 16 points."""
    command = [sys.executable, "-m", "experiments.benchmarks.queries", f"--memory_of={queries}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def body() -> None:
    """The benchmark, or (--memory_of) the process whose memory is measured."""
    if FLAGS.memory_of:
        target, x, y = targets()
        what = attack(measures.hit_rate(perturbations.gaussian_noise, 0.06, FLAGS.memory_of))
        driver.query(target, what, KEY, x[:16], y[:16], np.arange(16), points_at_once=16)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    peaks = {str(queries): round(peak_megabytes(queries), 1) for queries in (100, 10_000)}
    record = {"environment": environment.environment(), "rates": measure_rates(FLAGS.rounds), "peak_megabytes": peaks}
    for name, row in record["rates"].items():
        print(f"{name:12} {row['queries_per_second']:8.0f} queries/s  {row['share_of_forward']:.3f} of forward  "
              f"first run {row['first_run_seconds']:.1f} s")  # fmt: skip
    print("peak memory, MB:", peaks)
    Path(FLAGS.out).parent.mkdir(parents=True, exist_ok=True)
    Path(FLAGS.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 5, "interleaved rounds")
    flags.DEFINE_integer("memory_of", 0, "measure this process making so many queries per example")
    flags.DEFINE_string("out", "results/records/benchmark-queries.json", "file of the record")
    app.run(lambda argv: sys.exit(cli.main(body)(argv)))
