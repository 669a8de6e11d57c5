"""Prints and stores member-steps per second of every way to train an ensemble, beside PyTorch.

Artefact: a printed table and the record in --out (results/records/benchmark-training.json).
Command:  make benchmark-training    or    python -m experiments.benchmarks.training --torch_python=PATH --out=FILE
          --jobs=cnn runs one of the two jobs; without --torch_python PyTorch is left out.
Method:   two jobs, both with batches of 100 synthetic rows: 32 MLPs of Purchase's shape (600-128-100, 1,000 rows) and 8
          of the paper's CNNs (32x32x3). Each worker is a process of its own (JAX with the compiler setting of
          mi_jax/__init__.py, JAX without, PyTorch), measured in turn (`workers.py`). "x torch" is the median over the
          rounds of PyTorch's time over ours. Compilation is in the first run, reported apart as what it took beyond the
          median.
Goal:     a CNN step at 0.65 of PyTorch's speed.
Hardware: two cores, 8 minutes.
Status:   run, below target (an idle machine, load 1.4 to 1.7, 5 rounds, jaxlib 0.10.2, torch 2.13.0); ms a member-step,
          and how many times PyTorch's own loop (channels_last for the CNN):
          CNN: loop 190 (0.58), lax.map 192 (0.55), groups of 2 401, vmap 855; without the compiler setting loop 572
          (0.19); PyTorch 112 channels_last, 149 default layout, 257 vmap. Pinned to one core it is 0.58 too.
          MLP 600-128-100: loop 0.79 (1.7), lax.map 0.80, groups of 4 0.84, vmap 0.90, the setting changes nothing;
          PyTorch 1.44 loop, 0.61 vmap (2.2), the fastest of all. The default (loop) is the fastest of ours in both.
Notes:    NOTES.md, what bounds it and what was tried.
"""

import functools
import os
import platform
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from experiments.benchmarks import workers

BATCH, ADAM = 100, {"lr": 1e-3, "eps": 1e-7, "fused": True}  # of PyTorch; ours has the same rate and eps
JOBS = {  # steps_to_train: of one member in a typical run of the paper's recipe, for members per minute
    "mlp": {"members": 32, "rows": 1000, "epochs": 5, "shape": (600,), "classes": 100, "steps_to_train": 1000},
    "cnn": {"members": 8, "rows": 200, "epochs": 1, "shape": (32, 32, 3), "classes": 10, "steps_to_train": 1125},
}
WAYS = [  # (worker, job, strategy)
    ("jax", "mlp", "loop"), ("jax, setting off", "mlp", "loop"), ("torch", "mlp", "loop"),
    ("jax", "mlp", "lax.map"), ("jax", "mlp", "groups of 4"), ("jax", "mlp", "vmap"),
    ("jax, setting off", "mlp", "vmap"), ("torch", "mlp", "vmap"), ("jax", "cnn", "loop"),
    ("torch", "cnn", "loop channels_last"), ("jax", "cnn", "lax.map"), ("torch", "cnn", "loop"),
    ("jax", "cnn", "groups of 2"), ("torch", "cnn", "vmap"), ("jax", "cnn", "vmap"),
    ("jax, setting off", "cnn", "loop"),
]  # fmt: skip
NAMES = ("jax", "jax, setting off", "torch")
REFERENCE = {"mlp": ("torch", "mlp", "loop"), "cnn": ("torch", "cnn", "loop channels_last")}
GROUPS = {"loop": 1, "groups of 2": 2, "groups of 4": 4}


