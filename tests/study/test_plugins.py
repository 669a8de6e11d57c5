"""A plugin's entries are known by name, its content is in the digest of a run, and a wrong file changes nothing."""

import numpy as np
import pytest

from mi_jax import attacks, data, models, study
from mi_jax.study import plugins, runs, studies
from mi_jax.study.config import Config
from mi_jax.types import Recipe

PLUGIN = """
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mi_jax import attacks, data, perturbations
from mi_jax.attacks import measures
from mi_jax.data import DATASETS
from mi_jax.defenses.catalogue import DEFENSES, Factory
from mi_jax.models import MODELS
from mi_jax.perturbations import PERTURBATIONS, Family
from mi_jax.training.steps import OPTIMIZERS
from mi_jax.types import Attack, Defense


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def brighten(by):
    return lambda key, x: jnp.stack([x, jnp.clip(x + by, 0, 1)])


def twice(context):
    return attacks.build("gap", context)


MODELS["net"] = lambda shape, num_classes: Net(num_classes)
PERTURBATIONS["brightness"] = Family(brighten, grid=(0.1,), default=0.1)
attacks.ATTACKS["twice"] = twice
DEFENSES["lion"] = Factory(lambda: Defense(recipe=lambda recipe: recipe._replace(optimizer="lion", max_epochs=3)), None)
OPTIMIZERS["lion"] = lambda rate, steps: optax.lion(rate)
DATASETS["half"] = lambda data_dir: data.load("digits")._replace(name="half")
"""


@pytest.fixture(autouse=True)
def catalogues_as_before(monkeypatch):
    before = {catalogue: dict(entries) for catalogue, entries in plugins.CATALOGUES.items()}
    monkeypatch.setattr(plugins, "_loaded", {})
    yield before
    for catalogue, entries in before.items():
        plugins.CATALOGUES[catalogue].clear()
        plugins.CATALOGUES[catalogue].update(entries)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return file


def test_an_audit_finds_what_a_plugin_adds(file):
    config = Config("half", model="net", defense="lion", attacks=("gap", "twice", "brightness"), preset="smoke",
                    plugin=(str(file),))  # fmt: skip
    record, _ = study.run(config)
    assert set(record["attacks"]) == {"gap", "twice", "brightness"} and record["models"]["epochs"] == [3] * 4
    assert record["attacks"]["gap"]["balanced_accuracy"] == record["attacks"]["twice"]["balanced_accuracy"]
    assert record["config"]["plugin"] == (str(file),)


def digest(config: Config) -> str:
    plugins.load_plugins(config.plugin)
    return runs.run_environment(config, data.load("digits"), Recipe())["run_digest"]


def test_the_digest_changes_with_the_content_of_a_plugin(file):
    config = Config(model="mlp", plugin=(str(file),))
    first = digest(config)
    assert digest(config) == first != digest(Config(model="mlp"))
    first_model = models.build("net", (2,), 3)
    file.write_text(PLUGIN.replace("lion(rate)", "sgd(rate)"))  # as long, within the same second
    assert digest(config) != first and models.build("net", (2,), 3) is not first_model


def test_a_plugin_is_run_once_until_it_is_edited(file):
    plugins.load_plugins([str(file)])
    entry = attacks.ATTACKS["twice"]
    plugins.load_plugins([str(file), str(file)])
    assert attacks.ATTACKS["twice"] is entry
    file.write_text(PLUGIN.replace('"twice"', '"other"'))
    plugins.load_plugins([str(file)])
    assert "twice" not in attacks.ATTACKS and attacks.ATTACKS["other"] is not entry


def make(shape, num_classes):
    return None


