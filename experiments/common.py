"""What every experiment shares: one frozen Config and its flags, the run from data to record, one-line errors."""

import dataclasses
import datetime
import importlib.metadata
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from mi_jax import attacks, audit, data, defenses, models, oracle, report, splits, store, training, white_box
from mi_jax.types import Dataset, Recipe, Split

IMAGE_ATTACKS = ("gap", "rotation", "translation", "noise", "confidence_threshold", "confidence_network")
TABLE_ATTACKS = ("gap", "noise", "confidence_threshold", "confidence_network")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, as its flags say; None: the data set's own default, resolved before anything is computed."""

    dataset: str = "digits"
    data_dir: str | None = None
    model: str | None = None
    n_train: int | None = None
    num_targets: int | None = None
    num_shadows: int | None = None
    num_points: int | None = None
    attacks: tuple[str, ...] | None = None
    defense: str = "none"
    budget: int | None = None
    cap: int | None = None
    allow_random_target: bool = False
    seed: int = 0
    preset: str = "cpu"


HELP = {
    "dataset": f"{', '.join(data.DATASETS)}, or npz:FILE with arrays x [N ...] in [0, 1] and y [N]",
    "data_dir": "folder with the originals of the data set; default $MI_JAX_DATA/DATASET",
    "model": "mlp (one hidden layer of 128), mlp2 (two), mlp:64,32 (any), cnn; default: the data set's",
    "n_train": "training rows of each model",
    "num_targets": "target models, each with shadow models of its own",
    "num_shadows": "shadow models per target",
    "num_points": "members, and as many non-members, attacked of each model; default: all n_train",
    "attacks": f"comma-separated, of: {', '.join(attacks.ATTACKS)}",
    "defense": f"NAME or NAME:STRENGTH, of: {', '.join(defenses.DEFENSES)}",
    "budget": "queries per example of attacks that can spend any number (noise, boundary, rays; each copy of combined)",
    "cap": "queries an attack may put to one target in all; what it leaves unfinished is marked; default: no cap",
    "allow_random_target": "go on although a target answers the same input differently when asked again",
    "seed": "of the split, of training and of every attack",
    "preset": "smoke (seconds), cpu (the default run), paper (the paper's sizes)",
}

# What a bare --dataset=NAME runs. Location's four sets at the paper's 1,600 do not exist (5,010 rows).
DEFAULTS = {
    "digits": {
        "model": "mlp",
        "n_train": 100,
        "num_targets": 15,
        "num_shadows": 4,
        "attacks": IMAGE_ATTACKS,
        "budget": 500,
    },
    "location30": {
        "model": "mlp2",
        "n_train": 1200,
        "num_targets": 3,
        "num_shadows": 1,
        "attacks": TABLE_ATTACKS,
        "budget": 500,
    },
}
PRESETS = {
    "smoke": {"n_train": 40, "num_targets": 2, "num_shadows": 1, "budget": 20},
    "cpu": {},
    "paper": {"num_targets": 3, "num_shadows": 1, "budget": 2500},
}