def make_data(job: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N *x], y [N], members [K n], the same in every worker."""
    random = np.random.default_rng(0)
    x = random.random((4 * job["rows"], *job["shape"]), np.float32)
    members = np.stack([random.permutation(len(x))[: job["rows"]] for _ in range(job["members"])])
    return x, random.integers(0, job["classes"], len(x)).astype(np.int32), members


def jax_worker(setting: bool) -> tuple[Callable[[str, str], float], dict]:
    """(run(job, strategy) -> seconds, versions) with this project's trainer."""
    before = os.environ.get("XLA_FLAGS", "")
    import mi_jax  # noqa: F401 (sets the compiler flag, which counts from the moment the backend starts)

    if not setting:
        os.environ["XLA_FLAGS"] = before
    import jax

    from mi_jax import models
    from mi_jax.training import ensemble, steps
    from mi_jax.types import Defense, Recipe

    @functools.partial(jax.jit, static_argnames=("spec",), donate_argnums=0)
    def mapped(states, inputs, x, y, *, spec):
        return jax.lax.map(lambda one: steps.run_block(*one, x, y, spec), (states, inputs))

    def run(kind: str, strategy: str) -> float:
        job = JOBS[kind]
        recipe = Recipe(batch_size=BATCH, max_epochs=job["epochs"])
        spec = steps.TrainSpec(models.build(kind, job["shape"], job["classes"]), recipe, Defense(name=""))
        x, y, members = map(jax.numpy.asarray, make_data(job))
        inputs = steps.MemberInputs(members, members[:, :0], ())
        keys, group = jax.random.split(jax.random.key(0), job["members"]), GROUPS.get(strategy, job["members"])
        parts = [slice(i, i + group) if group > 1 else i for i in range(0, job["members"], group)]
        init = functools.partial(ensemble._init_group, vmapped=group > 1, spec=spec)
        split = [jax.tree.map(lambda leaf, part=part: leaf[part], inputs) for part in parts]
        groups = [(init(keys[part], mine, x, y), mine) for part, mine in zip(parts, split, strict=True)]
        jax.block_until_ready(groups)
        block = functools.partial(ensemble._run_group_block, vmapped=group > 1)
        block = mapped if strategy == "lax.map" else block
        started = time.perf_counter()
        for state, mine in groups:
            jax.block_until_ready(block(state, mine, x, y, spec=spec))
        return time.perf_counter() - started

    return run, {"jax": jax.__version__, "xla_flags": os.environ.get("XLA_FLAGS", "")}


def torch_network(kind: str):
    """A network of `mi_jax/models/architectures.py` as a PyTorch module."""
    from torch import nn

    classes = JOBS[kind]["classes"]
    if kind == "mlp":
        return nn.Sequential(nn.Linear(600, 128), nn.Tanh(), nn.Linear(128, classes))
    layers = []
    for before, width in ((3, 32), (32, 64)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2304, 512), nn.ReLU(), nn.Linear(512, classes))


def torch_inputs(kind: str, layout) -> tuple:
    """(x, y, members, a network for each member) of a job, images NCHW in a memory layout."""
    import torch

    x, y, members = map(torch.from_numpy, make_data(JOBS[kind]))
    x = x.permute(0, 3, 1, 2).contiguous(memory_format=layout) if x.ndim == 4 else x
    return x, y.long(), members, [torch_network(kind).to(memory_format=layout) for _ in members]


def torch_loop(kind: str, layout) -> float:
    """The seconds of training member after member."""
    import torch

    x, y, members, networks = torch_inputs(kind, layout)
    started = time.perf_counter()
    for network, rows in zip(networks, members, strict=True):
        optimizer = torch.optim.Adam(network.parameters(), **ADAM)
        for _ in range(JOBS[kind]["epochs"]):
            for batch in rows[torch.randperm(len(rows))].split(BATCH):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
                optimizer.step()
    return time.perf_counter() - started


def torch_vmap(kind: str) -> float:
    """The seconds of training all members as one."""
    import torch

    x, y, members, networks = torch_inputs(kind, torch.contiguous_format)
    params, _ = torch.func.stack_module_state(networks)
    optimizer = torch.optim.Adam(params.values(), **ADAM)

    def loss(params, x, y):
        return torch.nn.functional.cross_entropy(torch.func.functional_call(networks[0], params, (x,)), y)

    gradient = torch.func.vmap(torch.func.grad(loss))
    started = time.perf_counter()
    for _ in range(JOBS[kind]["epochs"]):
        for batch in members[:, torch.randperm(members.shape[1])].split(BATCH, dim=1):
            gradients = gradient({name: p.detach() for name, p in params.items()}, x[batch], y[batch])
            for name, parameter in params.items():
                parameter.grad = gradients[name]
            optimizer.step()
    return time.perf_counter() - started


