"""How sure a number is, and whether two differ.

Every function takes sufficient statistics, so corpus metrics are recomputed, never averaged.
Samples without an answer are left out: unscored is not zero. Samples of one group (of one passage)
are drawn, swapped and left out together.
"""

from evalsuite.stats.bootstrap import BootstrapConfig, Interval, value_interval
from evalsuite.stats.comparison import Comparison, TestConfig, compare
from evalsuite.stats.equivalence import NonInferiority, Verdict, non_inferiority
from evalsuite.stats.multiplicity import (
    Correction,
    adjusted,
    adjusted_by_key,
    benjamini_hochberg,
    holm,
)
from evalsuite.stats.power import minimum_detectable_effect, power_of, required_samples
from evalsuite.stats.significance import mcnemar, permutation_p
from evalsuite.stats.standard_error import clustered_error, standard_error, wilson

__all__ = [
    "BootstrapConfig",
    "Comparison",
    "Correction",
    "Interval",
    "NonInferiority",
    "TestConfig",
    "Verdict",
    "adjusted",
    "adjusted_by_key",
    "benjamini_hochberg",
    "clustered_error",
    "compare",
    "holm",
    "mcnemar",
    "minimum_detectable_effect",
    "non_inferiority",
    "permutation_p",
    "power_of",
    "required_samples",
    "standard_error",
    "value_interval",
    "wilson",
]
