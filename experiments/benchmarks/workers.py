"""Processes that are asked one measurement at a time, so that several libraries can be measured in turn."""

import json
import subprocess
import sys
import time
from collections.abc import Callable


def serve(run: Callable[..., dict], versions: dict) -> None:
    """Answers each JSON list on stdin, the arguments of `run`, with its results, wall and CPU seconds."""
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    print(json.dumps(versions), file=out, flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        found = run(*json.loads(line))
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(took | found), file=out, flush=True)


class Worker:
    """A module of this folder run by some Python as `python -m MODULE --worker=NAME`; asked like a function."""

    def __init__(self, python: str, module: str, name: str, *options: str):
        command = [python, "-m", module, f"--worker={name}", *options]
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

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
