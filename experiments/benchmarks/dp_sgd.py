"""Prints and stores what a DP-SGD step costs here, in jax-privacy and in Opacus: examples a second, peak memory.

    make benchmark-dp_sgd        or        python -m experiments.benchmarks.dp_sgd --torch_python=PATH --out=FILE

The paper's CNN, clip 1, noise 1, a full batch of 256 random images, so that all do the same work: per-example
clipping, the sum, the noise and an SGD update. Opacus with hooks and with ghost clipping, jax-privacy's `clipped_grad`
with and without microbatches, ours by book-keeping and by one gradient an example (`vmap(grad)`, all at once and in
microbatches); beside them our own step without privacy. The clipped sums of all of them, without noise and from the
same weights, are compared with ours, after the timing because comparing takes memory. Every way is a process of its
own; all are measured in turn, A B C A B C, a first round to compile and warm up. Memory is the rise of a process's
peak over what it held before its first step.

What bounds it on two cores, by CPU seconds for 256 examples: forward and backward to the layers' outputs 0.63, a
gradient of the weights for the whole batch 0.25 more (all that a step without privacy does), one for each example 0.52
more. Five times Opacus with hooks would be 0.8. Tried for the last part: microbatches of 16, 32, 64 and 256 (1.14,
1.14, 1.16, 1.38 in all), a convolution's nine products as three or one, either factor first (0.9 to 1.15 of the time),
the product of the dense layers left out altogether (0.96).
"""

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.benchmarks.workers import Worker, serve

BATCH, STEPS, CLIP, NOISE, RATE = 256, 4, 1.0, 1.0, 0.1
WAYS = ("not private", "book-keeping", "vmap(grad)", "vmap(grad) in 16s", "jax-privacy", "jax-privacy in 16s",
        "Opacus hooks", "Opacus ghost")  # fmt: skip
LIMIT = 1e-4  # the most by which clipped sums may differ, as a share of the largest entry


def problem() -> dict[str, np.ndarray]:
    """Images, labels and weights, the same in every worker."""
    import jax

    from mi_jax import models

    random = np.random.default_rng(0)
    x = random.random((BATCH, 32, 32, 3), np.float32)
    params = models.build("cnn", (32, 32, 3), 10).init(jax.random.key(0), x[:1])
    layers = {f"{layer}/{name}": np.asarray(leaf) for layer, leaves in params.items() for name, leaf in leaves.items()}
    return {"x": x, "y": random.integers(0, 10, BATCH).astype(np.int32), **layers}


def nested(flat: dict) -> dict:
    found = {}
    for name in (name for name in flat if "/" in name):
        layer, leaf = name.split("/")
        found.setdefault(layer, {})[leaf] = flat[name]
    return found


