"""Which share of the time of crafting goes into the passes it needs, and how many points it crafts beside PyTorch.

Artefact: a printed table and the record in --out (results/records/benchmark-crafting.json).
Command:  make benchmark-crafting    or    python -m experiments.benchmarks.crafting [--torch_python=PATH] --out=FILE
Method:   8 networks with drawn weights, the last layer scaled so that they are sure of the label of most random inputs:
          the paper's CNN on 32x32x3 and one hidden layer of 128 on 446 columns with 30 classes. OSLO has 6 source
          and 2 validation networks and stops at two thresholds; YOQO (online) and the candidates take a fixed number of
          steps with 4 networks on either side. In each round every algorithm runs beside bare passes of the same
          networks on batches of the same size: one program for one forward and backward pass, and one for a
          forward pass, called in turn for every network. The share is the time of as many bare passes as the points
          needed, over the time of crafting; medians over rounds, compilation apart. PyTorch, where --torch_python has
          it, runs the usual loop: one point at a time, a batch of one, on some of the points; its questions are
          compared with ours.
Goal:     a share of at least 0.8.
Hardware: two cores, 5 minutes. The cores were busy with other jobs: read the ratios, not the times.
Notes:    NOTES.md.
"""

import os
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from experiments.benchmarks import cnn, workers

SHAPES, CLASSES = {"cnn": (32, 32, 3), "mlp": (446,)}, {"cnn": 10, "mlp": 30}
MODELS, SOURCES = 8, 6
POINTS, PEER_POINTS = {"cnn": 192, "mlp": 2048}, {"cnn": 3, "mlp": 12}
OSLO = {"thresholds": (0.3, 0.05), "max_epsilon": 40 / 255, "intervals": 10, "steps": 2}
STEPS, STARTS = 4, 2  # of YOQO and the candidates; starts of a point
BARE = {"cnn": 2, "mlp": 200}  # bare passes of every network in one measurement
ALGORITHMS = ("oslo", "yoqo", "craft")


def prepare(folder: Path) -> None:
    """Writes cnn.npz and mlp.npz: stacked weights, points, labels that most networks are sure of."""
    import jax

    from mi_jax import models

    for name, shape in SHAPES.items():
        x = np.random.default_rng(0).random((POINTS[name], *shape), np.float32)
        x = x if name == "cnn" else np.round(x * 0.6)
        model = models.build(name, shape, CLASSES[name])
        params = jax.vmap(lambda key, x=x, model=model: model.init(key, x[:1]))(
            jax.random.split(jax.random.key(0), MODELS)
        )
        arrays = cnn.flatten(params)
        last = cnn.layer_names(arrays)[-1]
        logits = np.mean([model.apply(jax.tree.map(lambda a, c=c: a[c], params), x[:64]) for c in range(MODELS)], 0)
        arrays[f"{last}/kernel"] = arrays[f"{last}/kernel"] * 3 / logits.std(1).mean()
        params = cnn.unflatten(arrays)
        logits = np.mean([model.apply(jax.tree.map(lambda a, c=c: a[c], params), x) for c in range(MODELS)], 0)
        np.savez(folder / f"{name}.npz", x=x, y=logits.argmax(1), **arrays)


