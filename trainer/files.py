"""Names of what a run writes into its output folder."""

METRICS = "metrics.jsonl"
PLOT = "loss.png"
CHECKPOINT = "checkpoint.pt"
ADAPTER = "adapter"

# What a run leaves in its folder, and a new one replaces.
OWN = (METRICS, PLOT, CHECKPOINT, ADAPTER)
