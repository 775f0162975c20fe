"""Length-controlled win rates, AlpacaEval 2's: preferences and lengths go in, a rate comes out.

Dubois et al. 2024 (arXiv 2404.04475), as the package alpaca_eval 0.6.6 fits it. The preference for
the model, y in [0, 1], is

    y ~ sigmoid(length * tanh(d) + difficulty * instruction difficulty + bias),

d the baseline's length minus the model's, divided by its standard deviation (ddof 1) over the
rows. The length-controlled rate is the mean prediction with the length term at zero, over every
row, one without a verdict too. The weights minimise |weights|_1 + C * (summed log-loss), C by
five-fold cross-validation. The package stops its solver (liblinear) early; here the minimum is
found exactly, which moved no rate by more than 0.03 points. Fits of verdicts that are all the same,
and of whole wins and losses that length (and difficulty) divide without an error, have infinite
weights and are refused. One that ``learned_nothing`` has a rate of 50 whatever was judged: over a
few dozen verdicts the chosen C may be so small.

Three variants exist, and every result names its own, since they are not comparable: 19.3, 18.2 and
37.8 for the same verdicts on gpt-3.5-turbo-1106.

* ``length_controlled_v1``, the published one: the fit also sees the baseline's verbose and concise
  selves, with a row weight of 0.1 and no bias;
* ``length_controlled_noreg``: without those rows;
* ``length_controlled_minimal``: without instruction difficulty either, all that instructions
  outside AlpacaEval have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.win_rate import WinRate, weighted_win_rate

GAMED_ROW_WEIGHT = 0.1  # 0.2, shared by two gamed baselines
FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)  # C, scikit-learn's default grid
MAX_STEPS = 500
REPORT_RAW = "report the win rate that is not length-controlled"


@dataclass(frozen=True)
class GlmWeights:
    """Weights of the module's formula; ``length`` is negative where length pays."""

    length: float
    difficulty: float
    bias: float

    @property
    def learned_nothing(self) -> bool:
        """All are zero: the rate is 50 whatever was judged."""
        return not any(vars(self).values())


@dataclass(frozen=True)
class GamedRows:
    """Judged answers of the baseline that was told to be verbose or concise, as the columns of
    AlpacaEval's ``df_gamed.csv``. ``name`` says which file they are and enters the label. All [m]:
    ``preferences`` in **[0, 1]** (that file's scale), ``length_differences`` standardised (d of the
    module), ``difficulties``."""

    name: str
    preferences: Sequence[float]
    length_differences: Sequence[float]
    difficulties: Sequence[float]


@dataclass(frozen=True)
class LengthControlledWinRate(WinRate):
    """Over all ``n`` instructions; ``n_missing`` of them had no verdict and are not in the fit.
    ``variant`` is the label to show it with. ``preferences``: [n], the predicted ones in [1, 2].

    ``standard_error``: percent, AlpacaEval's ``lc_standard_error``: the spread of the predictions
    over instructions. It leaves out the fit's own uncertainty, so it is zero for the minimal
    variant, which predicts the same for all: no error bar."""

    variant: str
    weights: GlmWeights
    preferences: tuple[float, ...]


