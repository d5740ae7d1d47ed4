"""Who plays in the demo: the base, the adapters, and what each is trained for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.tasks import order_json

HERE = Path(__file__).parent
BASE = HERE / "base"
CONFIGS = HERE / "configs"
STORE = HERE / "store"
"""The ready-made adapters, one version of each, as `python -m demo.adapters` published them."""

NUM_TRAIN, NUM_VALIDATION = 4000, 64
"""Rows that every adapter is trained with."""
PROSE = HERE / "prose.txt"
"""Plain English, written for this: no base and no adapter was trained on it."""

QUANTIZATION = "nf4"
"""Of the base under the ready-made adapters."""


@dataclass(frozen=True)
class Role:
    """One adapter of the demo."""

    adapter: str
    task: str
    does: str
    schema: Mapping[str, object] | None = None
    """JSON schema that the server holds its answer to in the mixed batch."""


ROLES = (
    Role("support-summary", "support_summary", "summarise a support dialogue"),
    Role("shorthand-rewrite", "shorthand_rewrite", "write shorthand notes out in full"),
    Role("order-json", "order_json", "turn an order into JSON", order_json.SCHEMA),
    Role("pirate-answer", "pirate_answer", "answer as a pirate"),
    Role("ticket-route", "ticket_route", "send a message to the right desk"),
    Role("review-label", "review_label", "label a review, by a soft prompt"),
    Role("review-label-lora", "review_label", "label a review, by a LoRA"),
)
LIVE = "shorthand-rewrite"
"""The adapter that the demo trains while you watch."""
TASKS = tuple(dict.fromkeys(role.task for role in ROLES))
