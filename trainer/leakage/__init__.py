"""Held-out texts among the training rows: the same, in part, or almost the same.

`hashing` turns many texts into arrays of hashes, `find` looks held-out documents up in training
rows, `policy` says what to do about it. Hashes are those of `understudy.fingerprint`, whose
`FingerprintIndex` is the plain form of the search and its oracle.
"""

from trainer.leakage.find import Finder, Leak
from trainer.leakage.hashing import TextHasher
from trainer.leakage.policy import Report, decide
from trainer.leakage.sources import Held, of_examples, of_files

__all__ = ["Finder", "Held", "Leak", "Report", "TextHasher", "decide", "of_examples", "of_files"]
