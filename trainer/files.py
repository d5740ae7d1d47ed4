"""Names of what a run writes into its output folder."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"
PLOT = "loss.png"
CHECKPOINT = "checkpoint.pt"
ADAPTER = "adapter"
SUMMARY = "summary.json"

# What a run leaves in its folder, and a new one replaces.
OWN = (METRICS, PLOT, CHECKPOINT, ADAPTER, CONFIG, SUMMARY)