def peak() -> float:
    """The most that this process ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def jax_worker(way: str, given: dict):
    """(run(), versions); run("sum") -> the clipped sum written to a file, run("steps") -> the count."""
    import jax
    import jax.numpy as jnp
    import optax

    import mi_jax  # noqa: F401 (sets the compiler flag before the backend starts)
    from mi_jax import models, privacy
    from mi_jax.privacy import per_example

    model, x, y = models.build("cnn", (32, 32, 3), 10), jnp.asarray(given["x"]), jnp.asarray(given["y"])
    weight, key = jnp.ones(BATCH), jax.random.key(1)

    def losses_of(params, batch):
        logits = model.apply(params, batch[0], key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])

    def loss_of_one(params, example):
        return losses_of(params, jax.tree.map(lambda leaf: leaf[None], example))[0]

    def mean_of(params, batch):
        return losses_of(params, batch).mean()

    def summed(params):
        if way == "not private":
            return jax.tree.map(lambda g: g * BATCH, jax.grad(mean_of)(params, (x, y)))
        if way == "book-keeping":
            return per_example.book_kept_sum(losses_of, params, (x, y), weight, CLIP).total
        if way.startswith("vmap"):
            at_once = 16 if way.endswith("16s") else BATCH
            return per_example.clipped_sum(loss_of_one, params, (x, y), weight, CLIP, microbatch=at_once).total
        import jax_privacy

        at_once = {"microbatch_size": 16} if way.endswith("16s") else {}
        clipped = jax_privacy.clipped_grad(
            lambda params, x, y: losses_of(params, (x, y)).sum(), l2_clip_norm=CLIP, batch_argnums=(1, 2), **at_once
        )
        return clipped(params, x, y)

    @jax.jit
    def step(params, key):
        total = summed(params)
        if way == "not private":
            grads = jax.tree.map(lambda g: g / BATCH, total)
        else:
            grads = privacy.noisy(key, total, clip=CLIP, noise=NOISE, expected=BATCH)
        return jax.tree.map(lambda p, g: p - RATE * g, params, grads)

    params = jax.tree.map(jnp.asarray, nested(given))
    before = peak()

    def run(what: str, file: str = "") -> dict:
        if what == "sum":
            found = jax.jit(summed)(params)
            flat = {f"{a}/{b}": np.asarray(leaf) for a, leaves in found.items() for b, leaf in leaves.items()}
            np.savez(file, **flat)
            return {}
        now = params
        for i in range(STEPS):
            now = jax.block_until_ready(step(now, jax.random.fold_in(key, i)))
        return {"examples": BATCH * STEPS, "rise": peak() - before}

    names = ("jax", "jaxlib", *(("jax-privacy",) if way.startswith("jax-privacy") else ()))
    return run, {name: importlib.metadata.version(name) for name in names}


def opacus_worker(way: str, given: dict):
    """The same by Opacus."""
    import torch
    from opacus import PrivacyEngine
    from torch import nn

    weights = nested(given)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = ((3, 32, "same"), (32, 32, "valid"), (32, 64, "same"), (64, 64, "valid"))
            self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=padding) for a, b, padding in sizes)
            inside = weights["Dense_0"]["kernel"].shape[0]
            self.dense = nn.ModuleList([nn.Linear(inside, 512), nn.Linear(512, 10)])
            for i, layer in enumerate(self.convolutions):
                kernel = torch.from_numpy(weights[f"_Conv3x3_{i}"]["kernel"]).permute(3, 2, 0, 1)
                layer.weight.data, layer.bias.data = kernel.contiguous(), tensor(f"_Conv3x3_{i}", "bias")
            for i, layer in enumerate(self.dense):
                layer.weight.data, layer.bias.data = (
                    tensor(f"Dense_{i}", "kernel").T.contiguous(),
                    tensor(f"Dense_{i}", "bias"),
                )

        def forward(self, x):
            for i, layer in enumerate(self.convolutions):
                x = torch.relu(layer(x))
                x = torch.max_pool2d(x, 2) if i % 2 else x
            x = torch.relu(self.dense[0](x.permute(0, 2, 3, 1).flatten(1)))
            return self.dense[1](x)

    def tensor(layer: str, leaf: str):
        return torch.from_numpy(weights[layer][leaf].copy())

    images = torch.from_numpy(np.ascontiguousarray(given["x"].transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(given["y"].astype(np.int64))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=BATCH)

    def made(noise: float, rate: float):
        network = Network()
        optimizer, criterion = torch.optim.SGD(network.parameters(), lr=rate), nn.CrossEntropyLoss()
        ghost = way.endswith("ghost")
        found = PrivacyEngine().make_private(
            module=network, optimizer=optimizer, data_loader=loader, noise_multiplier=noise, max_grad_norm=CLIP,
            poisson_sampling=False, criterion=criterion, grad_sample_mode="ghost" if ghost else "hooks",
        )  # fmt: skip
        network, optimizer, *rest = found
        criterion = rest[0] if ghost else criterion

        def step():
            optimizer.zero_grad()
            criterion(network(images), labels).backward()
            optimizer.step()

        return network, step

    _, step = made(NOISE, RATE)
    before = peak()

    def run(what: str, file: str = "") -> dict:
        if what == "sum":  # what one step without noise and with rate 1 takes off the weights
            network, once = made(0.0, 1.0)
            old = [p.detach().clone() for p in network.parameters()]
            once()
            moved = [(a - b.detach()).numpy() * BATCH for a, b in zip(old, network.parameters(), strict=True)]
            names = [f"_Conv3x3_{i}" for i in range(4)] + ["Dense_0", "Dense_1"]
            flat = {}
            for name, kernel, bias in zip(names, moved[::2], moved[1::2], strict=True):
                flat[f"{name}/kernel"] = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
                flat[f"{name}/bias"] = bias
            np.savez(file, **flat)
            return {}
        for _ in range(STEPS):
            step()
        return {"examples": BATCH * STEPS, "rise": peak() - before}

    return run, {name: importlib.metadata.version(name) for name in ("torch", "opacus")}


def agree(folder: Path, workers: dict[str, Worker]) -> dict[str, float]:
    """How far each private way's clipped sum is from ours, as a share of the largest entry; refused beyond LIMIT."""
    sums = {}
    for way, worker in workers.items():
        if way != "not private":
            file = folder / f"{WAYS.index(way)}.npz"
            worker("sum", str(file))
            with np.load(file) as found:
                sums[way] = dict(found)
    ours, apart = sums["book-keeping"], {}
    for way, found in sums.items():
        apart[way] = max(float(np.abs(found[k] - ours[k]).max() / np.abs(ours[k]).max()) for k in ours)
        if apart[way] > LIMIT:
            raise ValueError(
                f"{way}: clipped sums differ from ours by {apart[way]:.2g} of the largest, at most {LIMIT}"
            )
    return apart


