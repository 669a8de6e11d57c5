"""What holds for the whole package: who may import whom, what a perturbation keeps, how long a module may be.

Imports are read from the syntax tree, those inside functions too, and followed through the package; that
importing `a.b` runs `a/__init__.py` counts. A module that does not exist breaks no rule.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mi_jax.perturbations import PERTURBATIONS
from mi_jax.testing import check_perturbation

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "mi_jax"

LABEL_ONLY = ("attacks", "perturbations")
KNOWS_THE_TARGET = ("models", "training", "privacy", "defenses", "data", "querying", "study")
# From the top floor down: a package imports those below it, never one above or beside it.
FLOORS = (
    {"__main__"},
    {"cli"},
    {"external"},
    {"study"},
    {"audit"},
    {"trials"},
    {"defenses"},
    {"training"},
    {"privacy"},
    {"models"},
    {"querying"},
    {"data", "attacks", "evaluation"},
    {"perturbations", "store", "testing", "environment"},
    {"randomness"},
    {"types"},
)
MAX_LINES, MAX_NAMES, MAX_FUNCTION = 310, 20, 40
# Declared, although nothing of ours imports it -> why.
ONLY_DECLARED = {"importlib-resources": "tensorflow-datasets imports it without declaring it"}
# Imported only where a user's model comes from there.
THEIRS = {"torch", "keras", "xgboost"}
# The same function in several places -> why one name is right.
SAME_NAME = {
    "build": "each catalogue makes what its names stand for",
    "read_rows": "each source reads its original",
    "init": "the state of a measure before its first query",
    "main": "a command",
    "perturbation_family": "an attack with one threshold for all points, and one that judges every point",
    **dict.fromkeys(("oslo", "yoqo"), "the crafting of questions, and the attack that puts them"),
}
# Put together from parts, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(" + "TO" + "DO|FIX" + r"ME)\b")
PLACE_OF_ONE_MACHINE = re.compile(r"(?<![\w.~-])/(?:home|Users|root|work|tmp)/\w|\b[A-Z]:\\+Users\\")


def sources(root: Path) -> dict[str, Path]:
    """Returns module name -> file of everything in the package under root, `mi_jax` itself included."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def named_in(node: ast.AST, package: str) -> list[str]:
    """Returns the modules that one node of a syntax tree may import; `from a import b` may mean a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        return [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    return []


def imports(root: Path) -> dict[str, set[str]]:
    """Returns module of the package -> everything it names in an import, with the packages above it."""
    graph = {}
    for module, file in sources(root).items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        names = {name for node in ast.walk(ast.parse(file.read_text())) for name in named_in(node, package)}
        parts = [name.split(".") for name in (*names, module)]
        graph[module] = {".".join(p[:size]) for p in parts for size in range(1, len(p) + 1)} - {module}
    return graph


def reached(graph: dict[str, set[str]], module: str) -> set[str]:
    """Returns everything that importing the module may import, however indirectly."""
    seen, waiting = set(), [module]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting.extend(new)
    return seen


def broken_import_rules(root: Path) -> list[str]:
    """Returns one line for each import in the package under root that the architecture forbids."""
    graph = imports(root)
    full = f"{PACKAGE}.{{}}".format
    lines = []
    for module in map(full, LABEL_ONLY):
        inside = [name for name in graph if name == module or name.startswith(f"{module}.")]
        wrong = {full(name) for name in KNOWS_THE_TARGET} & set().union(*(reached(graph, name) for name in inside))
        lines += [f"{module} reaches {name}" for name in sorted(wrong)]
    if "jax" in reached(graph, full("evaluation.metrics")):
        lines.append(f"{full('evaluation.metrics')} reaches jax")
    for module, names in graph.items():
        forbidden = {"tensorflow", "experiments"} | (set() if module == full("evaluation.plots") else {"matplotlib"})
        lines += [f"{module} imports {name}" for name in sorted(names & forbidden)]
        floor = floor_of(module)
        others = [name for name in sorted(names) if name.startswith(f"{PACKAGE}.") and room(name) != room(module)]
        above = [name for name in others if floor_of(name) <= floor]
        lines += [f"{module} imports {name}, which is not below it" for name in above]
    return lines


def room(module: str) -> str:
    """Returns the package or module directly under `mi_jax` that a module belongs to."""
    return module.removeprefix(f"{PACKAGE}.").partition(".")[0] if module != PACKAGE else ""


def floor_of(module: str) -> int:
    """Returns the floor of a module, counted from the top; below all of them for what is not of the package."""
    inside = module.startswith(f"{PACKAGE}.")
    return next((i for i, floor in enumerate(FLOORS) if inside and room(module) in floor), len(FLOORS))


def tracked_files() -> list[Path]:
    """Returns the files that git tracks or would add, notebooks and pages included; skips where git cannot say."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [file for name in listed.split("\0") if name and (file := REPOSITORY / name).is_file()]


