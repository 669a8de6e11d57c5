"""Plants each fault of `faults.py` in a copy of the package, runs its test there and writes docs/mutants.md.

    python -m tests.mutants          all faults; about five minutes on two cores
    python -m tests.mutants 3 17     these faults alone, and no page

A fault is caught if its test fails. All tests must first pass on an unchanged copy, or one that fails anyway would seem
to catch a fault. The exit status is 1 if more than two faults survive.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.faults import FAULTS, Fault

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "mutants.md"
COPIED = ("mi_jax", "experiments", "tests", "pyproject.toml")
UNCHANGED = "unchanged"  # the first copy, which the others are made of: an edit meanwhile does no harm
WORKERS, SURVIVORS, SECONDS = 2, 2, 600  # SECONDS: a run of pytest at most

INTRODUCTION = """# Planted faults

Does the test suite notice a mistake? `make mutants` plants one fault at a time in a copy of the package and runs the
test that should notice it (`tests/mutants/faults.py` has both). A fault is caught if the test fails; all of these tests
pass on the unchanged package. {caught} of {all} faults are caught.

| | File in `mi_jax/` | Fault | Caught by |
|---|---|---|---|
"""


def main(numbers: list[int]) -> int:
    """Returns the exit status of the command, for the faults with these numbers (none: all)."""
    chosen = [(number, fault) for number, fault in enumerate(FAULTS, 1) if not numbers or number in numbers]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        _check_unchanged(Path(folder), [fault for _, fault in chosen])
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            outcomes = list(pool.map(lambda entry: _outcome(Path(folder), *entry), chosen))
    caught = sum(outcome is not None for outcome in outcomes)
    print(f"{caught} of {len(chosen)} faults are caught")
    if not numbers:
        PAGE.write_text(page(outcomes))
    return int(caught < len(chosen) - (0 if numbers else SURVIVORS))


def page(outcomes: list[str | None]) -> str:
    """Returns docs/mutants.md. `outcomes` are the names of the tests that failed, None where no test did."""
    caught = sum(outcome is not None for outcome in outcomes)
    rows = [
        f"{row(number, fault)} {f'`{outcome}`' if outcome else 'none: it **survived**'} |\n"
        for number, (fault, outcome) in enumerate(zip(FAULTS, outcomes, strict=True), 1)
    ]
    return INTRODUCTION.format(caught=caught, all=len(outcomes)) + "".join(rows)


def row(number: int, fault: Fault) -> str:
    """Returns the row of a fault on the page, without the test."""
    return f"| {number} | `{fault.file}` | {fault.wrong} |"


def planted(source: str, fault: Fault) -> str:
    """Returns the source with the fault in it. ValueError unless the old text occurs exactly once."""
    count = source.count(fault.old)
    if count != 1:
        raise ValueError(f"{fault.file}: {count} occurrences of {fault.old!r}, expected exactly one")
    return source.replace(fault.old, fault.new)


def _check_unchanged(folder: Path, faults: list[Fault]) -> None:
    """SystemExit with the output of pytest if a test does not pass without any fault."""
    tests = sorted({fault.test for fault in faults})
    copy = _copied(REPOSITORY, folder / UNCHANGED)
    run = _run_tests(copy, "-n", str(WORKERS), "--dist", "loadfile", *tests)
    if run.returncode:
        raise SystemExit(f"{run.stdout}\n{run.stderr}\nwithout a fault: expected all tests to pass")
    print(f"without a fault: {run.stdout.strip().splitlines()[-1]}", flush=True)


def _outcome(folder: Path, number: int, fault: Fault) -> str | None:
    """The name of the test that failed with the fault in place; None if it passed or ran for too long."""
    copy = _copied(folder / UNCHANGED, folder / str(number))
    source = copy / "mi_jax" / fault.file
    source.write_text(planted(source.read_text(), fault))
    try:
        run = _run_tests(copy, fault.test)
    except subprocess.TimeoutExpired:
        run = subprocess.CompletedProcess((), 0)
    shutil.rmtree(copy)
    failed = re.search(r"^FAILED tests/(.+?)(?: - .*)?$", run.stdout or "", re.MULTILINE)
    if run.returncode not in (0, 1) or run.returncode and not failed:
        raise SystemExit(f"{run.stdout}\n{run.stderr}\nfault {number}: expected a test that passes or fails")
    outcome = failed[1] if failed else None
    print(f"{number:2}  {fault.file:24}  {fault.wrong}\n    {outcome or 'SURVIVED'}", flush=True)
    return outcome


def _copied(source: Path, folder: Path) -> Path:
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source / name, folder / name)
    return folder


def _run_tests(copy: Path, *arguments: str) -> subprocess.CompletedProcess:
    """pytest in a copy, whose package it imports. All copies share their compiled programs."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "JAX_COMPILATION_CACHE_DIR": str(copy.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    arguments = [f"tests/{argument}" if "::" in argument else argument for argument in arguments]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS)


if __name__ == "__main__":
    raise SystemExit(main([int(number) for number in sys.argv[1:]]))
