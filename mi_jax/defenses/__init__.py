"""Defenses: what changes training, or what a trained model shows.

`build` reads NAME:STRENGTH+NAME:STRENGTH; a new defense is a function and a line in `DEFENSES` (`catalogue.py`).
`penalties` add to the loss, `outputs` change what is shown, `adversarial` is the network of adversarial regularisation.
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