def torch_worker() -> tuple[Callable[[str, str], float], dict]:
    """(run(job, strategy) -> seconds, versions) with PyTorch, eager."""
    import torch

    def run(kind: str, strategy: str) -> float:
        layout = torch.channels_last if strategy.endswith("channels_last") else torch.contiguous_format
        return torch_vmap(kind) if strategy == "vmap" else torch_loop(kind, layout)

    return run, {"torch": torch.__version__, "threads": torch.get_num_threads()}


def make_worker(flags: Namespace) -> tuple[Callable[..., dict], dict]:
    """The worker that --worker names; its `seconds` are without making the inputs, its `cpu` with it."""
    run, versions = torch_worker() if flags.worker == "torch" else jax_worker(setting=flags.worker == "jax")
    versions |= {"python": platform.python_version()}
    return lambda job, strategy: {"seconds": run(job, strategy)}, versions


def summarise(first: dict, results: dict) -> list[dict]:
    """One row a way: medians over the rounds, and the median of the ratios to PyTorch within each round."""
    rows = []
    seconds = {way: [result["seconds"] for result in rounds] for way, rounds in results.items()}
    for way, rounds in results.items():
        job, median = JOBS[way[1]], statistics.median(seconds[way])
        steps = job["members"] * job["epochs"] * -(-job["rows"] // BATCH)
        reference = seconds.get(REFERENCE[way[1]])
        ratios = [theirs / ours for ours, theirs in zip(seconds[way], reference, strict=True)] if reference else None
        rows.append({
            "worker": way[0], "job": way[1], "strategy": way[2], "ms_per_member_step": 1e3 * median / steps,
            "member_steps_per_second": steps / median, "min_ms": 1e3 * min(seconds[way]) / steps,
            "members_per_minute": 60 * steps / median / job["steps_to_train"],
            "times_pytorch": statistics.median(ratios) if ratios else None,
            "cpu_ms": 1e3 * statistics.median(result["cpu"] for result in rounds) / steps,
            "first_run_extra_seconds": first[way]["seconds"] - median, "seconds": seconds[way],
        })  # fmt: skip
    return rows


def show(record: dict) -> None:
    """Prints a line a way."""
    print(f"{'job':5}{'worker':18}{'strategy':20}" + "  ms/step     min  CPU ms  steps/s  x torch  compile s")
    for row in record["results"]:
        ratio = "" if row["times_pytorch"] is None else f"{row['times_pytorch']:.2f}"
        times = f"{row['ms_per_member_step']:9.2f}{row['min_ms']:8.2f}{row['cpu_ms']:8.2f}"
        rates = f"{row['member_steps_per_second']:9.1f}{ratio:>9}{row['first_run_extra_seconds']:11.1f}"
        print(f"{row['job']:5}{row['worker']:18}{row['strategy']:20}{times}{rates}")
    load = record["load_average"]
    print(f"load average {load[0]:.2f} to {max(load):.2f}, {record['cores']} cores")


def measure(flags: Namespace, folder: Path) -> dict:
    """The record of one sitting."""
    pythons = {name: flags.torch_python if name == "torch" else sys.executable for name in NAMES}
    ways = [way for way in WAYS if way[1] in flags.jobs.split(",") and pythons[way[0]]]
    with ExitStack() as stack:
        started = {name: stack.enter_context(workers.Worker(pythons[name], "training", name, folder))
                   for name in dict.fromkeys(way[0] for way in ways)}  # fmt: skip
        jobs = {way: functools.partial(started[way[0]], *way[1:]) for way in ways}
        first, results, load = workers.run_rounds(jobs, flags.rounds)
    return {"versions": {name: worker.versions for name, worker in started.items()}, "cores": os.cpu_count(),
            "machine": platform.machine(), "load_average": load, "rounds": flags.rounds,
            "results": summarise(first, results)}  # fmt: skip


if __name__ == "__main__":
    workers.main(__doc__, NAMES, make_worker, measure, show, needs_torch=False, jobs=("mlp,cnn", "which of mlp, cnn"))
