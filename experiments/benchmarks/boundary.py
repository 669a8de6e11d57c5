"""Prints and stores what a boundary distance costs here, in Foolbox and in ART: queries, seconds, distance.

Artefact: a printed table and the record in --out (results/records/benchmark-boundary.json).
Command:  make benchmark-boundary    or    python -m experiments.benchmarks.boundary --torch_python=PATH --out=FILE
Method:   the target is the paper's CNN trained on 2,500 real CIFAR-10 images (--data_dir or $MI_JAX_DATA/cifar10), for
          the other two a PyTorch copy with the same weights, whose logits are checked against ours. All three attack
          the same points, half of them members: misclassified ones too, as the membership attacks of the libraries do;
          here such a point costs one query. Distances are those of the correctly labelled points. HopSkipJump runs for
          10 iterations from 100 queries on, about 2,400 queries a point; ours with that budget and with smaller ones,
          to find what it needs for the distance the others reach. Every library is a process of its own, measured in
          turn (`workers.py`).
Goal:     3 times Foolbox, 5 times ART, at the distance they reach.
Hardware: two cores, 40 minutes.
Status:   run, below target for ART: three rounds, 160 points, about 120 of them labelled correctly. Seconds, queries,
          median distance: ours 103.5, 298,900, 0.76 with 2,409 queries a point, 63.3, 162,500, 1.06 with 1,300 and
          14.9, 37,300, 2.59 with 300; Foolbox 197.3, 404,500, 4.71; ART 274.6, 383,700, 1.08. Against Foolbox 2.0 times
          faster at a sixth of its distance, 13.8 times at its distance. Against ART 2.7 times faster at 0.70 of its
          distance and 4.3 times at its distance (4.3, 5.2, 4.3 in the three rounds).
Notes:    NOTES.md, what bounds it and what was tried.
"""

import os
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from experiments.benchmarks import cnn, workers

BUDGETS = (2409, 1300, 609, 300)  # ours, queries a point
RATES = ("forward", "gradient")
ITERATIONS, QUERIES = 10, 100  # theirs: 100 sqrt(t) queries in iteration t, 2,400 with the rest
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
    np.savez(folder / "problem.npz", x=x, y=y, rows=rows, logits=model.apply(params, x), **cnn.flatten(params))


def summarise(distances: np.ndarray, problem: dict, queries: int) -> dict:
    """The results of one attack: distances [P], of which those of correctly labelled points count."""
    distances = distances[problem["logits"].argmax(1) == problem["y"]]
    failed = ~np.isfinite(distances) | (distances <= 0)
    return {"queries": queries, "queries_per_point": queries / len(problem["y"]), "failures": int(failed.sum()),
            "median": float(np.median(distances[~failed])), "mean": float(distances[~failed].mean())}  # fmt: skip


def our_worker(problem: dict) -> tuple[Callable[..., dict], dict]:
    """(run, versions): run("boundary", budget), run("forward", 0) or run("gradient", 0) -> results."""
    import jax

    from mi_jax import attacks, models
    from mi_jax.attacks import boundary, schedules
    from mi_jax.querying import driver, oracle, sizes

    params = jax.tree.map(jax.numpy.asarray, cnn.unflatten(problem))
    target, key = oracle.model_oracle(models.build("cnn", (32, 32, 3), 10), params, 10), jax.random.key(1)
    x, y, rows = (problem[name] for name in ("x", "y", "rows"))
    attack = attacks.build("boundary", attacks.AttackContext((32, 32, 3), 10, None, BUDGETS[0]))[0]
    correct = np.flatnonzero(problem["logits"].argmax(1) == y)
    chunk = np.resize(correct, sizes.POINTS)  # one full chunk of points, for the rates
    images = jax.random.uniform(key, (len(chunk) * 24, 32, 32, 3))

    def forward() -> dict:
        for _ in range(8):
            jax.block_until_ready(target.answer(images, len(images)))
        return {"queries": 8 * len(images)}

    def gradient() -> dict:
        """Queries of gradient estimates and nothing else, as many as the forward passes."""
        measure = boundary.boundary_distance(schedules.Schedule(1, 192, 1, 1))
        measure = measure._replace(rounds=tuple(boundary.gradient_rounds(192)))
        answers = driver.query(target, attack._replace(measure=measure), key, x[chunk], y[chunk], rows[chunk])
        return {"queries": int(answers.queries.sum())}

    def distance(budget: int) -> dict:
        measure = boundary.boundary_distance(schedules.schedule(budget, 3072))
        answers = driver.query(target, attack._replace(measure=measure), key, x, y, rows,
                               points_at_once=min(sizes.POINTS, len(correct)))  # fmt: skip
        return summarise(answers.features[:, 0, -1], problem, int(answers.queries.sum()))

    def run(what: str, budget: int) -> dict:
        return {"forward": forward, "gradient": gradient, "boundary": partial(distance, budget)}[what]()

    return run, workers.versions("jax", "jaxlib")


