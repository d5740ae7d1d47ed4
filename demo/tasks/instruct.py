"""Instruction text for the last stage of pretraining.

Most documents are conversations in the chat form, the control tokens written out:
`<|user|>QUESTION<|end|><|assistant|>ANSWER<|end|>`, with `<|system|>...<|end|>` in front of some.
The rest are plain prompts with their answer, alone or behind worked examples of the same form.
"""

import argparse
import random
from collections.abc import Callable, Iterator, Mapping

from demo.tasks import (
    instruct_dates,
    instruct_knowledge,
    instruct_lists,
    instruct_numbers,
    instruct_pairs,
    instruct_reading,
    instruct_rewrite,
    instruct_talk,
    instruct_topics,
)
from demo.tasks.instruct_forms import Kind, Task
from demo.tasks.instruct_talk import TALKS, Talk, Turns
from demo.tasks.rows import phrases

KINDS: Mapping[str, tuple[Kind, float]] = {
    **instruct_numbers.KINDS,
    **instruct_dates.KINDS,
    **instruct_lists.KINDS,
    **instruct_reading.KINDS,
    **instruct_rewrite.KINDS,
    **instruct_topics.KINDS,
    **instruct_pairs.KINDS,
    **instruct_knowledge.KINDS,
    **instruct_talk.KINDS,
}
"""Kinds of task by name, and how often each is drawn."""

SYSTEMS = phrases(
    """You are a helpful assistant.|Answer briefly.|Do what you are asked and nothing else.
    |You answer questions and do small tasks.|Be short and correct.|You are a careful helper.
    |Reply in English.|Give the answer without any comment.|You help people with texts."""
)


def chat(system: str, turns: Turns) -> str:
    """A conversation with its control tokens."""
    head = f"<|system|>{system}<|end|>" if system else ""
    return head + "".join(
        f"<|user|>{question}<|end|><|assistant|>{answer}<|end|>" for question, answer in turns
    )


def alone(rng: random.Random, task: Task) -> str:
    """One question; the instruction, or a general one, is sometimes the system's."""
    form = rng.random()
    if form < 0.2:
        system, prompt, answer = task.split_example()
    else:
        prompt, answer = task.example()
        system = rng.choice(SYSTEMS) if form < 0.35 else ""
    return chat(system, [(prompt.strip(), answer)])


def in_turns(rng: random.Random, task: Task) -> str:
    """Several questions of one form; the instruction is said once, by the system or first."""
    turns: Turns = []
    lead = ""
    for _ in range(rng.randint(2, 4)):
        lead, prompt, answer = task.split_example()
        turns.append((prompt.strip(), answer))
    if lead and rng.random() < 0.5:
        turns[0] = (f"{lead}\n\n{turns[0][0]}", turns[0][1])
        lead = ""
    return chat(lead, turns)


def mixed(rng: random.Random, task: Task) -> str:
    """Two or three questions that have nothing to do with each other."""
    tasks = [task, *(draw_task(rng) for _ in range(rng.randint(1, 2)))]
    turns = [(prompt.strip(), answer) for prompt, answer in (each.example() for each in tasks)]
    return chat(rng.choice(SYSTEMS) if rng.random() < 0.2 else "", turns)


def shots(rng: random.Random, task: Task) -> str:
    """Plain text: two to four prompts of one form with their answers."""
    asked = [task.example() for _ in range(rng.randint(2, 4))]
    if task.wording.endswith("\n") or task.wording.endswith(":"):
        return "\n\n".join(prompt + gap(prompt) + answer for prompt, answer in asked)
    form = rng.choice(("Q: {}\nA: {}", "Question: {}\nAnswer: {}", "Input: {}\nOutput: {}"))
    return "\n\n".join(form.format(prompt, answer) for prompt, answer in asked)


def plain(rng: random.Random, task: Task) -> str:
    """Plain text: one prompt with its answer behind it."""
    prompt, answer = task.example()
    return prompt + gap(prompt) + answer


def gap(prompt: str) -> str:
    """What stands between a prompt and its answer in plain text."""
    if prompt.endswith("\n"):
        return ""
    return " " if prompt.endswith((":", "?")) else "\n"


FORMS: Mapping[str, tuple[Callable[[random.Random, Task], str], float]] = {
    "alone": (alone, 0.46),
    "in turns": (in_turns, 0.18),
    "mixed": (mixed, 0.10),
    "shots": (shots, 0.16),
    "plain": (plain, 0.10),
}
TALK_SHARE = 0.1  # of the documents, made by TALKS


def draw_task(rng: random.Random) -> Task:
    """A task of a random kind."""
    ((kind, _),) = rng.choices(list(KINDS.values()), [weight for _, weight in KINDS.values()])
    return kind(rng)


def document(rng: random.Random) -> str:
    """One document of a random kind and form."""
    if rng.random() < TALK_SHARE:
        talks: list[Callable[[random.Random], Talk]] = [make for make, _ in TALKS.values()]
        (talk,) = rng.choices(talks, [weight for _, weight in TALKS.values()])
        return chat(*talk(rng))
    ((form, _),) = rng.choices(list(FORMS.values()), [weight for _, weight in FORMS.values()])
    return form(rng, draw_task(rng))


def texts(seed: int, num: int) -> Iterator[str]:
    """Yields `num` distinct documents; the same seed gives the same documents on any machine."""
    rng = random.Random(f"instruct:{seed}")
    seen: set[str] = set()
    while len(seen) < num:
        made = document(rng)
        if made not in seen:
            seen.add(made)
            yield made


def main() -> None:
    """Prints one example of each kind, or whole documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=0, help="documents in place of examples")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for made in texts(args.seed, args.num):
        print(made, end="\n\n---\n\n")
    rng = random.Random(args.seed)
    for name, (kind, _) in KINDS.items() if not args.num else ():
        print(f"[{name}]", chat("", [kind(rng).example()]))
    for name, (make, _) in TALKS.items() if not args.num else ():
        print(f"[{name}]", chat(*make(rng)))


if __name__ == "__main__":
    main()
