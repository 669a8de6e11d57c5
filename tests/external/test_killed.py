"""A command killed at random moments and run again gives what one run gives, and asks nothing finished again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mi_jax.evaluation import report
from tests.external import wine
from tests.querying.faulty_server import Faulty, serving

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = 20


def predict(rows):
    return np.array([int(sum(row) * 1000) % 3 for row in rows.astype(float).tolist()])


@pytest.mark.slow  # three minutes
def test_twenty_kills_change_neither_scores_nor_counts(tmp_path):
    frame = wine.frame.assign(kind=wine.bunch.target)
    frame[::2].to_csv(tmp_path / "in.csv", index=False)
    frame[1::2].to_csv(tmp_path / "out.csv", index=False)
    draw, faulty, kills = random.Random(0), Faulty(predict), 0
    slow = Faulty(lambda rows: (time.sleep(0.02), predict(rows))[1])

    def command(url, out):
        given = ["audit-model", f"--target={url}", f"--members={tmp_path}/in.csv", f"--nonmembers={tmp_path}/out.csv",
                 "--label=kind", "--attacks=gap,noise", "--budget=30", f"--out={tmp_path / out}", "--name=mine",
                 "--rows_per_request=64"]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen([sys.executable, "-m", "mi_jax", *given], env=environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)  # fmt: skip

    with serving(faulty, "/invocations") as url:
        done = command(url, "whole")
        assert done.wait(600) == 0, done.stderr.read()
    with serving(slow, "/invocations") as url:
        while kills < KILLS:
            running, before = command(url, "killed"), slow.rows
            while running.poll() is None and slow.rows == before:
                time.sleep(0.01)
            time.sleep(draw.random())
            running.send_signal(signal.SIGKILL)
            if running.wait() == 0:
                break
            kills += 1
        done = command(url, "killed")
        assert done.wait(600) == 0, done.stderr.read()
    (whole, whole_scores), (killed, killed_scores) = (report.read(tmp_path / out) for out in ("whole", "killed"))
    for name, values in whole_scores.items():
        np.testing.assert_array_equal(killed_scores[name], values)
    assert kills >= 5, "the runs were too short to be killed"
    queries = killed["queries"]
    asked_twice = slow.rows - faulty.rows
    assert asked_twice <= queries["repeated"] + queries["failed"] + 64 * kills, json.dumps(queries)
