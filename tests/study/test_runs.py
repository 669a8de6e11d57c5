"""Progress: a stage is timed by its own speed; a terminal gets a bar and a file a line, every ten seconds at most."""

import io
import re

import pytest

from mi_jax import data, environment
from mi_jax.study import runs
from mi_jax.types import Recipe


class Clock:
    """A clock that stands still but for `seconds`."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runs.time, "monotonic", clock)
    return clock


def test_a_file_gets_a_line_every_ten_seconds_at_most(clock, capsys):
    with runs.ProgressBar("attacking", "query") as progress:
        for done in range(1, 801):
            clock.seconds += 0.125
            progress(done, 800, "noise (2 of 3)")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and not any("\r" in line for line in lines)
    first = "attacking: 80 of 800 queries; noise (2 of 3); about 0:01:30 left of this stage"
    assert lines[0] == first and lines[-1].endswith("about 0:00:00 left of this stage")


def test_the_time_left_is_that_of_the_stage_by_its_own_speed(clock):
    """A slow first attack of few queries says nothing about the next, which makes a thousand a second."""
    progress = runs.ProgressBar("attacking", "query")
    progress(0, 10, "gap (1 of 2)")
    clock.seconds += 20
    progress(10, 10, "gap (1 of 2)")
    assert "about 0:00:00 left" in progress.line()
    progress(0, 100_000, "noise (2 of 2)")
    clock.seconds += 5
    progress(5_000, 100_000, "noise (2 of 2)")
    assert progress.line() == ("attacking: 5,000 of 100,000 queries; noise (2 of 2); about 0:01:35 left of this stage")
    again = runs.ProgressBar("attacking", "query")  # two attacks of as many queries
    again(10, 10, "gap (1 of 2)")
    clock.seconds += 4
    again(0, 10, "confidence_threshold (2 of 2)")
    clock.seconds += 1
    again(5, 10, "confidence_threshold (2 of 2)")
    assert "about 0:00:01 left" in again.line()


def test_units_are_counted_without_a_total_and_before_the_first_is_done(clock):
    progress = runs.ProgressBar("training", "model")
    assert progress.line() == "training: 0 models"
    progress(0, 4, "epoch 3")
    assert progress.line() == "training: 0 of 4 models; epoch 3"
    progress(1, 4, "epoch 9")  # the time before the first call counts: it is that of compiling
    clock.seconds += 2
    progress(2, 4, "epoch 12")
    assert progress.line() == "training: 2 of 4 models; epoch 12; about 0:00:02 left of this stage"


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(runs.sys, "stderr", terminal)
    with runs.ProgressBar("attacking", "query") as progress:
        progress(5, 10, "gap (1 of 2)")
        progress(10, 10, "gap (1 of 2)")
        progress(3, 7, "noise (2 of 2)")
    last = terminal.getvalue().rstrip().rpartition("\r")[2]
    assert "3.00/7.00" in last and "noise (2 of 2)" in last and "43%" in last


def test_the_environment_of_a_run_says_when_and_by_what_command_it_was_started(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x/mi_jax", "audit", "--dataset=npz:my data.npz"])
    found = environment.environment()
    assert found["command"] == "mi_jax audit '--dataset=npz:my data.npz'"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", found["date"])
    monkeypatch.setattr("sys.argv", ["mine.py"])
    other = environment.environment()
    assert "command" not in other and other.keys() == found.keys() - {"command"}
    assert other["mi_jax"] == "0.1.0" and other.keys() > {"python", "jax", "numpy", "device", "commit"}


def test_the_digest_of_a_run_does_not_change_with_time_command_or_commit(monkeypatch):
    dataset = data.load("synthetic:purchase:200")

    def digest() -> str:
        return runs.run_environment(runs.Config(), dataset, Recipe())["run_digest"]

    before, now = digest(), environment.environment()
    changed = {"date": "1999", "command": "other", "commit": "0"}
    monkeypatch.setattr(runs, "environment", lambda: now | changed)
    assert digest() == before
    monkeypatch.setattr(runs, "environment", lambda: now | {"jax": "0.0.1"})
    assert digest() != before
