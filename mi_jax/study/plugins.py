"""Files of users that add to the catalogues: `--plugin=FILE.py` makes what they register known to all commands.

A plugin is a Python file that adds entries to ATTACKS, PERTURBATIONS, MODELS, DEFENSES, OPTIMIZERS or DATASETS, under
new names. `digest` covers them and all entries that models are trained with, so that no cached result outlives an edit.
"""

import hashlib
import json
import sys
import traceback
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mi_jax import attacks, data, defenses, models, perturbations, store
from mi_jax.defenses.catalogue import Factory
from mi_jax.training import steps

CATALOGUES: dict[str, dict[str, Any]] = {
    "ATTACKS": attacks.ATTACKS,
    "PERTURBATIONS": perturbations.PERTURBATIONS,
    "MODELS": models.MODELS,
    "DEFENSES": defenses.DEFENSES,
    "OPTIMIZERS": steps.OPTIMIZERS,
    "DATASETS": data.DATASETS,
}
_KINDS: dict[str, Any] = {"PERTURBATIONS": perturbations.Family, "DEFENSES": Factory}  # the others hold functions
_loaded: dict[Path, tuple[str, dict[str, dict[str, Any]]]] = {}  # file -> (sha256, its entries by catalogue)


def load_plugins(files: Iterable[str]) -> None:
    """Runs each file, once until it is edited; later calls do nothing.

    Raises ValueError, in one line, and leaves the catalogues as they were, for a file that cannot be read, that raises,
    or that registers nothing, something of the wrong kind, or a name that is taken.
    """
    for file in files:
        path, content = _read(file)
        sha = hashlib.sha256(content).hexdigest()
        known, entries = _loaded.get(path, ("", {}))
        if known == sha and all(CATALOGUES[c].get(n) is e for c, new in entries.items() for n, e in new.items()):
            continue
        before = {catalogue: dict(values) for catalogue, values in CATALOGUES.items()}
        try:
            for catalogue, old in entries.items():  # of the file before it was edited
                for name in old:
                    CATALOGUES[catalogue].pop(name, None)
            _loaded[path] = sha, _new_entries(file, path, content)
        except ValueError:
            for catalogue, values in before.items():
                CATALOGUES[catalogue].clear()
                CATALOGUES[catalogue].update(values)
            raise


def _read(file: str) -> tuple[Path, bytes]:
    path = Path(file).expanduser().absolute()
    try:
        return path, path.read_bytes()
    except OSError as error:
        raise ValueError(f"plugin={file}: {error.strerror}, expected a file of Python code") from None


def _new_entries(file: str, path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    """Runs a file and returns catalogue -> name -> entry of what it has registered."""
    before = {catalogue: dict(values) for catalogue, values in CATALOGUES.items()}
    module = types.ModuleType(f"mi_jax_plugin_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)  # not an import: a .pyc may be older than an edit
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f" (line {lines[-1]})" if lines else ""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"plugin={file}: {text}{place}, expected code that runs") from error
    taken = [f"{name} in {catalogue}" for catalogue, values in before.items() for name, entry in values.items()
             if CATALOGUES[catalogue].get(name) is not entry]  # fmt: skip
    if taken:
        raise ValueError(f"plugin={file}: {', '.join(taken)} replaced or deleted, expected new names")
    new = {catalogue: {name: entry for name, entry in CATALOGUES[catalogue].items() if name not in before[catalogue]}
           for catalogue in CATALOGUES}  # fmt: skip
    if not any(new.values()):
        raise ValueError(f"plugin={file}: registers nothing, expected a new entry in one of {', '.join(CATALOGUES)}")
    for catalogue, entries in new.items():
        for name, entry in entries.items():
            _check_entry(f"plugin={file}: {name!r} in {catalogue}", catalogue, name, entry)
    return new


def _check_entry(label: str, catalogue: str, name: Any, entry: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{label}, expected a name of letters, digits and _")
    if catalogue == "PERTURBATIONS" and name in attacks.ATTACKS:
        raise ValueError(f"{label}: an attack has this name, expected another one")
    kind = _KINDS.get(catalogue)
    if not (isinstance(entry, kind) if kind else callable(entry)):
        expected = f"{kind.__module__}.{kind.__qualname__}" if kind else "a function"
        raise ValueError(f"{label} is of type {type(entry).__qualname__}, expected {expected}")


def digest(files: Iterable[str], model: str, defense_names: Sequence[str]) -> str:
    """Returns 16 hex digits that change with these plugins, and with the code of model, defenses and optimizers.

    The code of this package is not covered, for which there is `store.run_digest`.
    """
    plugins = [hashlib.sha256(_read(file)[1]).hexdigest() for file in files]
    names = {"MODELS": [model], "DEFENSES": [name.partition(":")[0] for name in defense_names]}
    names["OPTIMIZERS"] = list(steps.OPTIMIZERS)
    entries = {c: {name: store.describe_code(CATALOGUES[c].get(name)) for name in used} for c, used in names.items()}
    return hashlib.sha256(json.dumps([plugins, entries], sort_keys=True).encode()).hexdigest()[:16]
