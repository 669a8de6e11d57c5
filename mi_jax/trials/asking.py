"""What attacks that judge every point ask: a statistic, the questions of a pool, or questions crafted for the point."""

from typing import Any

import jax
import numpy as np

from mi_jax.data import splits
from mi_jax.querying.collect import Collector, Points, Target
from mi_jax.querying.questions import Questioner, Questions
from mi_jax.types import Answers, Crafters, Dataset, PerExample, Split

CRAFTERS = 16  # shadow models whose gradients craft questions, at most; a third of those that are no target, if fewer


class Asking:
    """The collectors of an audit's attacks, their questioner, and the questions crafted so far."""

    def __init__(self, dataset: Dataset, split: Split, target: Target, collectors: dict[str, Collector],
                 questioner: Questioner):  # fmt: skip
        self.dataset, self.split, self.questioner = dataset, split, questioner
        self._target, self._collectors = target, collectors
        self._crafted: dict[tuple, np.ndarray] = {}

    def statistic(self, name: str, attack: PerExample, k: int, rows: np.ndarray, cap: int | None = None) -> Answers:
        """The answers of model k to the statistic of an attack."""
        assert attack.statistic is not None
        return self._collectors[name](attack.statistic, k, Points(rows, np.zeros(len(rows), bool)), cap)

    def questions(self, attack: PerExample, rows: np.ndarray, trial: np.ndarray) -> tuple[Questions | None, np.ndarray]:
        """(the questions about rows, the trial with the shadow models that calibrate them); None for a statistic.

        The models that craft questions do not calibrate them, because on those they always succeed.
        """
        if attack.statistic is not None:
            return None, trial
        if attack.craft is None:
            return Questions(attack.pool, rows), trial
        crafting, key = self._crafting(attack.name), (attack.craft, rows.tobytes())
        if key not in self._crafted:
            models = self._crafters(crafting, rows)
            self._crafted[key] = attack.craft(models, self.dataset.x[rows], self.dataset.y[rows])
        return Questions(attack.pool, rows, self._crafted[key]), trial[~np.isin(trial, crafting)]

    def _crafting(self, name: str) -> np.ndarray:
        """The models that craft: shadow models that are no targets, so that one crafting serves all trials.

        They may all be on one side of a row. So many others are left that a target, and a stand-in without the target,
        have a model on each side still: in a balanced split half of all models, less those that craft and these two.
        """
        trials = self.split.trials
        free, all_models = np.setdiff1d(trials[:, 1:], trials[:, 0]), len(np.unique(trials))
        if len(free) < 6 or all_models < 10:
            raise ValueError(
                f"attack {name} crafts questions with shadow models that are no targets: {len(free)} of them among "
                f"{all_models} models, expected 6 or more among 10 or more, as split=balanced has with fewer targets "
                "than models"
            )
        most = max(4, min(CRAFTERS, len(free) // 3))
        return free[-min(most, all_models // 2 - 3) :]

    def _crafters(self, crafting: np.ndarray, rows: np.ndarray) -> Crafters:
        boxes = [self._target(int(k), "gradient") for k in crafting]
        inside, outside = splits.even_sides(self.split, crafting, rows)
        others = np.setdiff1d(np.arange(len(self.split.members)), self.split.trials)
        surrogates = [self._target(int(k), "gradient").params for k in others]
        params = _stacked([box.params for box in boxes])
        return Crafters(boxes[0].apply, params, inside, outside, _stacked(surrogates) if surrogates else None)


def _stacked(params: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *params)
