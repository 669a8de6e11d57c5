"""The distance to the decision boundary, from labels alone.

`boundary_distance` is a Measure of ONE example x with label y. It makes a fixed number of queries, keeps the nearest
adversarial point (one that the target does not label y), and reads the L2 distance to it. The distance is therefore
never below the true one, but for rounding. Where nothing flips the label, it is +inf: all such points share one score,
on the members' side (`never_flipped`).

The search is HopSkipJump (Chen, Jordan, Wainwright 2020; section 4.2 of arXiv 2007.14321v2): from a point on the
boundary, estimate the gradient direction from the labels of nearby points, step, project back by bisection, repeat.
This module arranges the rounds, `hopskipjump.py` has what one round asks and learns. Deviations:

* Directions of gradient queries are rows of a Hadamard matrix (times a small cosine basis where d is not a power of
  two) with random signs. They are orthogonal, so no answer is redundant; a new basis starts only when all rows are
  used. The estimate, the sum of answers times directions, is one fast transform at the end instead of d operations
  per query.
* Directions are orthogonal to the line from x to the best point, because only a tangential move can bring the point
  nearer. An estimate corrects the current line, so nothing that earlier estimates found is lost.
* The step is a search along the semicircle over the segment from x to the best point, in the plane of the estimate.
  If the boundary is flat, its nearest point in that plane lies on this semicircle (Thales), so one search replaces
  step and projection (as in CGBA, Reza et al. 2023).
* Where the budget lets a descent converge (`schedules.py`), it starts from the shortest of some random rays, not from
  the nearest noise image: the basin it converges in then matters more than the way there.
* The centre of the gradient queries moves along the line so that answers stay balanced. The queries thereby also
  correct the error of a short bisection and the shift by the boundary's curvature: 8 bisections do what 18 did.
* The radius of the gradient queries is a fixed share of the distance, and their centre stays off the faces of the box
  by that much: nothing is clipped, so a face does not bias the answers.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from mi_jax.attacks import hopskipjump, rays
from mi_jax.attacks.hopskipjump import SearchState
from mi_jax.attacks.schedules import Schedule, gradient_blocks, step_angles
from mi_jax.types import Measure, Repeat, Round

# One object for equal arguments, here and below: the driver finds compiled programs by the identity of functions.
_ask_gradient = lru_cache(lambda Q: partial(hopskipjump.ask_gradient, Q))
_ask_next = lru_cache(lambda: lambda key, state: state.query[None])


def never_flipped(features: np.ndarray) -> np.ndarray:
    """Which copies no query flipped [P M], by their distances [P M F]."""
    return np.isposinf(features[..., -1])


def boundary_distance(schedule: Schedule) -> Measure:
    """The L2 distance to the nearest adversarial point found, at each of F = 1 + iterations checkpoints.

    The last of the F is the final distance, the others the distances after `checkpoints(schedule)` queries. 0 where x
    is mislabelled, +inf before anything flips its label. Queries lie in [0, 1]. Raises ValueError for a schedule
    without queries.
    """
    counts_fit = min(schedule[:4]) >= 1 and min(schedule.points, schedule.ray_queries) >= 0
    if not counts_fit or schedule.rule not in ("grid", "geometric"):
        raise ValueError(
            f"{schedule}: expected counts of at least 1, points and ray_queries >= 0, the rule 'grid' or 'geometric'"
        )
    return _boundary_distance(schedule)


@lru_cache
def _boundary_distance(schedule: Schedule) -> Measure:
    iteration = *gradient_rounds(schedule.gradient), *_step_rounds(schedule)
    rounds = (
        _start_round(schedule.starts),
        *([Repeat(schedule.ray_queries, (_ray_round(),))] if schedule.ray_queries else []),
        *_search_rounds(schedule.bisections, "bisection", hopskipjump.begin_iteration),
        Repeat(schedule.iterations, iteration),
    )
    return Measure(partial(hopskipjump.init, schedule.iterations + 1), rounds, lambda state: state.distances)


@lru_cache
def _start_round(count: int) -> Round:
    return Round(partial(hopskipjump.ask_starts, count), partial(hopskipjump.tell_starts, count), "start")


@lru_cache
def _ray_round() -> Round:
    return Round(lambda key, state: rays.next_query(state.ray)[None], hopskipjump.tell_ray, "start")


def gradient_rounds(queries: int) -> list[Round]:
    """The rounds of one gradient estimate, in blocks of one transform each."""
    blocks = gradient_blocks(queries)
    rounds = [_gradient_round(Q, i == len(block) - 1, False) for block in blocks for i, Q in enumerate(block)]
    return rounds[:-1] + [_gradient_round(blocks[-1][-1], True, True)]


@lru_cache
def _gradient_round(Q: int, ends_block: bool, ends_estimate: bool) -> Round:
    gradient_round = Round(_ask_gradient(Q), partial(hopskipjump.tell_gradient, Q), "gradient")
    gradient_round = _followed_by(gradient_round, hopskipjump.end_block) if ends_block else gradient_round
    return _followed_by(gradient_round, hopskipjump.begin_step) if ends_estimate else gradient_round


def _step_rounds(schedule: Schedule) -> list[Round | Repeat]:
    angles, rounds = step_angles(schedule), []
    if angles:
        rounds = [Round(partial(hopskipjump.ask_points, angles), partial(hopskipjump.tell_points, angles), "step")]
    phase = "step" if not schedule.points else "bisection"
    return rounds + _search_rounds(schedule.bisections, phase, hopskipjump.end_step)


def _search_rounds(count: int, phase: str, then: Callable[[SearchState], SearchState]) -> list[Round | Repeat]:
    inner, last = _search_round(phase, None), _search_round(phase, then)
    return ([Repeat(count - 1, (inner,))] if count > 1 else []) + [last]


@lru_cache
def _search_round(phase: str, then: Callable[[SearchState], SearchState] | None) -> Round:
    search_round = Round(_ask_next(), hopskipjump.tell_search, phase)
    return _followed_by(search_round, then) if then else search_round


def _followed_by(before: Round, then: Callable[[SearchState], SearchState]) -> Round:
    return before._replace(tell=lambda state, answers: then(before.tell(state, answers)))
