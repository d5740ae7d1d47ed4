"""Scores adapters over the wire: samples, prompts, answers, metrics, intervals, report."""
