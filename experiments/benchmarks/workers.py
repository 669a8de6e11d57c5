"""What the benchmarks share: processes that take one measurement at a time, so that libraries run in turn, A B C A B C.

A change in the machine's load then hits all of them. Read the ratios of one sitting, not times across sittings.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def main(doc: str, names: Sequence[str], make_worker: Callable, measure: Callable, show: Callable[[dict], None],
         *, rounds: int = 5, needs_torch: bool = True, **options: tuple[Any, str]) -> None:  # fmt: skip
    """Runs a benchmark, or with --worker=NAME one of its workers, as the command line says.

    `make_worker(flags)` -> the arguments of `serve`; `measure(flags, folder)` -> the record of one sitting, with
    `folder` for what workers read and write; `options`: further flags -> (default, help).
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--torch_python", help="a Python that has requirements.txt of this folder installed")
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds after the first, which compiles")
    parser.add_argument("--work", help="folder of what the workers share; default: a temporary one")
    parser.add_argument("--out", help="a JSON file for the record")
    parser.add_argument("--worker", choices=names, help=argparse.SUPPRESS)
    for name, (default, text) in options.items():
        parser.add_argument(f"--{name}", type=type(default or ""), default=default, help=text)
    flags = parser.parse_args()
    if flags.worker:
        return serve(*make_worker(flags))
    if needs_torch and not flags.torch_python:
        parser.error("--torch_python is missing: make benchmark-NAME installs a Python for it and names it")
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(flags, Path(flags.work or scratch))
    show(record)
    if flags.out:
        Path(flags.out).write_text(json.dumps(record, indent=1) + "\n")


def serve(run: Callable[..., dict], versions: dict) -> None:
    """Answers each JSON list on stdin, the arguments of `run`, with its results, wall and CPU seconds."""
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    print(json.dumps(versions), file=out, flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        result = run(*json.loads(line))
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(seconds | result), file=out, flush=True)


class Worker:
    """A benchmark of this folder run by some Python with --worker=NAME; called like `run` of `serve`."""

    def __init__(self, python: str, benchmark: str, name: str, folder: Path):
        command = [python, "-m", f"experiments.benchmarks.{benchmark}", f"--worker={name}", f"--work={folder}"]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def __call__(self, *arguments) -> dict:
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker {self.name} ended")
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()


def run_rounds(jobs: dict[str, Callable[[], Any]], rounds: int, compiled: Collection[str] | None = None):
    """(results of a first round of the jobs that compile, results [rounds] of each job, load averages), in turn."""
    first, results, load = {}, {name: [] for name in jobs}, [os.getloadavg()[0]]
    for turn in range(rounds + 1):
        print(f"round {turn} of {rounds}, load average {load[-1]:.2f}", file=sys.stderr, flush=True)
        for name, job in jobs.items():
            if turn:
                results[name].append(job())
            elif compiled is None or name in compiled:
                first[name] = job()
        load.append(os.getloadavg()[0])
    return first, results, load


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package."""
    return {name: importlib.metadata.version(name) for name in packages}


def read_problem(folder: str | Path) -> dict[str, np.ndarray]:
    """The arrays of problem.npz, from which all workers of a benchmark start."""
    with np.load(Path(folder) / "problem.npz") as stored:
        return dict(stored)
