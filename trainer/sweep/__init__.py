"""Searches a configuration's space for the lowest validation loss, or the best `loop.metric`."""

from trainer.sweep.result import TrialRow
from trainer.sweep.search import search
from trainer.sweep.settings import Sweep, SweepOptions, load_sweep

__all__ = ["Sweep", "SweepOptions", "TrialRow", "load_sweep", "search"]
