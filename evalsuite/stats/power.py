"""What a number of samples can show: minimum detectable effect, power, samples needed.

All from the standard error of a paired difference under the normal approximation (Miller 2024,
arXiv 2411.00640, section 5), so that a small subset cannot be read as "no regression".
"""

import math

from scipy.stats import norm

from evalsuite.stats.standard_error import mean_error
from evalsuite.types import Floats


def binary_difference_error(num_better: float, num_worse: float, num_pairs: int) -> float:
    """Standard error of a difference of paired proportions.

    Agresti and Min 2005 ("Simple improved confidence intervals for comparing matched
    proportions"): half a pair is added to each cell of the 2 x 2 table. No pair that differs is
    then no proof that none can.
    """
    better, worse, num = num_better + 0.5, num_worse + 0.5, num_pairs + 2.0
    return math.sqrt(better + worse - (better - worse) ** 2 / num) / num


def difference_error(differences: Floats, maximum: float) -> float:
    """Standard error of the mean of [N] paired differences; never 0 from finite samples.

    Where all differences are equal, as for two rows with the same answers, the variance unseen is
    taken to be that of a proportion without discordant pairs.
    """
    num = len(differences)
    least = binary_difference_error(0, 0, num) * maximum
    found = mean_error(differences)
    if not math.isfinite(found):
        return found
    return found if found > 1e-9 * maximum else least


def minimum_detectable_effect(error: float, alpha: float, power: float) -> float:
    """The true difference that a two-sided test at `alpha` finds with probability `power`."""
    return float(norm.isf(alpha / 2) + norm.ppf(power)) * error


def power_of(error: float, margin: float, alpha: float) -> float:
    """Probability that a one-sided test at `alpha` excludes a drop of `margin` where there is none.

    0 for an error that is unknown, 1 for none.
    """
    if not math.isfinite(error):
        return 0.0
    return float(norm.cdf(margin / error - norm.isf(alpha))) if error else 1.0


def required_samples(
    error: float, num_samples: int, margin: float, alpha: float, power: float
) -> int | None:
    """Samples for that power, from the error of `num_samples`; None where the error is unknown."""
    if not math.isfinite(error) or not margin > 0:
        return None
    return math.ceil(num_samples * (error * float(norm.isf(alpha) + norm.ppf(power)) / margin) ** 2)