def read(folder: str | Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of one problem."""
    with np.load(Path(folder) / f"{name}.npz") as stored:
        return dict(stored)


def intervals_of(questions: np.ndarray, x: np.ndarray) -> np.ndarray:
    """After how many intervals [P] each point was finished, by the distance of its last question."""
    away = np.abs(questions[:, -1] - x).reshape(len(x), -1).max(1)
    return np.round(away / OSLO["max_epsilon"] * OSLO["intervals"])


def our_jobs(folder: str, name: str) -> dict[str, Callable[[], dict]]:
    """job -> function that does the work of one measurement for one problem and says how much it was."""
    import jax
    import jax.numpy as jnp

    from mi_jax import models
    from mi_jax.attacks import crafting

    problem = read(folder, name)
    x, y, key = problem["x"], problem["y"], jax.random.key(0)
    params = jax.tree.map(jnp.asarray, cnn.unflatten(problem))
    model = models.build(name, SHAPES[name], CLASSES[name])
    each = [jax.tree.map(lambda a, c=c: a[c], params) for c in range(MODELS)]
    source, validation = (
        jax.tree.map(lambda a, p=part: a[p], params) for part in (slice(SOURCES), slice(SOURCES, MODELS))
    )
    inside, use = np.arange(MODELS) % 2 == np.arange(len(x))[:, None] % 2, np.ones((len(x), MODELS), bool)
    starts = np.clip(x[:, None] + np.random.default_rng(1).normal(0, 0.1, (len(x), STARTS, *SHAPES[name])), 0, 1)
    starts, labels = (starts if name == "cnn" else np.round(starts)).astype(np.float32), jnp.asarray(y)
    binary = None if name == "cnn" else np.ones(SHAPES[name], bool)
    block = jnp.asarray(x[: crafting.BLOCK])

    def apply(params, x):
        return model.apply(params, x, key)

    forward = jax.jit(apply)
    backward = jax.jit(jax.grad(lambda x, params: crafting._margin(apply(params, x), labels[: crafting.BLOCK]).sum()))

    def bare(call: Callable) -> dict:
        for _ in range(BARE[name]):
            results = [call(params) for params in each]
            jax.block_until_ready(results)
        return {"rows": BARE[name] * MODELS * len(block)}

    def oslo() -> dict:
        found = crafting.oslo(apply, source, validation, x, y, **OSLO)
        done = intervals_of(found, x)
        np.save(Path(folder) / f"{name}-oslo.npy", found[: PEER_POINTS[name]])
        return {"points": len(x), "backward": int(done.sum()) * OSLO["steps"] * SOURCES,
                "forward": int(done.sum()) * (MODELS - SOURCES), "intervals": float(done.mean())}  # fmt: skip

    def yoqo() -> dict:
        found = crafting.yoqo(apply, params, inside, use, x, y, online=True, steps=STEPS, stop=-1.0)
        np.save(Path(folder) / f"{name}-yoqo.npy", found[: PEER_POINTS[name]])
        return {"points": len(x), "backward": found.shape[0] * MODELS * STEPS, "forward": found.shape[0] * MODELS}

    def craft() -> dict:
        crafting.craft(apply, params, inside, use, starts, y, steps=STEPS, binary=binary)
        return {"points": len(x), "backward": len(x) * STARTS * MODELS * STEPS, "forward": 0}

    return {"forward": partial(bare, lambda params: forward(params, block)),
            "backward": partial(bare, lambda params: backward(block, params)),
            "oslo": oslo, "yoqo": yoqo, "craft": craft}  # fmt: skip


def torch_networks(problem: dict[str, np.ndarray], name: str) -> list:
    """The networks as PyTorch modules."""
    import torch

    networks = []
    for c in range(MODELS):
        arrays = {key: array[c] for key, array in problem.items() if "/" in key}
        if name == "cnn":
            networks.append(cnn.torch_cnn(arrays))
            continue
        layers = []
        for layer in cnn.layer_names(arrays):
            kernel, bias = (torch.from_numpy(arrays[f"{layer}/{leaf}"].copy()) for leaf in ("kernel", "bias"))
            linear = torch.nn.Linear(*kernel.shape)
            linear.weight.data, linear.bias.data = kernel.T.contiguous(), bias
            layers += [linear, torch.nn.Tanh()]
        networks.append(torch.nn.Sequential(*layers[:-1]))
    return [network.eval().requires_grad_(False) for network in networks]


def torch_oslo(networks: list, x, y: int):
    """(question, intervals taken) of one point at the last threshold, a batch of one."""
    import torch
    from torch.nn.functional import cross_entropy

    offset, label = torch.zeros_like(x), torch.tensor([y])
    for k in range(1, OSLO["intervals"] + 1):
        epsilon, momentum = k * OSLO["max_epsilon"] / OSLO["intervals"], 0
        for _ in range(OSLO["steps"]):
            query = (x + offset).requires_grad_()
            logits = torch.stack([network(query) for network in networks[:SOURCES]]).mean(0)
            gradient = torch.autograd.grad(cross_entropy(logits, label), query)[0]
            momentum = momentum + gradient / gradient.abs().mean()
            offset = (offset + 1.25 * epsilon / OSLO["steps"] * momentum.sign()).clamp(-epsilon, epsilon)
            offset = (x + offset).clamp(0, 1) - x
        with torch.no_grad():
            logits = torch.stack([network(x + offset) for network in networks[SOURCES:]]).mean(0)
        if logits.softmax(1)[0, y] < OSLO["thresholds"][-1]:
            break
    return x + offset, k


def torch_yoqo(networks: list, x, y: int, first: int):
    """(question, 1) of one point, a batch of one; networks first, first + 2, ... were trained with it."""
    import torch
    from torch.nn.functional import cross_entropy

    label, query = torch.tensor([y]), x
    with torch.no_grad():
        best = [network(x).topk(2).indices[0] for network in networks]
    targets = [(top[1] if top[0] == y else top[0])[None] for top in best]
    for _ in range(STEPS):
        total = torch.zeros_like(x)
        for c, network in enumerate(networks):
            query = query.detach().requires_grad_()
            inside = c % 2 == first
            loss = cross_entropy(network(query), label if inside else targets[c]) * (1 if inside else 2)
            total += torch.autograd.grad(loss, query)[0]
        query = (query.detach() - 0.48 * 0.25**2 / 3 * total / (len(networks) / 2)).clamp(0, 1)
    return query, 1


def peer_job(folder: str, name: str, algorithm: str) -> dict:
    """The usual loop over points; how far its questions are from ours."""
    import torch

    problem = read(folder, name)
    networks, count = torch_networks(problem, name), PEER_POINTS[name]
    x = torch.from_numpy(problem["x"][:count])
    x = x.permute(0, 3, 1, 2).contiguous() if name == "cnn" else x
    started = time.perf_counter()
    if algorithm == "oslo":
        found = [torch_oslo(networks, x[i : i + 1], int(problem["y"][i])) for i in range(count)]
    else:
        found = [torch_yoqo(networks, x[i : i + 1], int(problem["y"][i]), i % 2) for i in range(count)]
    seconds = time.perf_counter() - started
    questions = torch.cat([question for question, _ in found]).numpy()
    questions = questions.transpose(0, 2, 3, 1) if name == "cnn" else questions
    ours = np.load(Path(folder) / f"{name}-{algorithm}.npy")
    ours = ours[:, -1] if algorithm == "oslo" else ours
    return {"points": count, "seconds": seconds, "intervals": sum(k for _, k in found) / count,
            "values_apart": float((np.abs(questions - ours) > 1e-3).mean())}  # fmt: skip


def make_worker(flags: Namespace) -> tuple[Callable[..., dict], dict]:
    """The worker that --worker names."""
    if flags.worker == "ours":
        jobs = {name: our_jobs(flags.work, name) for name in SHAPES}
        return lambda name, job: jobs[name][job](), workers.versions("jax", "jaxlib")
    return partial(peer_job, flags.work), workers.versions("torch")


def summarise(results: dict, name: str) -> dict:
    """Shares and rates of one problem, medians of what is compared within a round."""
    rounds, entry = range(len(results[f"ours {name} oslo"])), {}
    for algorithm in ALGORITHMS:
        ours = results[f"ours {name} {algorithm}"]

        def needed(i: int, ours=ours) -> float:
            """Seconds of the bare passes."""
            per_row = {job: results[f"ours {name} {job}"][i]["wall"] / results[f"ours {name} {job}"][i]["rows"]
                       for job in ("forward", "backward")}  # fmt: skip
            return sum(per_row[job] * ours[i][job] for job in per_row)

        entry[algorithm] = {"share_of_passes": statistics.median(needed(i) / ours[i]["wall"] for i in rounds),
                            "shares": [needed(i) / ours[i]["wall"] for i in rounds],
                            "points_per_second": statistics.median(r["points"] / r["wall"] for r in ours)}  # fmt: skip
        if theirs := results.get(f"torch {name} {algorithm}"):
            work = [t["intervals"] / o.get("intervals", 1) for t, o in zip(theirs, ours, strict=True)]
            rates = [t["points"] / t["seconds"] * w for t, w in zip(theirs, work, strict=True)]
            entry[algorithm] |= {
                "torch_points_per_second": statistics.median(rates),
                "times_torch": statistics.median(o["points"] / o["wall"] / r for o, r in zip(ours, rates, strict=True)),
                "values_apart": max(t["values_apart"] for t in theirs),
            }
    return entry


def show(record: dict) -> None:
    """Prints a line for each problem and algorithm."""
    for name, entry in record["problems"].items():
        for algorithm, row in entry.items():
            print(f"{name} {algorithm:6}" + "".join(f"  {key} {row[key]:.3g}" for key in row if key != "shares"))
    print(record["note"])


def measure(flags: Namespace, folder: Path) -> dict:
    """The record of one sitting."""
    prepare(folder)
    pythons = {"ours": sys.executable} | ({"torch": flags.torch_python} if flags.torch_python else {})
    with ExitStack() as stack:
        libraries = {name: stack.enter_context(workers.Worker(python, "crafting", name, folder))
                     for name, python in pythons.items()}  # fmt: skip
        jobs = {f"ours {name} {job}": partial(libraries["ours"], name, job)
                for name in SHAPES for job in ("forward", "backward", *ALGORITHMS)}  # fmt: skip
        if "torch" in libraries:
            jobs |= {f"torch {name} {job}": partial(libraries["torch"], name, job)
                     for name in SHAPES for job in ("oslo", "yoqo")}  # fmt: skip
        first, results, load = workers.run_rounds(jobs, flags.rounds)
    note = "two cores shared with other jobs: ratios only" + ("" if flags.torch_python else "; PyTorch was not there")
    return {"versions": {name: worker.versions for name, worker in libraries.items()}, "cores": os.cpu_count(),
            "load_average": load, "note": note, "problems": {name: summarise(results, name) for name in SHAPES},
            "first_run_seconds": {name: run["wall"] for name, run in first.items()}, "results": results}  # fmt: skip


if __name__ == "__main__":
    workers.main(__doc__, ("ours", "torch"), make_worker, measure, show, rounds=3, needs_torch=False)
