"""Names of what a run writes into its output folder."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"
PLOT = "loss.png"
PAGE = "run.html"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint.pt"
ADAPTER = "adapter"
BASE = "base"
SUMMARY = "summary.json"
LEAKAGE = "leakage.json"
TEST = "test.jsonl"
TEST_TASK = "test.yaml"
TOKENS = "tokens"

# What pre-flight writes, a function of configuration and data alone.
PREFLIGHT = (LEAKAGE, TEST, TEST_TASK)

# What a run leaves in its folder, and a new one replaces.
OWN = (
    METRICS, PLOT, CHECKPOINT, ADAPTER, BASE, CONFIG, SUMMARY, PAGE, TENSORBOARD, *PREFLIGHT
)  # fmt: skip
