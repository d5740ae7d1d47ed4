"""Who plays in the demo: the base, the adapters, and what each is trained for."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BASE = HERE / "base"
CONFIGS = HERE / "configs"


@dataclass(frozen=True)
class Role:
    """One adapter of the demo."""

    adapter: str
    task: str
    does: str
    num_train: int


ROLES = (
    Role("support-summary", "support_summary", "summarise a support dialogue", 4000),
    Role("shorthand-rewrite", "shorthand_rewrite", "write shorthand notes out in full", 4000),
    Role("review-label", "review_label", "label a review", 4000),
)
