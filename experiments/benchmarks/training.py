"""Prints and stores member-steps per second of every way to train an ensemble, beside PyTorch.

    python -m experiments.benchmarks.training --torch_python=PATH --out=FILE

Two jobs, both with batches of 100 synthetic rows: 32 MLPs of Purchase's shape (600-128-100, 1,000 rows) and 8 of
the paper's CNNs (32x32x3). Each worker is a process of its own (JAX with the compiler setting of mi_jax/__init__.py,
JAX without, PyTorch) and they run in turn, A B C A B C, so that a change in the machine's load hits all alike. Read
the ratios of one sitting ("x torch": the median over the rounds of PyTorch's time over ours), not times across
sittings. Compilation is in the first run, reported apart as what it took beyond the median.

**Seen** (results/records/benchmark-training.json: an idle machine, load 1.4 to 1.7, 5 rounds, jaxlib 0.10.2, torch
2.13.0, two cores), ms a member-step, and how many times PyTorch's own loop (channels_last for the CNN):
* CNN: loop 190 (0.58), lax.map 192 (0.55), groups of 2 401, vmap 855; without the compiler setting loop 572 (0.19);
  PyTorch 112 channels_last, 149 default layout, 257 vmap. The goal of 0.65 is NOT reached; pinned to one core it is
  0.58 too. The default (loop) is the fastest of ours.
* MLP 600-128-100: loop 0.79 (1.7), lax.map 0.80, groups of 4 0.84, vmap 0.90, the setting changes nothing; PyTorch
  1.44 loop, 0.61 vmap (2.2): the fastest of all is PyTorch's vmap, the fastest of ours the default (loop).
* Not idle, but in turn, groups of 1 / 4 / 8 / all, ms a member-step:
  600-128-100, 1,000 rows 1.71 (1.12) / 2.41 (1.77) / 2.32 (1.84) / 2.50 (1.96); 446-128-128-30, 1,200 rows 0.85 /
  0.88 / 1.19 of 8 members; 64-128-10, 100 rows 0.187 / 0.166 / 0.170 / 0.172. So a CPU trains members one by one:
  never clearly slower, at once as fast as a single run can be, and nobody waits for the last to stop.
  Not in turn, single runs in a quieter minute, loop / lax.map / groups of 4 / vmap: 0.78 / 0.79 / 0.79 / 0.90 and
  PyTorch's loop / vmap 1.08 / 0.62: the vmap of PyTorch was the fastest of all there.

**What keeps the CNN behind.** CPU ms on one core of a step of 300: forward 60, gradients for the images of the last
three convolutions 74, for the kernels 119, all else 47. A scan, its cond and the gather cost nothing that shows.
Per layer, gradient for the kernel, with how much of it is the transposition of the images to [I H W N]:
c1 10.5 (1.4), c2 59 (29), c3 19 (8), c4 30 (10). The convolution itself takes 26 and 19 for c2 and c4, about what
PyTorch needs for the whole (11 and 8 on two cores). So the transposition is the gap: images of 128 KiB lie a power
of two apart, and every element is a cache line of its own. In three steps run one by one it takes 12 + 5 + 4 = 21,
but XLA fuses them back into one loop (an optimization barrier is removed before fusion); with the middle step in a
loop 19, not tried in a whole step, where it might give 8 %. Reading the images in place, as oneDNN does, would need
a kernel called through XLA's foreign function interface, or a compiler that does so.
With every image followed by 64 idle bytes (a pad of 1 ms) the c2 gradient takes 38 ms of two cores instead of 47, least
of 7; c3 and c4 gain nothing. About 4 % of a step, not adopted yet, and not enough for 0.65.

Tried for the kernel gradient, c2 / c4, ms of two cores (least of 7), none better than the plain 43 / 19: batch
padded to 112 61 / 24 or 128 67 / 28; nine products of shifted images 153 / 81; the same on contiguous flattened
rows 95 / 61; three products of three copies 233 / 93; im2col and one product 135 / 64; four chunks of 25 42 / 17
(noise). One core: three shifted copies of the output gradient as extra channels 77 / 56 against 59 / 30, and seconds
for c1 and c3. One-dimensional convolutions over rows or columns 3 to 5 times slower. Pooling, both directions,
first / second: strided slices 3.1 / 1.4, reshape 10.3 / 4.6, window 50 / 9.2. Bias gradients: 3.8 as one sum, 0.8 in
two steps (four layers, 1 to 2 % of a step, not adopted). Adam 3.9, three products of the dense layer 7.3.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import time

import numpy as np

from experiments.benchmarks.workers import Worker, serve

BATCH = 100
JOBS = {  # steps_to_train: of one member in a typical run of the paper's recipe, for members per minute
    "mlp": {"members": 32, "rows": 1000, "epochs": 5, "shape": (600,), "classes": 100, "steps_to_train": 1000},
    "cnn": {"members": 8, "rows": 200, "epochs": 1, "shape": (32, 32, 3), "classes": 10, "steps_to_train": 1125},
}
WAYS = [  # (worker, job, strategy)
    ("jax", "mlp", "loop"),
    ("jax, setting off", "mlp", "loop"),
    ("torch", "mlp", "loop"),
    ("jax", "mlp", "lax.map"),
    ("jax", "mlp", "groups of 4"),
    ("jax", "mlp", "vmap"),
    ("jax, setting off", "mlp", "vmap"),
    ("torch", "mlp", "vmap"),
    ("jax", "cnn", "loop"),
    ("torch", "cnn", "loop channels_last"),
    ("jax", "cnn", "lax.map"),
    ("torch", "cnn", "loop"),
    ("jax", "cnn", "groups of 2"),
    ("torch", "cnn", "vmap"),
    ("jax", "cnn", "vmap"),
    ("jax, setting off", "cnn", "loop"),
]
REFERENCE = {"mlp": ("torch", "mlp", "loop"), "cnn": ("torch", "cnn", "loop channels_last")}
GROUPS = {"loop": 1, "groups of 2": 2, "groups of 4": 4}


def data(job: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N *x], y [N], members [K n], the same in every worker."""
    random = np.random.default_rng(0)
    x = random.random((4 * job["rows"], *job["shape"]), np.float32)
    members = np.stack([random.permutation(len(x))[: job["rows"]] for _ in range(job["members"])])
    return x, random.integers(0, job["classes"], len(x)).astype(np.int32), members