def lines_matching(pattern: re.Pattern, files: list[Path]) -> list[str]:
    found = []
    for file in files:
        lines = file.read_text(errors="ignore").splitlines()
        found += [
            f"{file.name}:{number}: {line.strip()[:80]}" for number, line in enumerate(lines, 1) if pattern.search(line)
        ]
    return found


def test_attacks_reach_no_model_and_numbers_no_framework():
    assert PACKAGE in sources(REPOSITORY) and f"{PACKAGE}.perturbations" in sources(REPOSITORY)
    assert broken_import_rules(REPOSITORY) == []


@pytest.mark.parametrize(
    "module, line, broken",
    [
        ("attacks", "import mi_jax.models", "mi_jax.attacks reaches mi_jax.models"),
        ("attacks", "from mi_jax import models", "mi_jax.attacks reaches mi_jax.models"),
        ("attacks", "from mi_jax.models import mlp", "mi_jax.attacks reaches mi_jax.models"),
        ("attacks.boundary", "from .. import training", "mi_jax.attacks reaches mi_jax.training"),
        ("attacks.measures", "from ..data import load", "mi_jax.attacks reaches mi_jax.data"),
        ("perturbations", "from mi_jax import helper", "mi_jax.perturbations reaches mi_jax.data"),
        ("attacks.classifiers", "def f():\n    import mi_jax.querying", "mi_jax.attacks reaches mi_jax.querying"),
        ("attacks.noise", "from ..models import cnn", "mi_jax.attacks reaches mi_jax.models"),
        ("attacks", "m = importlib.import_module('mi_jax.models')", "mi_jax.attacks reaches mi_jax.models"),
        ("__init__", "from mi_jax import training", "mi_jax.attacks reaches mi_jax.training"),
        ("evaluation.metrics", "from mi_jax.helper import f", "mi_jax.evaluation.metrics reaches jax"),
        ("evaluation.metrics", "import jax.numpy as jnp", "mi_jax.evaluation.metrics reaches jax"),
        ("oracle", "import matplotlib.pyplot as plt", "mi_jax.oracle imports matplotlib"),
        ("data", "import tensorflow as tf", "mi_jax.data imports tensorflow"),
        ("audit", "from experiments import common", "mi_jax.audit imports experiments"),
        ("data", "from mi_jax import models", "mi_jax.data imports mi_jax.models, which is not below it"),
        (
            "privacy.dp_sgd",
            "from mi_jax.training import train",
            "mi_jax.privacy.dp_sgd imports mi_jax.training.train, which is not below it",
        ),
        (
            "evaluation.paired",
            "from mi_jax import data",
            "mi_jax.evaluation.paired imports mi_jax.data, which is not below it",
        ),
    ],
)
def test_import_rules_notice_a_breach(tmp_path, module, line, broken):
    files = {"helper": "import jax\nimport mi_jax.data", "attacks" if "." not in module else "audit": "", module: line}
    for name, text in files.items():
        file = tmp_path / PACKAGE / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert broken in broken_import_rules(tmp_path)


def test_import_rules_allow_what_they_do_not_name(tmp_path):
    (tmp_path / PACKAGE).mkdir()
    allowed = {
        "attacks": "import jax\nfrom mi_jax.types import Attack",
        "types": "import jax",
        "evaluation/plots": "import matplotlib",
        "data": "import tensorflow_datasets",
        "audit": "from mi_jax import data, attacks",
        "evaluation/metrics": "from scipy import stats",
    }
    (tmp_path / PACKAGE / "evaluation").mkdir()
    for name, text in allowed.items():
        (tmp_path / PACKAGE / f"{name}.py").write_text(text)
    assert broken_import_rules(tmp_path) == []