def defaults_for(dataset: Dataset) -> dict:
    """The settings of a data set that has none of its own: an npz of the user's."""
    known = DEFAULTS.get(dataset.name, {})
    image = dataset.binary is None
    return {
        "model": "cnn" if image and min(dataset.x.shape[1:3]) >= 16 else "mlp",
        "n_train": max(1, min(len(dataset.x) // 4, 1000)),
        "num_targets": 5,
        "num_shadows": 1,
        "attacks": IMAGE_ATTACKS if image else TABLE_ATTACKS,
        "budget": 250,
    } | known


def define_flags() -> None:
    """One absl flag for every field of Config."""
    for field in dataclasses.fields(Config):
        text, default = HELP[field.name], field.default
        if field.name == "attacks":
            flags.DEFINE_list(field.name, default, text)
        elif field.type is bool:
            flags.DEFINE_bool(field.name, default, text)
        elif "int" in str(field.type):
            flags.DEFINE_integer(field.name, default, text)
        else:
            flags.DEFINE_string(field.name, default, text)


def config_from_flags() -> Config:
    """The flags as given, checked as far as they can be without the data."""
    values = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(Config)}
    if values["attacks"] is not None:
        values["attacks"] = tuple(values["attacks"])
    return Config(**values)


def resolve(config: Config, dataset: Dataset) -> Config:
    """The config without a None: the data set's defaults, then the preset's, then what was said; checked."""
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}: known are {', '.join(PRESETS)}")
    said = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    values = defaults_for(dataset) | PRESETS[config.preset] | said
    values.setdefault("num_points", values["n_train"])
    for name in ("n_train", "num_targets", "num_shadows", "num_points", "budget"):
        if values[name] < 1:
            raise ValueError(f"{name}={values[name]}: expected at least 1")
    if config.cap is not None and config.cap < 1:
        raise ValueError(f"cap={config.cap}: expected at least 1")
    if values["num_points"] > values["n_train"]:
        raise ValueError(f"num_points={values['num_points']}: expected at most n_train={values['n_train']}")
    if not values["attacks"] or len(set(values["attacks"])) != len(values["attacks"]):
        raise ValueError(f"attacks={','.join(values['attacks'])}: expected at least one, none of them twice")
    if not 0 <= values["seed"] < 2**32:
        raise ValueError(f"seed={values['seed']}: expected a whole number in 0..{2**32 - 1}")
    return dataclasses.replace(config, **values)


def run(config: Config, *, recipe: Recipe = Recipe(), out: Path | None = None) -> tuple[dict, dict[str, np.ndarray]]:
    """Data, split, ensemble, attacks, record: (record, scores) as `report.py` documents them.

    Everything named in the config is looked up before the first model is trained. Finished members and conversations
    are kept in `out`, where the same run finds them again (`finish` removes them).
    """
    started = time.perf_counter()
    for name in config.attacks or ():
        if name not in attacks.ATTACKS:
            raise ValueError(f"unknown attack {name!r}: known are {', '.join(attacks.ATTACKS)}")
    defense = defenses.build(config.defense)
    dataset = data.load(config.dataset, config.data_dir)
    config = resolve(config, dataset)
    model = models.build(config.model, dataset.x.shape[1:], dataset.num_classes)
    task = attacks.Task(dataset.x.shape[1:], dataset.num_classes, dataset.binary, config.budget)
    chosen = {name: attacks.build(name, task) for name in config.attacks}
    example = jax.ShapeDtypeStruct(dataset.x.shape[1:], dataset.x.dtype)
    for candidate in itertools.chain(*chosen.values()):  # a perturbation of images refuses a table here
        jax.eval_shape(candidate.neighbours, jax.random.key(0), example)
    split = splits.disjoint(
        config.seed, len(dataset.x), config.n_train, num_targets=config.num_targets, num_shadows=config.num_shadows
    )
    training_key, attack_key = jax.random.split(jax.random.key(config.seed))
    environment = surroundings(config, dataset, recipe)
    keep = keeper(out, environment)
    params, history = train(training_key, model, recipe, dataset, split, penalty=defense.penalty, keep=keep)
    trained = time.perf_counter()

    target = oracles(model, params, dataset, output=defense.output)
    with bar("attacking", unit="query") as progress:
        record, scores = audit.audit(
            attack_key,
            dataset,
            split,
            target,
            chosen,
            num_points=config.num_points,
            cap=config.cap,
            allow_random_target=config.allow_random_target,
            keep=keep,
            progress=progress,
        )
    seconds = {"training": round(trained - started, 2), **record.pop("seconds")}
    seconds["total"] = round(time.perf_counter() - started, 2)
    record["models"]["epochs"] = [int(e) for e in np.asarray(history.epochs)]
    return {
        "config": dataclasses.asdict(config),
        "environment": environment,
        **record,
        "seconds": seconds,
    }, scores


def surroundings(config: Config, dataset: Dataset, recipe: Recipe) -> dict:
    """The environment of a run, with a digest of all that its results depend on: settings, data, versions, code."""
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("attacks", "data_dir")
    }
    settings |= {"recipe": recipe, "pool": [zlib.crc32(np.ascontiguousarray(a)) for a in (dataset.x, dataset.y)]}
    settings |= {name: value for name, value in environment().items() if name != "commit"}
    here = Path(__file__).parent
    return environment() | {"run_digest": store.digest(settings, [here, here.parent / "mi_jax"])}