def test_the_digest_changes_with_entries_that_a_program_registers_itself(monkeypatch):
    config, plain = Config(model="own"), digest(Config(model="own"))
    monkeypatch.setitem(models.MODELS, "own", make)  # its source: this file
    registered = digest(config)
    exec("def made(shape, num_classes): return 1", scope := {"__name__": "notebook"})
    monkeypatch.setitem(models.MODELS, "own", scope["made"])  # no file: its byte code
    assert len({plain, registered, digest(config)}) == 3
    monkeypatch.setitem(models.MODELS, "another", make)
    assert digest(Config(model="mlp")) == digest(Config(model="mlp"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1", "registers nothing, expected a new entry in one of ATTACKS, PERTURBATIONS, MODELS, DEFENSES, OPTIM"),
        ("import mi_jax\nx = mi_jax.nothing", r"AttributeError: .* 'nothing' \(line 2\), expected code that runs"),
        ("raise SystemExit(3)", r"SystemExit: 3 \(line 1\)"),
        ("def f(:", r"SyntaxError: invalid syntax .*mine.py, line 1\)"),
        ("\0", "(SyntaxError|ValueError): source code .* null bytes"),
        ("from mi_jax.models import MODELS\nMODELS['mlp'] = print", "mlp in MODELS replaced or deleted, expected new"),
        ("from mi_jax.models import MODELS\nMODELS.clear()", "mlp in MODELS, mlp2 in MODELS, .* replaced or deleted"),
        ("from mi_jax.models import MODELS\nMODELS['a:1'] = print", "'a:1' in MODELS, expected a name of letters"),
        ("from mi_jax.models import MODELS\nMODELS['own'] = 3", "'own' in MODELS is of type int, expected a function"),
        ("from mi_jax.defenses import DEFENSES\nDEFENSES['own'] = print",
         "'own' in DEFENSES is of type builtin_function_or_method, expected mi_jax.defenses.catalogue.Factory"),
        ("from mi_jax.perturbations import *\nPERTURBATIONS['gap'] = Family(print, (1,), 1)",
         "'gap' in PERTURBATIONS: an attack has this name"),
    ],
)  # fmt: skip
def test_a_wrong_plugin_is_refused_in_one_line_and_changes_nothing(text, message, file, catalogues_as_before):
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^plugin=.*mine.py: {message}") as caught:
        plugins.load_plugins([str(file)])
    assert "\n" not in str(caught.value)
    assert {name: dict(entries) for name, entries in plugins.CATALOGUES.items()} == catalogues_as_before


@pytest.mark.parametrize(
    "returned, says",
    [
        ("jnp.stack([x, x + by])", r"returned values in \[0, 1.0375\], expected values in \[0, 1\]"),
        ("jnp.stack([1 - x, x])", "returned the example as number 2 of 2, expected it first"),
        ("jnp.stack([x, x / x.sum() * jnp.nan])", "returned NaN or infinite values, expected finite values"),
    ],
)
def test_a_perturbation_of_a_plugin_is_called_before_anything_is_trained(file, monkeypatch, returned, says):
    file.write_text(PLUGIN.replace("jnp.stack([x, jnp.clip(x + by, 0, 1)])", returned))
    monkeypatch.setattr(studies.ensembles, "train_grid", None)
    with pytest.raises(ValueError, match=f"^perturbation brightness 0.1: {says}$"):
        study.prepare(Config(model="net", attacks=("gap", "brightness"), preset="smoke", plugin=(str(file),)))


@pytest.mark.parametrize("name, reason", [("none.py", "No such file"), ("", "Is a directory")])
def test_a_plugin_that_cannot_be_read_is_refused(tmp_path, name, reason):
    with pytest.raises(ValueError, match=f"^plugin=.*: {reason}.*, expected a file of Python code"):
        study.prepare(Config(plugin=(str(tmp_path / name),)))


def test_an_optimizer_object_is_refused_where_models_are_cached(tmp_path):
    optimizer = plugins.CATALOGUES["OPTIMIZERS"]["sgd"](0.1, 1)
    recipe, config = Recipe(optimizer=optimizer), Config(preset="smoke", model="mlp:4", attacks=("gap",))
    with pytest.raises(ValueError, match="recipe: optimizer of type GradientTransformation.*, expected the name"):
        study.prepare(config, recipe=recipe, out=tmp_path)
    found = [runs.run_environment(Config(), data.load("digits"), recipe)["run_digest"] for _ in range(2)]
    assert found[0] != found[1] and np.all([len(one) == 16 for one in found])
