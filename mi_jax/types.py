"""The vocabulary of mi_jax. Read this first, then `audit.py`.

Axes, used in every shape comment: K models, T targets (trials), S shadow models of one target, N rows of the
pool, n rows of one model, B batch, P points attacked together, M neighbours of a point, Q queries made at once,
F features, C classes; `*x` is the shape of one example.

Two conventions hold everywhere: `is_member` is True for a row the model was trained on, and scores rise with
membership. Randomness is never drawn from shared state: every function that needs it takes `key` first, and the
key of a point is folded from its row in the pool, so that no result depends on order, batch or chunk.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = Any  # a pytree of arrays


class Dataset(NamedTuple):
    """A pool of labelled examples, in the order of its source."""

    name: str
    x: np.ndarray  # [N *x] float32 in [0, 1]: images NHWC, or table rows
    y: np.ndarray  # [N] int32 in 0..C-1
    num_classes: int
    binary: np.ndarray | None = None  # [features] bool: columns that are 0/1; None: an image
    source: str = ""  # one line: where the rows come from, with a checksum if there is one
    categorical: np.ndarray | None = None
    # [features] bool: columns that stand for categories, each value in [0, 1] for the one at that share of all rows
    # (`data.tables`), so that a value drawn anew from [0, 1] is a category as often as it occurs; None: there are none


class Split(NamedTuple):
    """Which rows of the pool each of K models is trained on, and which models form a trial."""

    members: np.ndarray  # [K n] trained on
    nonmembers: np.ndarray  # [K n] held out, attacked together with the members
    reference: np.ndarray  # [K m] what a defense may use besides; m may be 0
    trials: np.ndarray  # [T 1+S] models of each trial: the target first, then its shadows


class Model(NamedTuple):
    """A classifier as two pure functions. Any such pair is a model; ours are flax linen modules."""

    init: Callable[[jax.Array, Array], Params]  # (key, x [B *x]) -> params
    apply: Callable[..., jax.Array]  # (params, x [B *x], key=None) -> logits [B C]; key given: training mode
    name: str = "custom"


class Recipe(NamedTuple):
    """How a model is trained: by default with Adam, and a stop once the training loss no longer improves.

    The defaults are the paper's (section 5.2 of arXiv 2007.14321v2): a model stops after `patience` epochs in
    which its mean training loss was never `min_delta` below the best so far; its last weights are kept.
    """

    batch_size: int = 100
    learning_rate: float = 1e-3
    max_epochs: int = 1000
    min_delta: float = 0.005
    patience: int | None = 20  # None: `max_epochs` epochs, whatever the loss
    optimizer: Any = "adam"
    # a name in `steps.OPTIMIZERS`, or an optax.GradientTransformation, which has a learning rate of its own
    average: float = 0.0  # decay of the running mean of the weights that is kept in place of the last ones; 0: none


class AdversarialRegularizer(NamedTuple):
    """A network trained with the model to distinguish its members from reference rows; the model's loss uses it."""

    init: Callable[[jax.Array, int], Any]  # (key, C) -> state
    update: Callable[[Any, tuple, tuple], Any]
    # (state, members (logits [B C], y [B], weight [B]), reference rows likewise) -> state
    loss: Callable[[Any, Any, jax.Array, jax.Array], jax.Array]
    # (strength, state, logits [B C], y [B]) -> [B], added to the losses of the members
    warm_up: int = 0  # epochs in which the two train separately


class Defense(NamedTuple):
    """The steps that a defense may change, in the order in which data flows; the defaults change nothing.

    `strength` is a pytree of numbers or arrays and the first argument of the functions it reaches: an argument of
    the compiled program, so that a whole grid of one defense shares it, and K strengths may train as one ensemble.
    Two defenses never set the same field (`defenses.compose`).
    """

    name: str = "none"
    strength: Any = ()
    recipe: Callable[[Recipe], Recipe] | None = None  # the run's recipe -> the defense's
    init_params: Callable[[Any, Params], Params] | None = None  # (strength, fresh parameters) -> initial parameters
    frozen: Callable[[Any], Params] | None = None
    # strength -> all layers but the last dense one; only that one is trained, and the fields below see only it
    augmentation: "Perturbation | None" = None  # every row is trained on all its neighbours in each epoch
    model: Callable[[Any, Model], Model] | None = None  # (strength, model) -> the model that is trained
    loss: Callable[..., jax.Array] | None = None
    # (strength, key, predict, x [B *x], y [B]) -> losses [B] in place of the cross-entropy; predict(x) are logits in
    # training mode. Early stopping and `History` see this loss. Rows that fill up a batch are rows of the same model,
    # and their losses do not count.
    penalty: Callable[[Any, Params], jax.Array] | None = None  # (strength, params) -> scalar added to every loss
    adversary: AdversarialRegularizer | None = None
    mechanism: Callable[[Any], Any] | None = None  # strength -> the privacy.Mechanism of every gradient
    output: Callable[..., jax.Array] | None = None
    # (strength, key, predict, x [B *x]) -> released probabilities [B C]; predict(x) are logits; rows independent
    random: bool = False  # True where `output` uses its key: the same query may be answered differently


Perturbation = Callable[[jax.Array, jax.Array], jax.Array]
"""(key, x [*x]) -> [M *x]: the neighbours of ONE example, M fixed and small, same dtype, values in [0, 1].

Where the example itself belongs to its neighbours, it comes first."""


class Round(NamedTuple):
    """One exchange with the target for one example: Q queries, Q answers."""

    ask: Callable[[jax.Array, Any], jax.Array]  # (key, state) -> [Q *x], Q fixed
    tell: Callable[[Any, jax.Array], Any]  # (state, answers [Q] labels or [Q C] log-probabilities) -> state
    phase: str = "measure"  # what its queries are counted under


