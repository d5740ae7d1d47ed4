"""The model card of a trained adapter: README.md beside its files."""

from typing import Any

from understudy.artifact import Manifest
from understudy.prompt import MESSAGES, PromptTemplate

_CARD = """\
---
library_name: {library}
base_model: {base_name}
pipeline_tag: {pipeline}
tags: [{method}, understudy]
---

# {name}

{what}

| | |
|---|---|
| content hash | `{content_hash}` |
| base fingerprint | `{base_fingerprint}` |
| size | {size}{num_trainable:,} parameters |
| training examples | {num_train} |
| validation examples | {num_validation} |
| steps | {num_steps}, exported the state after step {exported_step} |
| learning rate | {learning_rate:g}, {schedule} |
| seed | {seed} |
| validation loss per {term} | {loss_before} before, {loss_exported} in this state |
{metrics}
## Prompt

The prompt is rendered from this Jinja template; {answer}

{fence}jinja
{template}
{fence}

## Use

{use}

## Limits

It was trained {wordings} and validated on it alone; other prompts are outside that. `run.json`
holds the run's configuration, package versions, hardware, times and memory.
"""

_ADAPTER = {
    "library": "peft",
    "what": "An adapter for the base model `{base}` ({architecture}), trained with {method} on a "
    "base\nquantized as `{quantization}`.",
    "use": "{use} With PEFT: `PeftModel.from_pretrained(base, FOLDER)`\n"
    "over the same base, quantized the same way.",
}
_BASE = {
    "library": "transformers",
    "what": "A base model: `{base}` ({architecture}) with all weights fine-tuned in float32.",
    "use": "With the server: `python -m server --base FOLDER`. Adapters for the base that it was\n"
    "fine-tuned from do not fit it.",
}

# By PEFT's task type: what the model card says of what is learnt, and of how it is used.
_WORDS = {
    "CAUSAL_LM": {
        "pipeline": "text-generation",
        "term": "completion token",
        "answer": "the completion follows it and ends with the\nend-of-sequence token.",
        "use": "With the server: `python -m server --base BASE --store STORE`, then\n`{generate}`.",
    },
    "SEQ_2_SEQ_LM": {
        "pipeline": "text2text-generation",
        "term": "completion token",
        "answer": "the encoder reads it, and the\ndecoder writes the completion, with an "
        "end-of-sequence token behind it.",
        "use": "No server serves encoder-decoders yet.",
    },
    "SEQ_CLS": {
        "pipeline": "text-classification",
        "term": "example",
        "answer": "its class is one of {labels}.",
        "use": "With the server: `python -m server --base BASE --store STORE`, then\n`{classify}`.",
    },
}


def render_card(manifest: Manifest, run: dict[str, Any], task: str) -> str:
    """The card's text, from the manifest, the facts in `run.json` and PEFT's task type."""
    optimiser = run["config"]["optimiser"]
    template = manifest.prompt_template or ""
    sizes = {"rank {}": manifest.rank, "{} virtual tokens": manifest.num_virtual_tokens}
    size = next((text.format(n) + ", " for text, n in sizes.items() if n), "")
    labels = ", ".join(f"`{label}`" for label in manifest.labels)
    values = {
        "labels": labels,
        "generate": _call("generate", manifest.name, template),
        "classify": _call("classify", manifest.name, template),
    }
    words = {k: v.format(**values) for k, v in _WORDS[task].items()}
    method = run["config"]["method"]["type"]
    kind = _BASE if method == "full" else _ADAPTER
    facts = {
        "base": manifest.base_name,
        "architecture": manifest.base_architecture,
        "method": method,
        "quantization": manifest.quantization,
        "use": words["use"],
    }
    words |= {key: text.format(**facts) for key, text in kind.items()}
    return _CARD.format(
        **words,
        metrics="".join(
            f"| validation {name.replace('_', ' ')} | {_number(before)} before, "
            f"{_number(run['validation_metrics'].get(name))} in this state |\n"
            for name, before in run["validation_metrics_before"].items()
        ),
        name=manifest.name,
        base_name=manifest.base_name,
        method=method,
        content_hash=manifest.content_hash,
        base_fingerprint=manifest.base_fingerprint,
        size=size,
        num_trainable=run["num_trainable_parameters"],
        num_train=run["data"]["num_train"],
        num_validation=run["data"]["num_validation"],
        num_steps=run["num_steps"],
        exported_step=run["exported_step"],
        learning_rate=optimiser["learning_rate"],
        schedule=optimiser["schedule"],
        seed=run["config"]["seed"],
        loss_before=_number(run["validation_loss_before"]),
        loss_exported=_number(run["validation_loss"]),
        template=template.rstrip("\n"),
        wordings=(
            "on the prompt above"
            if len(run["data"]["wordings"]) == 1
            else f"on {len(run['data']['wordings'])} wordings of the prompt above"
            if len(run["data"]["tasks"]) == 1
            else f"on {len(run['data']['tasks'])} tasks, worded as `run.json` has them,"
        ),
        fence="`" * max(3, _longest_run(template, "`") + 1),
    )


def _call(verb: str, name: str, template: str) -> str:
    """A call of the server that fills the template."""
    found = PromptTemplate(template) if template else None
    if found is None or found.text_variable:
        return f'understudy {verb} --adapter {name} "text"'
    if found.variables == {MESSAGES}:
        return f'client.{verb}([Message("user", "text")], adapter="{name}")'
    if MESSAGES in found.variables:
        return f'understudy {verb} --adapter {name} --raw "the rendered prompt"'
    given = " ".join(f'--input {variable}="text"' for variable in sorted(found.variables))
    return f"understudy {verb} --adapter {name} {given}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _longest_run(text: str, character: str) -> int:
    longest = current = 0
    for c in text:
        current = current + 1 if c == character else 0
        longest = max(longest, current)
    return longest