def length_controlled_win_rate(
    preferences: Sequence[float | None],
    model_lengths: Sequence[float],
    base_lengths: Sequence[float],
    difficulties: Sequence[float] | None = None,
    gamed: GamedRows | None = None,
) -> LengthControlledWinRate:
    """Fit the model to one run's verdicts: without difficulties and gamed rows the minimal variant,
    with difficulties noreg, with both v1.

    ``preferences``: [n], in [1, 2], None without a verdict, at least five with one; lengths: [n],
    of the answers in characters; ``difficulties``: [n]. AlpacaEval's own numbers join difficulty by
    the *position* of a row in the file of answers, not by instruction. Where rows are missing
    from that file, pass the first n difficulties to repeat its number.

    Raises ValueError for preferences outside [1, 2], sequences of other lengths, numbers that are
    not finite, fewer than five verdicts, answers that all differ by one and the same length, and
    fits that say nothing (the module's)."""
    raw, n = weighted_win_rate(preferences), len(preferences)
    if gamed is not None and difficulties is None:
        problem = "the variant with them (length_controlled_v1) needs both"
        advice = "pass difficulties, or leave gamed out for length_controlled_minimal"
        raise ValueError(f"gamed rows without difficulties: {problem}; {advice}")
    if raw.n < FOLDS:
        problem = f"{raw.n} verdicts are too few for {FOLDS}-fold cross-validation"
        raise ValueError(f"{problem}; judge at least {FOLDS} pairs, or {REPORT_RAW}")
    base = _column("base_lengths", base_lengths, n)
    difference = base - _column("model_lengths", model_lengths, n)
    variant, difficulty = "length_controlled_minimal", np.zeros(n)
    if difficulties is not None:
        variant, difficulty = "length_controlled_noreg", _column("difficulties", difficulties, n)
    deviation = difference.std(ddof=1)
    if deviation == 0 and difference.any():
        problem = f"every answer differs from the baseline's by {difference[0]:g} characters"
        raise ValueError(f"{problem}, so length cannot be told from quality; {REPORT_RAW}")
    # Where no pair differs in length, the length term says nothing.
    length = np.tanh(difference / (deviation or 1.0))
    features = np.stack([length, difficulty, np.ones(n)], axis=1)
    targets = np.array(preferences, dtype=float) - 1
    judged = ~np.isnan(targets)
    features, targets, row_weights = features[judged], targets[judged], np.ones(raw.n)
    if np.ptp(targets) == 0:
        problem = f"all {raw.n} verdicts are the same ({1 + targets[0]:g})"
        raise ValueError(f"{problem}, so nothing tells length from quality; {REPORT_RAW}")
    if gamed is None and _separable(features, targets):
        problem = "the answers' lengths foretell every verdict, so the fit has no finite weights"
        raise ValueError(f"{problem}; judge more pairs, or {REPORT_RAW}")
    if gamed is not None:
        variant = f"length_controlled_v1 (gamed rows: {gamed.name})"
        gamed_features, gamed_targets = _gamed_columns(gamed)
        features = np.concatenate([gamed_features, features])
        targets = np.concatenate([gamed_targets, targets])
        row_weights = np.concatenate([np.full(len(gamed_targets), GAMED_ROW_WEIGHT), row_weights])
    strength = _cross_validated_strength(features, targets, row_weights)
    weights = GlmWeights(*map(float, _fit(features, targets, row_weights, strength)))
    return _predict(weights, difficulty, variant, raw.n_missing)


def win_rate_from_weights(
    weights: GlmWeights, difficulties: Sequence[float]
) -> LengthControlledWinRate:
    """The rate that AlpacaEval's published weights of a model stand for; no verdict is used.
    ``difficulties``: [n], of the first n rows, n the rows of the model's file of answers (805, or
    fewer where some are missing: ``length_controlled_win_rate`` says how they are joined)."""
    if not len(difficulties):
        raise ValueError("there are no difficulties to predict for; pass one an instruction")
    difficulty = _column("difficulties", difficulties, len(difficulties))
    return _predict(weights, difficulty, "length_controlled_v1 (published weights)", 0)


def _predict(
    weights: GlmWeights, difficulty: np.ndarray, variant: str, n_missing: int
) -> LengthControlledWinRate:
    predicted = 1 + _sigmoid(weights.bias + weights.difficulty * difficulty)
    rate = vars(weighted_win_rate(predicted)) | {"n_missing": n_missing}
    preferences = tuple(predicted.tolist())
    return LengthControlledWinRate(
        **rate, variant=variant, weights=weights, preferences=preferences
    )