@pytest.mark.parametrize("name, strength", [(name, s) for name, family in PERTURBATIONS.items() for s in family.grid])
def test_perturbation_keeps_the_contract_at_every_strength_of_its_grid(name, strength):
    make = PERTURBATIONS[name].make
    assert make(strength) is make(strength)  # compiled programs are found again by the identity of the function
    check_perturbation(make(strength), (8, 9, 2))


@pytest.mark.parametrize("module", sources(REPOSITORY))
def test_module_is_short_and_its_public_functions_have_docstrings(module):
    text = sources(REPOSITORY)[module].read_text()
    assert len(text.splitlines()) <= MAX_LINES
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    public = [node for node in functions if not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", sources(REPOSITORY))
def test_a_function_is_read_at_once(module):
    long = []
    for node in ast.walk(ast.parse(sources(REPOSITORY)[module].read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            lines = node.end_lineno - first.lineno + 1  # the docstring may be as long as it has to be
            long += [f"{node.name}: {lines} lines"] if lines > MAX_FUNCTION else []
    assert long == []


def test_one_name_stands_for_one_function_or_type():
    places = {}
    for module, file in sources(REPOSITORY).items():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SAME_NAME} == {}


def distribution(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_every_dependency_is_imported_and_every_import_is_declared():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {distribution(requirement) for requirement in project["dependencies"]}
    names = {name.partition(".")[0] for module in imports(REPOSITORY).values() for name in module}
    names -= {PACKAGE, *sys.stdlib_module_names}
    of_module = importlib.metadata.packages_distributions()
    extras = {distribution(one) for extra in project["optional-dependencies"].values() for one in extra}
    imported = {distribution(found) for name in names - THEIRS for found in of_module.get(name, [name])} - (
        extras - declared
    )
    assert imported == declared - set(ONLY_DECLARED) and set(ONLY_DECLARED) <= declared and not THEIRS & declared


def test_nothing_is_left_for_later():
    files = [file for file in tracked_files() if file.suffix in (".py", ".ipynb")]
    assert files and lines_matching(UNFINISHED, files) == []


def test_no_file_names_a_place_of_one_machine():
    files = tracked_files()
    assert files and lines_matching(PLACE_OF_ONE_MACHINE, files) == []


@pytest.mark.parametrize("folder", ["home", "Users", "root", "work", "tmp"])
def test_a_place_of_one_machine_is_noticed(folder):
    assert PLACE_OF_ONE_MACHINE.search(f"open('/{folder}/someone/file')")
    assert PLACE_OF_ONE_MACHINE.search(f"/{folder}/someone/file")
    assert not PLACE_OF_ONE_MACHINE.search(f"https://example.org/{folder}/page")
    assert not PLACE_OF_ONE_MACHINE.search(f"results/{folder}/file")


def test_the_package_has_few_names_and_every_one_a_floor():
    names = {room(module) for module in sources(REPOSITORY)} - {""}
    assert names == set().union(*FLOORS) and len(names) <= MAX_NAMES


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    tree = (REPOSITORY / "README.md").read_text().split("## The tree")[1].split("```")[1]
    lines = [line for line in tree.splitlines() if line]
    top, inside = ([re.match(rf" {{{indent}}}(\S+)", line) for line in lines] for indent in (0, 2))
    tracked = {file.relative_to(REPOSITORY).parts for file in tracked_files()}
    folders = {parts[0] for parts in tracked if len(parts) > 1 and not parts[0].startswith(".")}
    assert {match[1].rstrip("/") for match in top if match} == folders
    named = {match[1] for match in inside if match}
    on_disk = {f"{parts[1]}/" if len(parts) > 2 else parts[1] for parts in tracked if parts[0] == PACKAGE}
    assert named == {name for name in on_disk if name.rstrip("/") not in ("__init__.py", "py.typed")}