def jax_worker(setting: bool):
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
        x, y, members = map(jax.numpy.asarray, data(job))
        owns = steps.MemberInputs(members, members[:, :0], ())
        keys, group = jax.random.split(jax.random.key(0), job["members"]), GROUPS.get(strategy, job["members"])
        parts = [slice(i, i + group) if group > 1 else i for i in range(0, job["members"], group)]
        begin = functools.partial(ensemble._init_group, vmapped=group > 1, spec=spec)
        own = [jax.tree.map(lambda leaf, part=part: leaf[part], owns) for part in parts]
        inputs = [(begin(keys[part], mine, x, y), mine) for part, mine in zip(parts, own, strict=True)]
        jax.block_until_ready(inputs)
        block = functools.partial(ensemble._run_group_block, vmapped=group > 1)
        block = mapped if strategy == "lax.map" else block
        began = time.perf_counter()
        for state, mine in inputs:
            jax.block_until_ready(block(state, mine, x, y, spec=spec))
        return time.perf_counter() - began

    return run, {"jax": jax.__version__, "xla_flags": os.environ.get("XLA_FLAGS", "")}


def torch_networks(kind: str, job: dict):
    """The two networks of `mi_jax/models/architectures.py` as a PyTorch module."""
    from torch import nn

    if kind == "mlp":
        return nn.Sequential(nn.Linear(600, 128), nn.Tanh(), nn.Linear(128, job["classes"]))
    layers = []
    for before, width in ((3, 32), (32, 64)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2304, 512), nn.ReLU(), nn.Linear(512, job["classes"]))


def torch_worker():
    """(run(job, strategy) -> seconds, versions) with PyTorch, eager, its fused Adam throughout."""
    import torch

    def load(kind, layout):
        x, y, members = map(torch.from_numpy, data(JOBS[kind]))
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=layout) if x.ndim == 4 else x
        return x, y.long(), members

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=1e-3, eps=1e-7, fused=True)

    def loop(kind, layout) -> float:
        job = JOBS[kind]
        x, y, members = load(kind, layout)
        nets = [torch_networks(kind, job).to(memory_format=layout) for _ in range(job["members"])]
        began = time.perf_counter()
        for net, rows in zip(nets, members, strict=True):
            optimizer = adam(net.parameters())
            for batch in (b for _ in range(job["epochs"]) for b in rows[torch.randperm(len(rows))].split(BATCH)):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
                optimizer.step()
        return time.perf_counter() - began

    def vmapped(kind) -> float:
        job = JOBS[kind]
        x, y, members = load(kind, torch.contiguous_format)
        nets = [torch_networks(kind, job) for _ in range(job["members"])]
        params, _ = torch.func.stack_module_state(nets)
        skeleton, optimizer = nets[0], adam(params.values())

        def loss(params, x, y):
            return torch.nn.functional.cross_entropy(torch.func.functional_call(skeleton, params, (x,)), y)

        gradient = torch.func.vmap(torch.func.grad(loss))
        began = time.perf_counter()
        for _ in range(job["epochs"]):
            for batch in members[:, torch.randperm(members.shape[1])].split(BATCH, dim=1):
                gradients = gradient({name: p.detach() for name, p in params.items()}, x[batch], y[batch])
                for name, parameter in params.items():
                    parameter.grad = gradients[name]
                optimizer.step()
        return time.perf_counter() - began

    def run(kind: str, strategy: str) -> float:
        layout = torch.channels_last if strategy.endswith("channels_last") else torch.contiguous_format
        return vmapped(kind) if strategy == "vmap" else loop(kind, layout)

    return run, {"torch": torch.__version__, "threads": torch.get_num_threads()}


