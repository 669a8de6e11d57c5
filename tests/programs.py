"""Runs commands of the project as users run them, each in a process of its own, without importing jax every time.

A fork server imports the library once; every program is forked from it before any backend of jax has started.
"""

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 600


@functools.cache
def _server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.paper.fig5_6_defenses", "experiments.pretrain"])
    return context


def run_program(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """What `python -m MODULE ARGUMENTS` in the checkout exits with and prints: returncode, stdout, stderr (text)."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder) / name for name in ("stdout", "stderr"))
        process = _server().Process(target=_main, args=(module, arguments, environment, str(out), str(err)))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{module} {' '.join(arguments)}: still running after {SECONDS} s")
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out.read_text(), err.read_text())


def _main(module: str, arguments: tuple[str, ...], environment: dict[str, str], out: str, err: str) -> None:
    for name, stream in ((out, sys.stdout), (err, sys.stderr)):
        stream.flush()
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
    os.chdir(REPOSITORY)
    os.environ |= environment
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