def attack_with_art(network, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The adversarial images of ART's HopSkipJump."""
    import torch
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import PyTorchClassifier

    del labels  # it takes the network's own
    classifier = PyTorchClassifier(
        network, torch.nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = HopSkipJump(classifier, batch_size=1024, norm=2, max_iter=ITERATIONS, init_eval=QUERIES, verbose=False)
    return attack.generate(images)


def attack_with_foolbox(network, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The adversarial images of Foolbox's HopSkipJump."""
    import foolbox
    import torch

    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.HopSkipJumpAttack(steps=ITERATIONS, initial_gradient_eval_steps=QUERIES)
    criterion = foolbox.criteria.Misclassification(torch.from_numpy(labels.astype(np.int64)))
    return attack.run(model, torch.from_numpy(images), criterion).numpy()


PEERS = {"foolbox": (attack_with_foolbox, "foolbox"), "art": (attack_with_art, "adversarial-robustness-toolbox")}


def counted(network) -> tuple:
    """(a network in the faster memory layout, the number of rows it has answered so far [1])."""
    import torch

    count = [0]

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            count[0] += len(x)
            return self.network(x.float().contiguous(memory_format=torch.channels_last))

    return Counted().eval().to(memory_format=torch.channels_last), count


def peer_worker(name: str, problem: dict) -> tuple[Callable[..., dict], dict]:
    """(run, versions): run() -> results of HopSkipJump as the library ships it."""
    import torch

    (attack, package), (network, count) = PEERS[name], counted(cnn.torch_cnn(problem))
    images = np.ascontiguousarray(problem["x"].transpose(0, 3, 1, 2))
    with torch.no_grad():
        apart = np.abs(network(torch.from_numpy(images)).numpy() - problem["logits"]).max()
    if apart > LIMIT:
        raise ValueError(f"logits of the PyTorch copy differ by {apart}, expected at most {LIMIT}")

    def run() -> dict:
        torch.manual_seed(0)
        np.random.seed(0)
        count[0] = 0
        with torch.no_grad():
            adversarial = attack(network, images, problem["y"])
            queries = count[0]
            labels = network(torch.from_numpy(adversarial)).argmax(1).numpy()
        apart = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
        distances = np.where(labels != problem["y"], np.linalg.norm(apart, axis=1), np.nan)
        return summarise(distances, problem, queries)

    return run, {"torch": torch.__version__, name: workers.versions(package)[package]}


def make_worker(flags: Namespace) -> tuple[Callable[..., dict], dict]:
    """The worker that --worker names."""
    problem = workers.read_problem(flags.work)
    return our_worker(problem) if flags.worker == "ours" else peer_worker(flags.worker, problem)


def compare(results: dict) -> dict:
    """What one peer costs beside ours, at equal queries and at equal distance; medians of ratios within a round."""
    peers = {}
    for peer in PEERS:
        theirs = results[peer]

        def ratio(name: str, budget: int, theirs=theirs) -> float:
            rounds = zip(theirs, results[f"ours {budget}"], strict=True)
            return statistics.median(their[name] / our[name] for their, our in rounds)

        names, median = ("wall", "cpu", "queries", "median"), statistics.median(r["median"] for r in theirs)
        peers[peer] = {f"{name}_at_equal_queries": ratio(name, BUDGETS[0]) for name in names}
        enough = [budget for budget in BUDGETS if results[f"ours {budget}"][0]["median"] <= median]
        if enough:
            peers[peer]["budget_for_equal_distance"] = min(enough)
            peers[peer] |= {f"{name}_at_equal_distance": ratio(name, min(enough)) for name in names[:3]}
    return peers


def show(record: dict) -> None:
    """Prints a line for each attack, the ratios to each peer and the rate of the gradient phase."""
    columns = {"wall": 1, "cpu": 1, "queries": 0, "median": 3, "mean": 3, "failures": 3}  # with their decimals
    print(" " * 14 + "".join(f"{name:>9}" for name in ("wall s", "CPU s", *list(columns)[2:])))
    for name, rounds in record["results"].items():
        medians = {key: statistics.median(r[key] for r in rounds) for key in columns if key in rounds[0]}
        print(f"{name:14}" + "".join(f"{value:9.{columns[key]}f}" for key, value in medians.items()))
    for peer, entry in record["peers_over_ours"].items():
        print(f"{peer} over ours: " + ", ".join(f"{key} {value:.3g}" for key, value in entry.items()))
    print(f"gradient phase: {record['gradient_share_of_forward']:.3f} of the forward rate")


def measure(flags: Namespace, folder: Path) -> dict:
    """The record of one sitting."""
    prepare(folder, flags.data_dir, flags.points)
    pythons = {"ours": sys.executable} | dict.fromkeys(PEERS, flags.torch_python)
    with ExitStack() as stack:
        libraries = {name: stack.enter_context(workers.Worker(python, "boundary", name, folder))
                     for name, python in pythons.items()}  # fmt: skip
        jobs = {what: partial(libraries["ours"], what, 0) for what in RATES} | {p: libraries[p] for p in PEERS}
        jobs |= {f"ours {budget}": partial(libraries["ours"], "boundary", budget) for budget in BUDGETS}
        _, results, load = workers.run_rounds(jobs, flags.rounds, compiled=jobs.keys() - PEERS.keys())
    shares = [g["queries"] / g["wall"] * f["wall"] / f["queries"]
              for g, f in zip(results["gradient"], results["forward"], strict=True)]  # fmt: skip
    problem = workers.read_problem(folder)
    correct = int((problem["logits"].argmax(1) == problem["y"]).sum())
    return {"versions": {name: worker.versions for name, worker in libraries.items()}, "cores": os.cpu_count(),
            "load_average": load, "points": len(problem["y"]), "labelled_rightly": correct, "results": results,
            "peers_over_ours": compare(results), "gradient_share_of_forward": statistics.median(shares)}  # fmt: skip


if __name__ == "__main__":
    workers.main(__doc__, ("ours", *PEERS), make_worker, measure, show, rounds=3,
                 data_dir=(None, "folder with the CIFAR-10 original; default $MI_JAX_DATA/cifar10"),
                 points=(160, "half members, half not"))  # fmt: skip