class Repeat(NamedTuple):
    """The same rounds a fixed number of times."""

    times: int
    rounds: tuple["Round | Repeat", ...]


class Measure(NamedTuple):
    """A query procedure of fixed length for ONE example, with an ask-and-tell interface; vmapped by `querying.driver`.

    A measure never sees a model: it returns queries and receives answers, so the same functions run against a JAX
    network, a scikit-learn pipeline or a remote endpoint. A `gated` measure runs only for copies that the target
    labels correctly; the others have features 0 and cost that one query (the paper's rule). A gated measure without
    rounds is that bit itself. `strength` (sigma, p) is an array argument, so that a whole grid of strengths shares
    one compiled program.
    """

    init: Callable[..., Any]  # (strength, key, x [*x], y []) -> state
    rounds: tuple[Round | Repeat, ...]
    read: Callable[[Any], jax.Array]  # state -> [F]
    strength: Any = ()
    gated: bool = True


Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(features [P M F], y [P]) -> scores [P], rising with membership."""


class Fitted(NamedTuple):
    """A score function, and the scores of the rows it was fitted on, each computed without that row."""

    score: Score
    held_out: np.ndarray  # [s] cross-fitted scores


class Attack(NamedTuple):
    """A membership inference attack: the neighbours to query, the measure, and the fit of a score."""

    name: str
    access: str  # what one answer of the target holds: "label", "confidence", or "gradient" (white_box.py)
    neighbours: Perturbation
    measure: Measure | None  # None: gradient access, see white_box.py
    fit: Callable[[jax.Array, np.ndarray, np.ndarray, np.ndarray], Fitted]
    # (key, features [s M F], y [s], is_member [s]) -> Fitted, from rows of shadow models only
    threshold: float | None = None  # fixed in advance (the gap attack); None: chosen on the shadow models
    full_budget: "Attack | None" = None  # the same attack with the whole budget, if candidates are tuned with less
    settings: dict[str, Any] = {}  # what differs from the other candidates of its grid, for the record


class Answers(NamedTuple):
    """The features of P points from the answers of one target, and the query counts."""

    features: np.ndarray  # [P M F] float32; 0: a gated copy misclassified, inf: no distance found, NaN: unfinished
    queries: np.ndarray  # [P] int64, every query, the gate's included
    finished: np.ndarray  # [P] bool; False once a cap on all queries was reached
    phases: dict[str, int] = {}  # queries by phase, over all points; "gate" is the first label of every copy


class Reference(NamedTuple):
    """What K models say about the points a target is attacked on, and which of them calibrate which point.

    For every point as many models inside as outside; `splits.calibration_models` makes the masks. An offline attack has
    no model inside.
    """

    features: np.ndarray  # [P K F] finite; anything where no mask is True
    inside: np.ndarray  # [P K] bool, shadow models trained with the point
    outside: np.ndarray  # [P K] bool, shadow models trained without it


class PointScores(NamedTuple):
    """The scores of P points, each by the shadow models that were trained with and without that very point."""

    score: np.ndarray  # [P] log likelihood ratio of being a member, or another number that rises with membership
    false_positive_rate: np.ndarray  # [P] in [0, 1]: how often a model trained without the point scores as high


class Pool(NamedTuple):
    """Candidate questions about one example, the same for every model: kinds of copies and how many of each."""

    kinds: tuple[str, ...]  # what each kind is, for the record
    make: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...]  # of each kind: (key, x [*x]) -> [count *x]
    counts: tuple[int, ...]


class AnswerRates(NamedTuple):
    """Logarithms of how often models of each side answer y, and anything else, to each question about each point."""

    label_inside: np.ndarray  # [P Q]
    other_inside: np.ndarray
    label_outside: np.ndarray
    other_outside: np.ndarray


class Crafters(NamedTuple):
    """Models of the attacker whose gradients craft questions. None is a target, or calibrates what it crafts."""

    apply: Callable[..., jax.Array]  # (params, x [B *x]) -> logits [B C]
    params: Params  # [C ...] shadow models
    inside: np.ndarray  # [P C] bool, those trained with a point, as many as outside; the rest are not used for it
    outside: np.ndarray  # [P C] bool
    surrogates: Params | None  # [V ...] models trained on rows that are not attacked; None: there are none


class PerExample(NamedTuple):
    """An attack that judges every point by shadow models trained with and without that very point.

    The shadow models answer all questions of a `pool`, and those that `craft` makes, or an attack's `statistic`, about
    the target's points. `choose` selects the questions that are put to the target, for each point its own.
    """

    name: str
    access: str  # of the answers of the target
    pool: Pool | None
    statistic: Attack | None  # in place of a pool: its features are compared; its `fit` is not used
    choose: Callable[[AnswerRates, Pool | None], np.ndarray] | None  # -> questions for the target [P m], best first
    score: Callable[[np.ndarray, np.ndarray, Reference, Any], PointScores]
    # With a pool: (is y the answer [P m], questions [P m], reference, rates); else (features [P F], y [P], reference,
    # None).
    online: bool = True  # False: only models trained without the point are used
    craft: Callable[[Crafters, np.ndarray, np.ndarray], np.ndarray] | None = None
    # (models, x [P *x], y [P]) -> [P R *x], which follow the questions of the pool
    stop: Callable[[np.ndarray, np.ndarray, AnswerRates], np.ndarray] | None = None
    # (is y the answer [P r], questions [P m], rates) -> points [P] that need no further question; None: all are put
    settings: dict[str, Any] = {}
