"""Defenses: what changes training, or what a trained model shows.

`build` reads NAME:STRENGTH+NAME:STRENGTH; a new defense is a function and a line in `DEFENSES` (`catalogue.py`).
`penalties` add to the loss, `outputs` change what is shown, `adversarial` is the network of adversarial regularisation.
"""

from mi_jax.defenses.catalogue import (
    DEFENSES,
    Task,
    build,
    compose,
    mechanism_for,
    mechanism_of,
    of_mechanism,
    parts,
)

__all__ = ["DEFENSES", "Task", "build", "compose", "mechanism_for", "mechanism_of", "of_mechanism", "parts"]