def measure(folder: Path, torch_python: str, rounds: int) -> dict:
    """The record of one sitting."""
    module, load = "experiments.benchmarks.dp_sgd", [os.getloadavg()[0]]
    pythons = {way: torch_python if way[0] in "jO" else sys.executable for way in WAYS}
    results, apart, rise = {way: [] for way in WAYS}, {}, {}
    workers = {way: Worker(python, module, way, f"--work={folder}") for way, python in pythons.items()}
    try:
        for turn in range(rounds + 1):
            print(f"round {turn} of {rounds}, load average {load[-1]:.2f}", file=sys.stderr, flush=True)
            for way, worker in workers.items():
                found = worker("steps")
                rise[way] = found["rise"]
                results[way] += [found] if turn else []
            load.append(os.getloadavg()[0])
        apart = agree(folder, workers)
        versions = {way: worker.versions for way, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    rates = {way: statistics.median(r["examples"] / r["wall"] for r in found) for way, found in results.items()}
    ours = results["book-keeping"]
    ratios = {way: statistics.median(theirs["wall"] / our["wall"] for theirs, our in zip(found, ours, strict=True))
              for way, found in results.items()}  # fmt: skip
    memory = {way: held / BATCH for way, held in rise.items()}
    return {"versions": versions, "cores": os.cpu_count(), "load_average": load, "batch": BATCH,
            "clipped_sums_apart": apart, "results": results, "examples_per_second": rates,
            "seconds_over_book_keeping": ratios, "mebibytes_per_example": memory}  # fmt: skip


def show(record: dict) -> None:
    print(f"{'':20}{'examples/s':>12}{'time over ours':>16}{'MiB/example':>14}")
    for way in WAYS:
        print(f"{way:20}{record['examples_per_second'][way]:12.1f}{record['seconds_over_book_keeping'][way]:16.2f}"
              f"{record['mebibytes_per_example'][way]:14.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", help="a Python that has requirements.txt of this folder installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="a JSON file for the record")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        with np.load(Path(flags.work) / "problem.npz") as stored:
            given = dict(stored)
        make = opacus_worker if flags.worker.startswith("Opacus") else jax_worker
        return serve(*make(flags.worker, given))
    if not flags.torch_python:
        parser.error("--torch_python is missing: make benchmark-dp_sgd makes an environment and names it")
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "problem.npz", **problem())
        record = measure(Path(folder), flags.torch_python, flags.rounds)
    show(record)
    if flags.out:
        Path(flags.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
