"""Prints and stores what a boundary distance costs here, in Foolbox and in ART: queries, seconds, distance.

    make benchmark-boundary        or        python -m experiments.benchmarks.boundary --torch_python=PATH --out=FILE

The target is the paper's CNN trained on 2,500 real CIFAR-10 images (--data_dir or $MI_JAX_DATA/cifar10), for the
other two a PyTorch copy with the same weights, whose logits are checked against ours. All three attack the same
points, half of them members: whatever the target labels wrongly too, as the membership attacks of the libraries do;
here such a point costs one query. Distances are those of the points that are labelled rightly. HopSkipJump
runs for 10 iterations from 100 questions on, about 2,400 queries a point; ours with that budget and with smaller
ones, to find what it needs for the distance the others reach. Every library is a process of its own and all are
measured in turn, A B C A B C. Read the ratios of one sitting, not times across sittings.

**Seen** (results/records/benchmark-boundary.json; two cores, three rounds, 160 points, about 120 of them labelled
rightly): seconds, queries, median distance: ours 103.5, 298,900, 0.76 with 2,409 queries a point, 63.3, 162,500, 1.06
with 1,300 and 14.9, 37,300, 2.59 with 300; Foolbox 197.3, 404,500, 4.71; ART 274.6, 383,700, 1.08. Against Foolbox 2.0
times faster at a sixth of its distance, 13.8 times at its distance (asked: 3). Against ART 2.7 times faster at 0.70 of
its distance and 4.3 times at its distance (4.3, 5.2, 4.3 in the three rounds): the 5 asked for are NOT shown. The
gradient phase runs at 0.95 of the rate of bare forward passes, the whole attack at 0.97 with 2,409 queries and 0.86
with 1,300, so forward passes bind, and what is left is queries: ART's 2,400 a point against our 1,300. Tried for fewer
of them (60 points), medians with 1,219 queries: 5 / 7 / 10 / 14 / 20 / 30 iterations 1.083 / 1.074 / 1.063 / 1.050 /
1.054 / 1.105; 4 / 6 / 8 / 10 / 12 bisections 1.183 / 1.108 / 1.063 / 1.059 / 1.092; radius 0.1 / 0.2 / 0.3 / 0.45 of
the distance 1.056 / 1.045 / 1.063 / 1.063; scouts (`schedules.py`) lengthen it. All flat where the defaults are. Tried
for time: 160 points in place of 60, so that rounds of a single question fill a block of the forward pass (46 points
fill a third of one); 4.3 in place of about 4.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.benchmarks.workers import Worker, serve

BUDGETS = (2409, 1300, 609, 300)  # ours, queries a point
RATES = ("forward", "gradient")
ITERATIONS, QUESTIONS = 10, 100  # theirs: 100 sqrt(t) questions in iteration t, 2,400 queries with the rest
LIMIT = 1e-3  # the most by which two copies of the network may differ in a logit


def prepare(folder: Path, data_dir: str | None, num_points: int) -> None:
    """Trains the target (or finds it in `folder`) and writes problem.npz: weights, points, labels, our logits."""
    import jax

    from mi_jax import data, models, store, training
    from mi_jax.data import splits
    from mi_jax.types import Recipe

    dataset = data.load("cifar10", data_dir)
    split = splits.disjoint(0, len(dataset.x), 2500, num_targets=1, num_shadows=1)
    model = models.build("cnn", dataset.x.shape[1:], dataset.num_classes)
    params, _ = training.train_ensemble(
        jax.random.key(0), model, Recipe(), dataset.x, dataset.y, split.members[:1], cache=store.cache_in(folder)
    )
    params = jax.tree.map(lambda leaf: leaf[0], params)
    rows = np.concatenate([split.members[0][: num_points // 2], split.nonmembers[0][: num_points // 2]])
    x, y = dataset.x[rows], dataset.y[rows]
    layers = {f"{layer}/{name}": leaf for layer, leaves in params.items() for name, leaf in leaves.items()}
    np.savez(folder / "problem.npz", x=x, y=y, rows=rows, logits=model.apply(params, x), **layers)


def summary_of(distances: np.ndarray, problem: dict, queries: int) -> dict:
    """The line of one attack: distances [P], of which those of rightly labelled points count."""
    right = problem["logits"].argmax(1) == problem["y"]
    found = distances[right]
    failed = ~np.isfinite(found) | (found <= 0)
    good = found[~failed]
    return {"queries": queries, "queries_per_point": queries / len(distances), "failures": int(failed.sum()),
            "median": float(np.median(good)), "mean": float(good.mean())}  # fmt: skip


def our_worker(problem: dict):
    """run("boundary", budget), run("forward", 0) or run("gradient", 0) -> results."""
    import jax

    from mi_jax import attacks, models
    from mi_jax.attacks import boundary, schedules
    from mi_jax.querying import driver, oracle

    model = models.build("cnn", (32, 32, 3), 10)
    params = {}
    for name in (name for name in problem if "/" in name):
        layer, leaf = name.split("/")
        params.setdefault(layer, {})[leaf] = jax.numpy.asarray(problem[name])
    target, key = oracle.model_oracle(model, params, 10), jax.random.key(1)
    x, y, rows = (problem[name] for name in ("x", "y", "rows"))
    attack = attacks.build("boundary", attacks.AttackContext((32, 32, 3), 10, None, BUDGETS[0]))[0]
    right = np.flatnonzero(problem["logits"].argmax(1) == y)
    many = np.resize(right, driver.POINTS)  # one full chunk of points, for the rates
    images = jax.random.uniform(key, (len(many) * 24, 32, 32, 3))

    def run(what: str, budget: int) -> dict:
        if what == "forward":
            for _ in range(8):
                jax.block_until_ready(target.answer(images, len(images)))
            return {"queries": 8 * len(images)}
        if what == "gradient":  # questions about the normal and nothing else, as many as the forward passes
            whole = boundary.boundary_distance(schedules.Schedule(1, 192, 1, 1))
            measure = whole._replace(rounds=tuple(boundary.gradient_rounds(192)))
            answers = driver.query(target, attack._replace(measure=measure), key, x[many], y[many], rows[many])
            return {"queries": int(answers.queries.sum())}
        measure = boundary.boundary_distance(schedules.schedule(budget, 3072))
        answers = driver.query(
            target, attack._replace(measure=measure), key, x, y, rows, points_at_once=min(driver.POINTS, len(right))
        )
        distances = np.where(boundary.never_flipped(answers.features, x)[:, 0], np.nan, answers.features[:, 0, -1])
        return summary_of(distances, problem, int(answers.queries.sum()))

    return run, {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}


def their_network(problem: dict):
    """(the CNN as a PyTorch module on NCHW images, the number of rows it has answered so far [1])."""
    import torch
    from torch import nn

    count = [0]

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolutions = nn.ModuleList()
            for i, padding in enumerate(("same", "valid") * 2):
                kernel = torch.from_numpy(problem[f"_Conv3x3_{i}/kernel"]).permute(3, 2, 0, 1).contiguous()
                layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=padding)
                layer.weight.data, layer.bias.data = kernel, torch.from_numpy(problem[f"_Conv3x3_{i}/bias"])
                self.convolutions.append(layer)
            self.dense = nn.ModuleList()
            for i in range(2):
                kernel = torch.from_numpy(problem[f"Dense_{i}/kernel"]).T.contiguous()
                layer = nn.Linear(kernel.shape[1], kernel.shape[0])
                layer.weight.data, layer.bias.data = kernel, torch.from_numpy(problem[f"Dense_{i}/bias"])
                self.dense.append(layer)

        def forward(self, x):
            count[0] += len(x)
            x = x.float().contiguous(memory_format=torch.channels_last)  # the faster layout
            for i, layer in enumerate(self.convolutions):
                x = torch.relu(layer(x))
                x = torch.max_pool2d(x, 2) if i % 2 else x
            x = torch.relu(self.dense[0](x.permute(0, 2, 3, 1).flatten(1)))
            return self.dense[1](x)

    return Network().eval().to(memory_format=torch.channels_last), count


def their_worker(name: str, problem: dict):
    """run() -> results of HopSkipJump as the library ships it."""
    import torch

    network, count = their_network(problem)
    images = np.ascontiguousarray(problem["x"].transpose(0, 3, 1, 2))
    with torch.no_grad():
        apart = np.abs(network(torch.from_numpy(images)).numpy() - problem["logits"]).max()
    if apart > LIMIT:
        raise ValueError(f"logits of the PyTorch copy differ by {apart}, expected at most {LIMIT}")

    def art() -> np.ndarray:
        from art.attacks.evasion import HopSkipJump
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            network, torch.nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type="cpu"
        )
        attack = HopSkipJump(
            classifier, batch_size=1024, norm=2, max_iter=ITERATIONS, init_eval=QUESTIONS, verbose=False
        )
        return attack.generate(images)

    def foolbox() -> np.ndarray:
        import foolbox

        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.HopSkipJumpAttack(steps=ITERATIONS, initial_gradient_eval_steps=QUESTIONS)
        labels = torch.from_numpy(problem["y"].astype(np.int64))
        return attack.run(model, torch.from_numpy(images), foolbox.criteria.Misclassification(labels)).numpy()

    def run() -> dict:
        torch.manual_seed(0)
        np.random.seed(0)
        count[0] = 0
        with torch.no_grad():
            found = {"art": art, "foolbox": foolbox}[name]()
            queries = count[0]
            labels = network(torch.from_numpy(found)).argmax(1).numpy()
        distances = np.linalg.norm((found.astype(np.float64) - images).reshape(len(images), -1), axis=1)
        return summary_of(np.where(labels != problem["y"], distances, np.nan), problem, queries)

    packages = {"art": "adversarial-robustness-toolbox", "foolbox": "foolbox"}
    return run, {"torch": torch.__version__, name: importlib.metadata.version(packages[name])}


def compare(results: dict) -> dict:
    """What one peer costs beside ours, at equal queries and at equal distance; medians of ratios within a round."""
    ours, found = {b: results[f"ours {b}"] for b in BUDGETS}, {}
    for peer in ("foolbox", "art"):
        theirs = results[peer]

        def times(budget: int, what: str, theirs=theirs) -> float:
            return statistics.median(a[what] / b[what] for a, b in zip(theirs, ours[budget], strict=True))

        reached = [b for b in BUDGETS if ours[b][0]["median"] <= statistics.median(r["median"] for r in theirs)]
        entry = {f"{what}_at_equal_queries": times(BUDGETS[0], what) for what in ("wall", "cpu", "queries", "median")}
        if reached:
            entry |= {"budget_for_equal_distance": min(reached)}
            entry |= {f"{what}_at_equal_distance": times(min(reached), what) for what in ("wall", "cpu", "queries")}
        found[peer] = entry
    return found


def show(record: dict) -> None:
    print(f"{'':14}{'wall s':>9}{'CPU s':>9}{'queries':>9}{'median':>9}{'mean':>9}{'failures':>9}")
    for name, rounds in record["results"].items():
        line = [statistics.median(r[key] for r in rounds) for key in ("wall", "cpu")]
        rest = [
            statistics.median(r[key] for r in rounds)
            for key in ("queries", "median", "mean", "failures")
            if key in rounds[0]
        ]
        print(f"{name:14}{line[0]:9.1f}{line[1]:9.1f}{rest[0]:9.0f}" + "".join(f"{v:9.3f}" for v in rest[1:]))
    for peer, entry in record["peers_over_ours"].items():
        print(f"{peer} over ours: " + ", ".join(f"{key} {value:.3g}" for key, value in entry.items()))
    print(f"gradient phase: {record['gradient_share_of_forward']:.3f} of the forward rate")


def measure(folder: Path, torch_python: str, rounds: int) -> dict:
    """The record of one sitting: everything once to compile and to warm up, then `rounds` times in turn."""
    pythons = {"ours": sys.executable, "foolbox": torch_python, "art": torch_python}
    module = "experiments.benchmarks.boundary"
    workers = {name: Worker(python, module, name, f"--work={folder}") for name, python in pythons.items()}
    plan = [("ours", (what, 0)) for what in RATES] + [("foolbox", ()), ("art", ())]
    plan += [("ours", ("boundary", budget)) for budget in BUDGETS]
    names = [*RATES, "foolbox", "art", *(f"ours {budget}" for budget in BUDGETS)]
    results, load = {name: [] for name in names}, [os.getloadavg()[0]]
    try:
        for turn in range(rounds + 1):
            print(f"round {turn} of {rounds}, load average {load[-1]:.2f}", file=sys.stderr, flush=True)
            for name, (worker, arguments) in zip(names, plan, strict=True):
                if turn or worker == "ours":  # theirs compile nothing
                    found = workers[worker](*arguments)
                    results[name] += [found] if turn else []
            load.append(os.getloadavg()[0])
    finally:
        for worker in workers.values():
            worker.close()
    shares = [g["queries"] / g["wall"] * f["wall"] / f["queries"]
              for g, f in zip(results["gradient"], results["forward"], strict=True)]  # fmt: skip
    with np.load(folder / "problem.npz") as problem:
        points, right = len(problem["y"]), int((problem["logits"].argmax(1) == problem["y"]).sum())
    return {"versions": {name: worker.versions for name, worker in workers.items()}, "cores": os.cpu_count(),
            "load_average": load, "points": points, "labelled_rightly": right, "results": results,
            "peers_over_ours": compare(results), "gradient_share_of_forward": statistics.median(shares)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", help="a Python that has requirements.txt of this folder installed")
    parser.add_argument("--data_dir", help="folder with the CIFAR-10 original; default $MI_JAX_DATA/cifar10")
    parser.add_argument("--points", type=int, default=160, help="half members, half not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help="a folder for the trained target, which a second run then finds")
    parser.add_argument("--out", help="a JSON file for the record")
    parser.add_argument("--worker", choices=["ours", "foolbox", "art"], help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        with np.load(Path(flags.work) / "problem.npz") as stored:
            problem = dict(stored)
        return serve(*(our_worker(problem) if flags.worker == "ours" else their_worker(flags.worker, problem)))
    if not flags.torch_python:
        parser.error("--torch_python is missing: make benchmark-boundary makes an environment and names it")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(flags.work or scratch)
        prepare(folder, flags.data_dir, flags.points)
        record = measure(folder, flags.torch_python, flags.rounds)
    show(record)
    if flags.out:
        Path(flags.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