def keeper(out: Path | None, environment: dict) -> store.Keep:
    """Keeps what is finished of a run in `out`, where the same run finds it again; how much it found is on record."""
    if out is None:
        return store.keep_nothing
    folder = parts(out, environment)
    environment["parts_found"] = len(list(folder.iterdir())) if folder.is_dir() else 0
    if environment["parts_found"]:
        print(f"going on with the {environment['parts_found']} finished parts in {folder}", file=sys.stderr)
    return store.keep_in(folder)


def parts(out: Path, environment: dict) -> Path:
    """The folder in `out` of what is finished of a run: another one for other settings or another line of code."""
    return out / "parts" / environment["run_digest"]


def train(
    key: jax.Array, model, recipe: Recipe, dataset: Dataset, split: Split, *, penalty=None, keep=store.keep_nothing
):
    """(params [K ...], history) of every model of the split, under a progress bar."""
    with bar("training", unit="model") as progress:
        return training.train_ensemble(
            key,
            model,
            recipe,
            dataset.x,
            dataset.y,
            split.members,
            penalty=penalty,
            keep=keep,
            progress=lambda done, total, epoch: progress(done, total, f"epoch {epoch}"),
        )


def oracles(model, params, dataset: Dataset, *, output=None) -> Callable[[int, str], oracle.Oracle | white_box.Glass]:
    """(k, access) -> model k of the ensemble as an attack may see it."""

    def target(k: int, access: str) -> oracle.Oracle | white_box.Glass:
        own = jax.tree.map(lambda p: p[k], params)
        if access == "gradient":
            return white_box.Glass(model.apply, own)
        return oracle.of_model(model, own, dataset.num_classes, access=access, output=output)

    return target


class bar:
    """A tqdm bar with the time left, as a context; called with (done, total, what is being done)."""

    def __init__(self, title: str, unit: str, total: int | None = None):
        self.bar = tqdm(desc=title, unit=unit, unit_scale=unit == "query", total=total, dynamic_ncols=True)

    def __enter__(self) -> "bar":
        return self

    def __exit__(self, *_):
        self.bar.close()

    def __call__(self, done: int, total: int, what: str) -> None:
        self.bar.total = total
        self.bar.set_postfix_str(what, refresh=False)
        self.add(done - self.bar.n)

    def add(self, more: int) -> None:
        self.bar.update(more)


def environment() -> dict:
    """Versions, device and commit of this run."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the checkout this file stands in, with + where the tree differs; 'unknown' outside of one."""
    here = Path(__file__).parent
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def out_folder(out: str | None, name: str) -> Path:
    """The folder of this run, shown to be writable before anything is computed; made when there is a result."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder = Path(out) if out else Path("results") / f"{stamp}-{name.replace(':', '-').replace('/', '-')}"
    try:
        standing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=standing):
            pass
    except OSError as error:
        raise ValueError(f"--out={folder}: expected a folder that can be written ({error.strerror})") from None
    return folder


def parse(argv: list[str]) -> list[str]:
    """What remains of the arguments when the flags are taken; a flag that cannot be ends the program in one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def main(body: Callable[[], None]) -> Callable[[list[str]], int]:
    """`body` as a program: a ValueError becomes one line on standard error and exit code 2."""

    def program(argv: list[str]) -> int:
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}: every option is written --name=value")
            body()
        except ValueError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        return 0

    return program


def finish(folder: Path, record: dict, scores: dict[str, np.ndarray]) -> None:
    """Writes a run, removes the parts it was put together from, and prints its table."""
    report.write(folder, record, scores)
    store.remove(parts(folder, record["environment"]))
    show(record, folder)


def show(record: dict, folder: Path) -> None:
    """Prints the table of a record, and where the rest of it is."""
    accuracy = record["models"]
    print(
        f"\n{record['config']['dataset']}, {record['config']['model']}, n={record['config']['n_train']}, "
        f"{record['config']['num_targets']} targets: train accuracy {report.percent(accuracy['train_accuracy'])}, "
        f"test {report.percent(accuracy['test_accuracy'])}\n"
    )
    print(report.table(record))
    print(f"\nmean over targets [95 % interval]; {record['seconds']['total']:.0f} s; see {folder / 'report.html'}")
