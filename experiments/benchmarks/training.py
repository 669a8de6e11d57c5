"""Prints and stores member-steps per second of every way to train an ensemble, beside PyTorch.

    python -m experiments.benchmarks.training --torch_python=PATH --out=FILE

Two jobs: 32 MLPs of Purchase's shape (600-128-100, 1,000 rows) and 8 of the paper's CNNs (32x32x3), batch 100,
synthetic rows. Every worker is a process of its own (JAX with the compiler setting of `mi_jax/__init__.py`, JAX
without, PyTorch); they run in turn, A B C A B C, so that a change in the machine's load hits all alike. Read the
ratios of one run, not times across runs. Compilation and a first run are timed apart.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

JOBS = {
    "mlp": {"members": 32, "rows": 1000, "epochs": 5, "shape": (600,), "classes": 100, "steps_to_train": 1000},
    "cnn": {"members": 8, "rows": 200, "epochs": 1, "shape": (32, 32, 3), "classes": 10, "steps_to_train": 1125},
}
BATCH = 100
STRATEGIES = {
    "jax": ["loop", "map", "groups of 2", "groups of 4", "vmap"],
    "jax, setting off": ["loop", "vmap"],
    "torch": ["loop", "loop channels_last", "vmap"],
}
SKIPPED = {("torch", "mlp", "loop channels_last"), ("jax, setting off", "cnn", "vmap")}


def data(job: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N *x], y [N], members [K n], the same in every worker."""
    random = np.random.default_rng(0)
    num_rows = 4 * job["rows"]
    x = random.random((num_rows, *job["shape"]), np.float32)
    x = np.round(x) if len(job["shape"]) == 1 else x
    members = np.stack([random.permutation(num_rows)[: job["rows"]] for _ in range(job["members"])])
    return x, random.integers(0, job["classes"], num_rows).astype(np.int32), members


def jax_runner(setting: bool):
    """run(kind, strategy) -> seconds that JAX took for the job."""
    before = os.environ.get("XLA_FLAGS", "")
    import mi_jax  # noqa: F401 (sets the compiler flag)

    if not setting:
        os.environ["XLA_FLAGS"] = before
    import jax

    from mi_jax import models, training
    from mi_jax.types import Recipe

    @functools.partial(jax.jit, static_argnames=("model", "recipe"))
    def mapped(states, rows, x, y, *, model, recipe):
        return jax.lax.map(lambda a: training._block(*a, x, y, None, model, recipe), (states, rows))

    def run(kind: str, strategy: str) -> float:
        job = JOBS[kind]
        model = models.build(kind, job["shape"], job["classes"])
        recipe = Recipe(batch_size=BATCH, max_epochs=job["epochs"])
        x, y, members = map(jax.numpy.asarray, data(job))
        group = {"loop": 1, "groups of 2": 2, "groups of 4": 4}.get(strategy, job["members"])
        keys = jax.random.split(jax.random.key(0), job["members"])
        parts = [slice(i, i + group) if group > 1 else i for i in range(0, job["members"], group)]
        start = functools.partial(training._begin_group, model=model, recipe=recipe, vmapped=group > 1)
        states = jax.block_until_ready([start(keys[part], x[:1]) for part in parts])
        rows = [members[part] for part in parts]
        block = functools.partial(training._block_of_group, vmapped=group > 1)
        began = time.perf_counter()
        for state, own in zip(states, rows, strict=True):
            step = mapped if strategy == "map" else functools.partial(block, penalty=None)
            jax.block_until_ready(step(state, own, x_pool=x, y_pool=y, model=model, recipe=recipe)
                                  if strategy != "map" else mapped(state, own, x, y, model=model, recipe=recipe))
        return time.perf_counter() - began

    return run, {"version": jax.__version__, "xla_flags": os.environ.get("XLA_FLAGS", "")}
