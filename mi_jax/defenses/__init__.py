"""Defenses: changes to the training of a model, or to the outputs of a trained model.

`build` parses NAME:STRENGTH+NAME:STRENGTH. A new defense is a function and a line in `DEFENSES` (`catalogue.py`).
`penalties` are added to the loss. `outputs` change a trained model's answers. `adversarial` is the attack network of
adversarial regularisation.
"""

from mi_jax.defenses.catalogue import (
    DEFENSES,
    DefenseContext,
    build,
    compose,
    defense_mechanism,
    mechanism_for,
    private_training,
    split_names,
)

__all__ = [
    "DEFENSES",
    "DefenseContext",
    "build",
    "compose",
    "mechanism_for",
    "defense_mechanism",
    "private_training",
    "split_names",
]
