"""What the served base writes: unprompted, behind a fixed opening, and asked as in a chat."""

from typing import Any

from understudy import Client, RawPrompt, SamplingParams, StoppingParams

SEEDS = range(10)
TEMPERATURE, TOP_P, MAX_TOKENS = 0.8, 0.95, 60
OPENING = "One day the old fisherman"
# One for each seed, chosen before any answer was seen.
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Which day comes after Tuesday?",
    "What is 7 plus 5?",
    "Is this review positive or negative? The soup was cold and the waiter was rude.",
    "Mia has a red kite and a small dog. What colour is the kite?",
    "Name three animals that live on a farm.",
    "Say it in other words: The meeting was put off until Friday.",
    "Does the first sentence mean that the second is true? Tom sold his car. Tom owned a car.",
    "Tell me a short story about a lost key.",
)
TIMEOUT_S = 120.0


def chat(question: str) -> str:
    """A question as the instruction stage wrote it."""
    return f"<|user|>{question}<|end|><|assistant|>"


def prompts() -> dict[str, list[str]]:
    """The prompts of each kind, one for each seed."""
    return {
        "unprompted": ["" for _ in SEEDS],
        "opening": [OPENING for _ in SEEDS],
        "questions": [chat(question) for question in QUESTIONS],
    }


def samples(address: str) -> dict[str, list[dict[str, Any]]]:
    """By kind: seed, prompt and text of each sample, as it came."""
    stopping = StoppingParams(max_tokens=MAX_TOKENS)
    found: dict[str, list[dict[str, Any]]] = {}
    with Client(address, timeout=TIMEOUT_S) as client:
        for kind, texts in prompts().items():
            found[kind] = []
            for seed, prompt in zip(SEEDS, texts, strict=True):
                sampling = SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, seed=seed)
                result = client.generate(RawPrompt(prompt), sampling=sampling, stopping=stopping)
                found[kind].append({"seed": seed, "prompt": prompt, "text": result.text})
    return found
