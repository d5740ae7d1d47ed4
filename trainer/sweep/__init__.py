"""Searches a configuration's space for the lowest validation loss, or the best `loop.metric`."""

from trainer.sweep.search import Sweep, SweepOptions, TrialRow, load_sweep, search

__all__ = ["Sweep", "SweepOptions", "TrialRow", "load_sweep", "search"]