def _column(name: str, values: Sequence[float], n: int) -> np.ndarray:
    """[n] finite numbers."""
    column = np.asarray(values, dtype=float)
    if column.shape != (n,):
        rule = "it holds one number a row, in the order of the others"
        problem = f"{name} has shape {column.shape}, not ({n},): {rule}"
        raise ValueError(f"{problem}; leave a missing row out of all of them")
    rows = np.flatnonzero(~np.isfinite(column))
    if len(rows):
        first = f"first {column[rows[0]]} in row {rows[0]}"
        problem = f"{name} has {len(rows)} numbers that are not finite, {first}"
        raise ValueError(f"{problem}; give the number, or leave the row out of all of them")
    return column


def _gamed_columns(gamed: GamedRows) -> tuple[np.ndarray, np.ndarray]:
    """Features [m, 3], with the bias at zero, and targets [m]."""
    m = len(gamed.preferences)
    targets = _column("gamed.preferences", gamed.preferences, m)
    if not ((targets >= 0) & (targets <= 1)).all():
        problem = f"gamed.preferences run from {targets.min():g} to {targets.max():g}"
        advice = "df_gamed.csv has them in [0, 1], so take 1 from preferences in [1, 2]"
        raise ValueError(f"{problem}; {advice}")
    length = np.tanh(_column("gamed.length_differences", gamed.length_differences, m))
    difficulty = _column("gamed.difficulties", gamed.difficulties, m)
    return np.stack([length, difficulty, np.zeros(m)], axis=1), targets


def _separable(features: np.ndarray, targets: np.ndarray) -> bool:
    """Whether a plane divides wins from losses, where all are whole (to 0.001): a linear programme
    finds weights under which each row lies on its side, if there are any."""
    from scipy.optimize import linprog

    signs = np.sign(targets - 0.5)
    if (np.abs(targets - 0.5) < 0.499).any():
        return False
    sides = linprog(
        np.zeros(3), -signs[:, None] * features, -np.ones(len(signs)), bounds=(None, None)
    )
    return sides.status == 0


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def _log_loss(
    weights: np.ndarray, features: np.ndarray, targets: np.ndarray, row_weights: np.ndarray
) -> float:
    """Summed over rows: features [n, 3], targets in [0, 1] and row weights [n]."""
    logits = features @ weights
    return float(row_weights @ (np.logaddexp(0, logits) - targets * logits))


def _cross_validated_strength(
    features: np.ndarray, targets: np.ndarray, row_weights: np.ndarray
) -> float:
    """The C of STRENGTHS with the lowest log-loss on rows left out; fold of row i: i mod FOLDS."""
    fold, columns = np.arange(len(targets)) % FOLDS, (features, targets, row_weights)

    def held_out_loss(strength: float) -> float:
        total = 0.0
        for k in range(FOLDS):
            train, test = ([x[rows] for x in columns] for rows in (fold != k, fold == k))
            total += _log_loss(_fit(*train, strength), *test) / len(test[0])
        return total

    return float(min(STRENGTHS, key=held_out_loss))


def _fit(
    features: np.ndarray, targets: np.ndarray, row_weights: np.ndarray, strength: float
) -> np.ndarray:
    """The w, [3], that minimises |w|_1 + strength * log-loss. A column of zeros keeps the weight 0.

    w is a positive minus a negative part, [6] in all, so that |w|_1 is their sum. SLSQP meets this
    minimum to the last digits; L-BFGS-B stops early, up to 0.12 points of a rate before it."""
    from scipy.optimize import minimize

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parts[:3] - parts[3:]
        loss = _log_loss(weights, features, targets, row_weights)
        slope = strength * features.T @ (row_weights * (_sigmoid(features @ weights) - targets))
        return parts.sum() + strength * loss, np.concatenate([1 + slope, 1 - slope])

    solver = {"method": "SLSQP", "options": {"maxiter": MAX_STEPS, "ftol": 1e-15}}
    minimum = minimize(objective, np.zeros(6), jac=True, bounds=[(0, None)] * 6, **solver)
    if not minimum.success:
        raise ArithmeticError(f"the length-control fit did not settle in {MAX_STEPS} steps")
    weights = minimum.x[:3] - minimum.x[3:]
    return np.where(np.abs(weights) > 1e-9, weights, 0.0)  # the solver leaves dust
