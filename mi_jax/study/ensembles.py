"""The trained models of a study: which defenses train together, their ensembles, oracles and training records."""

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from mi_jax import defenses, models, privacy, store, training
from mi_jax.models import heads
from mi_jax.privacy import per_example
from mi_jax.querying import oracle, white_box
from mi_jax.querying.collect import Target
from mi_jax.study.config import Resolved
from mi_jax.study.runs import ProgressBar
from mi_jax.types import Dataset, Defense, Model, Params, Recipe, Split


def build_defenses(
    config: Resolved, dataset: Dataset, names: Sequence[str], recipe: Recipe = Recipe()
) -> tuple[Model, list[Defense]]:
    """The model of a resolved config and each of the defenses `names`. ValueError where one cannot be built."""
    model = models.build(config.model, dataset.x.shape[1:], dataset.num_classes)
    models.check_model(model, dataset.x.shape[1:], dataset.num_classes)
    context = defenses.DefenseContext(
        config.n_train, model, dataset.x.shape[1:], dataset.num_classes, binary=dataset.binary, recipe=recipe,
        dataset=dataset.name, checkpoint=config.checkpoint, clip=config.clip, delta=config.delta,
        epochs=config.private_epochs, rate=config.private_rate,
    )  # fmt: skip
    grid = [defenses.build(name, context) for name in names]
    if config.checkpoint is not None and not any(map(starts_pretrained, grid)):
        given = f"checkpoint={config.checkpoint}: expected none"
        raise ValueError(f"{given}, {' and '.join(names)} starts from no pretrained network")
    return model, grid


def starts_pretrained(defense: Defense) -> bool:
    """True where training starts from a network trained on other data."""
    return defense.init_params is not None or defense.frozen is not None


def strength_changes_training(defense: Defense) -> bool:
    """True where the strength of a defense changes training, not only the answers to queries."""
    fields = ("init_params", "frozen", "model", "loss", "penalty", "adversary", "mechanism")
    return any(getattr(defense, field) is not None for field in fields)


def group_by_training(grid: list[Defense]) -> list[list[int]]:
    """Groups of indices of defenses whose training differs only in strength, in the order of first appearance."""
    groups: dict[tuple, list[int]] = {}
    for i, defense in enumerate(grid):
        shape = jax.tree.structure(defense.strength) if strength_changes_training(defense) else None
        training_fields = defense._replace(name="", strength=(), output=None, random=False)
        groups.setdefault((training_fields, shape), []).append(i)
    return list(groups.values())


def train_grid(
    key: jax.Array,
    model: Model,
    recipe: Recipe,
    dataset: Dataset,
    split: Split,
    grid: list[Defense],
    *,
    cache: store.Cache = store.no_cache,
) -> list[tuple[Params, training.History]]:
    """Parameters [K ...] and History for each of these defenses, which differ only in strength; with a progress bar."""
    strengths, several = None, len(grid) > 1 and strength_changes_training(grid[0])
    if several:
        strengths = jax.tree.map(lambda *leaves: np.stack(leaves), *(defense.strength for defense in grid))
    title = f"training, {grid[0].name}{f' and {len(grid) - 1} more' if len(grid) > 1 else ''}"
    with ProgressBar(title, unit="model") as progress:
        trained = training.train_ensemble(
            key,
            model,
            recipe,
            dataset.x,
            dataset.y,
            split.members,
            defense=grid[0],
            strengths=strengths,
            reference=split.reference,
            cache=cache,
            progress=lambda done, total, epoch: progress(done, total, f"epoch {epoch}"),
        )
    if not several:
        return [trained] * len(grid)
    return [jax.tree.map(lambda leaf, g=g: leaf[g], trained) for g in range(len(grid))]


def target_oracles(model: Model | nn.Module, params: Params, dataset: Dataset, defense: Defense = Defense()) -> Target:
    """A `Target`: (k, access) -> model k of the ensemble under a defense, as an attack sees it."""
    model = models.as_model(model)
    models.check_model(model, dataset.x.shape[1:], dataset.num_classes)

    def target(k: int, access: str) -> oracle.Oracle | white_box.WhiteBox:
        params_k = jax.tree.map(lambda leaf: leaf[k], params)
        if access == "gradient":
            return white_box.WhiteBox(model.apply, params_k)
        return oracle.model_oracle(model, params_k, dataset.num_classes, access=access, defense=defense)

    return target


def training_record(
    defense: Defense, history: training.History, model: Model, params: Params, dataset: Dataset
) -> dict[str, Any]:
    """The training in a record: `epochs`, `privacy` for private training, `begun_from` for transfer learning."""
    record: dict[str, Any] = {"epochs": [int(epochs) for epochs in np.asarray(history.epochs)]}
    if defense.mechanism is not None:
        record["privacy"] = privacy_record(defense, history, model, params, dataset)
    network = initial_network(defense)
    return record | ({"begun_from": network} if network else {})


def privacy_record(
    defense: Defense, history: training.History, model: Model, params: Params, dataset: Dataset
) -> dict[str, Any]:
    """Epsilon with all it depends on, how gradients were clipped, and how many examples were dropped."""
    mechanism, x = defenses.defense_mechanism(defense), dataset.x[:1]
    first = jax.tree.map(lambda leaf: leaf[0], params)
    if defense.frozen is None:
        reason = per_example.unsupported_reason(model, first, x)
    else:
        head = heads.last_layer_model(model, x.shape[1:])
        last = heads.layer(first, heads.last_layer_path(model, x.shape[1:]))
        activations = heads.penultimate_activations(model, first, x)
        reason = per_example.unsupported_reason(head, last, activations)
    return {
        "epsilon": privacy.epsilon(mechanism),
        "delta": mechanism.delta,
        "statement": privacy.statement(mechanism),
        "gradients": "gradients clipped by one batched backward pass"
        if reason is None
        else f"gradients clipped one example at a time: {reason}",
        "dropped": [int(count) for count in np.asarray(history.dropped)],
    }


def initial_network(defense: Defense) -> str | None:
    """A checksum of the network that training starts from, or None.

    It covers the arrays of the defense's strength; scalars are strengths of the defenses it is combined with.
    """
    if not starts_pretrained(defense):
        return None
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(defense.strength))
    checksum = 0
    for array in (leaf for leaf in leaves if leaf.ndim):
        checksum = zlib.crc32(array.tobytes(), checksum)
    return f"{checksum:08x}"