def summary(ways: list, first: dict, measured: dict) -> list[dict]:
    """One row a way: medians over the rounds, and the median of the ratios to PyTorch within each round."""
    seconds, rows = {way: [wall for wall, _ in pairs] for way, pairs in measured.items()}, []
    for way in ways:
        job, cpu = JOBS[way[1]], statistics.median(cpu for _, cpu in measured[way])
        median = statistics.median(seconds[way])
        steps = job["members"] * job["epochs"] * -(-job["rows"] // BATCH)
        reference = seconds.get(REFERENCE[way[1]])
        ratios = [theirs / ours for ours, theirs in zip(seconds[way], reference, strict=True)] if reference else None
        row = {"worker": way[0], "job": way[1], "strategy": way[2], "ms_per_member_step": 1e3 * median / steps}
        row |= {"member_steps_per_second": steps / median, "min_ms": 1e3 * min(seconds[way]) / steps}
        row |= {"members_per_minute": 60 * steps / median / job["steps_to_train"]}
        row |= {"times_pytorch": statistics.median(ratios) if ratios else None}
        row |= {"cpu_ms": 1e3 * cpu / steps, "first_run_extra_seconds": first[way][0] - median}
        rows.append(row | {"seconds": seconds[way]})
    return rows


def show(rows: list[dict]) -> None:
    print(f"{'job':5}{'worker':18}{'strategy':20}" + "  ms/step     min  CPU ms  steps/s  x torch  compile s")
    for row in rows:
        ratio = "" if row["times_pytorch"] is None else f"{row['times_pytorch']:.2f}"
        times = f"{row['ms_per_member_step']:9.2f}{row['min_ms']:8.2f}{row['cpu_ms']:8.2f}"
        rates = f"{row['member_steps_per_second']:9.1f}{ratio:>9}{row['first_run_extra_seconds']:11.1f}"
        print(f"{row['job']:5}{row['worker']:18}{row['strategy']:20}{times}{rates}")


def measure(ways: list, pythons: dict, rounds: int) -> dict:
    """The record of one sitting: every way once to compile, then `rounds` times in turn."""
    names = list(dict.fromkeys(way[0] for way in ways))
    workers = {name: Worker(pythons[name], "experiments.benchmarks.training", name) for name in names}
    versions = {name: worker.versions for name, worker in workers.items()}

    def ask(way: tuple[str, str, str]) -> tuple[float, float]:
        """The seconds one way took, its inputs not counted, and CPU seconds, theirs included."""
        found = workers[way[0]](*way[1:])
        return found["seconds"], found["cpu"]

    try:
        first = {way: ask(way) for way in ways}
        seconds, load = {way: [] for way in ways}, [os.getloadavg()[0]]
        for i in range(rounds):
            print(f"round {i + 1} of {rounds}, load average {load[-1]:.2f}", file=sys.stderr)
            for way in ways:
                seconds[way].append(ask(way))
            load.append(os.getloadavg()[0])
    finally:
        for worker in workers.values():
            worker.close()
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    record = {"versions": versions, **machine, "load_average": load, "rounds": rounds}
    return record | {"results": summary(ways, first, seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", help="a Python that has requirements.txt of this folder installed")
    parser.add_argument("--jobs", default="mlp,cnn", help="which of mlp, cnn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="a JSON file for the record")
    parser.add_argument("--worker", choices=["jax", "jax, setting off", "torch"], help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        run, versions = torch_worker() if flags.worker == "torch" else jax_worker(setting=flags.worker == "jax")
        versions |= {"python": platform.python_version()}
        return serve(lambda job, strategy: {"seconds": run(job, strategy)}, versions)
    pythons = {"jax": sys.executable, "jax, setting off": sys.executable, "torch": flags.torch_python}
    ways = [way for way in WAYS if way[1] in flags.jobs.split(",") and pythons[way[0]]]
    record = measure(ways, pythons, flags.rounds)
    show(record["results"])
    print(f"load average {record['load_average'][0]:.2f} to {max(record['load_average']):.2f}, {record['cores']} cores")
    if flags.out:
        with open(flags.out, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
