"""The generated blocks of the card, as Markdown, from what the sections measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from demo.card.blocks import inline, table
from demo.card.samples import MAX_TOKENS, OPENING, QUESTIONS, TEMPERATURE, TOP_P
from demo.card.scores import CHARS_PER_DOCUMENT, DOCUMENTS_PER_SOURCE, PREFIX

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A generated part of the page."""

    needs: tuple[str, ...]
    """Sections; without one of them the block stays as it is."""
    render: Callable[[Results], str]


def _facts(results: Results) -> str:
    f = results["facts"]
    tied = ", tied embeddings" if f["is_tied"] else ""
    shape = (
        f"{f['layers']} layers, hidden size {f['hidden_size']}, MLP {f['intermediate_size']}, "
        f"{f['heads']} query heads and {f['kv_heads']} key-value heads of {f['head_dim']}, "
        f"RoPE theta {f['rope_theta']:,.0f}{tied}"
    )
    parameters = f"{f['parameters']:,} ({f['embedding_parameters']:,} of them embeddings)"
    control = ", ".join(f"`{token.replace('|', chr(92) + '|')}`" for token in f["control_tokens"])
    rows = [
        ["architecture", f"Llama (`{f['architecture']}`): {shape}"],
        ["parameters", parameters],
        ["context", f"{f['context']:,} tokens"],
        ["vocabulary", f"{f['vocab_size']:,}, byte-level BPE; any UTF-8 text decodes to itself"],
        ["control tokens", control],
        ["weights", f"{f['dtype']} safetensors, {f['weight_bytes'] / 1e6:.1f} MB"],
    ]
    return table(["", ""], rows)


def _stages(results: Results) -> str:
    stages = results["stages"]
    names = [f"stage {number}" for number in range(1, len(stages) + 1)]
    rows = [
        ["tokens", *(f"{stage['tokens']:,}" for stage in stages)],
        ["steps", *(f"{stage['steps']:,}" for stage in stages)],
        ["hours", *(f"{stage['hours']:.2f}" for stage in stages)],
        ["peak learning rate", *(f"{stage['peak_learning_rate']:.2g}" for stage in stages)],
        ["training loss at the end", *(f"{stage['last_loss']:.3f}" for stage in stages)],
    ]
    checks = [
        [name, f"{check['tokens'] / 1e6:.2f}", f"{check['bits_per_byte']:.3f}"]
        for name, stage in zip(names, stages, strict=True)
        for check in stage["checks"]
    ]
    curve = table(["", "million tokens", "held-out bits per byte"], checks)
    note = "Held out, while training: over the bytes of all sources of the stage."
    return f"{table(['', *names], rows)}\n\n{note}\n\n{curve}"


def _sources(results: Results) -> str:
    rows, hashes = [], []
    for number, stage in enumerate(results["stages"], start=1):
        for s in stage["sources"]:
            name = f"{s['source']} ({number})" if len(results["stages"]) > 1 else s["source"]
            counts = [s["num_documents"], s["num_duplicates"], s.get("num_kept_out", 0)]
            counts += [s["num_train_tokens"], s["num_validation_bytes"]]
            rows.append([name, *(f"{count:,}" for count in counts), f"{s['weight']:g}"])
            hashes.append([name, f"`{s['sha256']}`"])
    header = ["source", "documents", "duplicates dropped", "kept out", "training tokens"]
    header += ["held-out bytes", "weight"]
    what = "sha256 over the documents kept of each source, in order, each followed by a zero byte:"
    return f"{table(header, rows)}\n\n{what}\n\n{table(['source', 'sha256'], hashes)}"


def _bits(results: Results) -> str:
    base, stories = results["bf16"], results["stories260K"]
    grams, read = results["5gram"], results["5gram_read"]
    models = {
        "this base, bf16": base["sources"],
        "this base, NF4": results["nf4"]["sources"],
        "5-gram, what it read": read["sources"],
        "5-gram, all": grams["sources"],
        "stories260K": stories["sources"],
    }
    rows = [
        [
            name,
            f"{entry['documents']:,}",
            f"{entry['bytes']:,}",
            *(f"{found[name]['bits_per_byte']:.3f}" for found in models.values()),
        ]
        for name, entry in base["sources"].items()
    ]
    text = (
        "Bits per byte. Every document is scored alone, behind the token that begins a text and "
        "without one that ends it, the same text for all. A document longer than a model's context "
        f"({base['context']:,} tokens here, {stories['context']:,} of stories260K) is read in "
        "windows that overlap by half. Control tokens in a text count as the characters they are "
        "written with.\n\n"
        "- *5-gram*: interpolated, modified Kneser-Ney over this base's own tokens, exact counts. "
        f"*What it read*: the {read['num_training_tokens']:,} tokens that training had drawn, each "
        f"once per stage. *All*: the {grams['num_training_tokens']:,} tokens that were prepared, "
        "of which the base read only some.\n"
        "- *stories260K*: 0.26 million parameters, trained on children's stories alone; with byte "
        "fallback, so that it pays for every byte."
    )
    if base["left_out"]:
        text += f"\n\nDocuments with U+2581, a mark of its tokenizer: {base['left_out']}, left out."
    return f"{text}\n\n{table(['held-out source', 'documents', 'bytes', *models], rows)}"


def _samples(results: Results) -> str:
    found = results["samples"]
    parts = [
        f"Seeds 0 to 9 as they came from the server (NF4), temperature {TEMPERATURE}, top-p "
        f'{TOP_P}, at most {MAX_TOKENS} tokens; " / " is a line break.',
        "From nothing:",
        _numbered([inline(sample["text"]) for sample in found["unprompted"]]),
        f'After "{OPENING}":',
        _numbered([inline(sample["text"]) for sample in found["opening"]]),
        "Asked as `<|user|>QUESTION<|end|><|assistant|>`, each question once, under its seed:",
        _numbered(
            [
                f"*{question}* {inline(sample['text'])}"
                for question, sample in zip(QUESTIONS, found["questions"], strict=True)
            ]
        ),
    ]
    return "\n\n".join(parts)


def _numbered(texts: list[str]) -> str:
    return "\n".join(f"{number}. {text}".rstrip() for number, text in enumerate(texts))


def _scores(results: Results) -> str:
    rows = []
    for name, task in results["scores"].items():
        if name.startswith(PREFIX):
            continue
        metric, cells = task["metric"], task["rows"]
        chance = "-" if task["chance"] is None else f"{task['chance']:.3f}"
        constant = cells.get("trivial", {}).get(metric)
        rows.append(
            [
                name,
                str(task["num_samples"]),
                metric,
                _interval(cells["base"][metric]),
                _interval(cells.get("base_3shot", {}).get(metric)),
                chance,
                "-" if constant is None else f"{constant['value']:.3f}",
            ]
        )
    header = ["task", "samples", "metric", "no examples", "3 examples", "guessing", "trivial"]
    note = (
        "By the eval suite through the server (NF4), with 95% intervals. *Guessing*: the expected "
        "score of a random choice (of bbh, among the answers that its sub-task has). *Trivial*: "
        "the better of one constant answer from the training file and a copy of the input."
    )
    return f"{note}\n\n{table(header, rows)}"


def _perplexity(results: Results) -> str:
    rows = []
    for name, task in results["scores"].items():
        if name.startswith(PREFIX):
            base = task["rows"]["base"]
            words = f"{base['word_perplexity']['value']:,.1f}"
            cells = [_interval(base["bits_per_byte"]), f"{base['perplexity']['value']:.2f}", words]
            rows.append([name.removeprefix(PREFIX), str(task["num_samples"]), *cells])
    note = (
        f"By the eval suite through the server (NF4): up to {DOCUMENTS_PER_SOURCE} held-out "
        f"documents of each source, the first {CHARS_PER_DOCUMENT:,} characters of each, without "
        "the first word."
    )
    header = ["source", "documents", "bits per byte", "perplexity per token", "per word"]
    return f"{note}\n\n{table(header, rows)}"


def _interval(number: Mapping[str, Any] | None) -> str:
    if number is None or number["value"] is None:
        return "-"
    if number["ci_low"] is None or number["ci_high"] is None:
        return f"{number['value']:.3f}"
    return f"{number['value']:.3f} ({number['ci_low']:.3f} to {number['ci_high']:.3f})"


def _adapters(results: Results) -> str:
    rows = []
    for name, row in results["adapters"].items():
        scores = [row[key] for key in ("base", "base_3shot", "trivial", "adapter")]
        gain = f"{row['gain']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"
        cells = ["-" if score is None else f"{score:.3f}" for score in scores]
        rows.append([name, row["task"], row["method"], row["metric"], *cells, gain])
    header = ["adapter", "task", "method", "metric", "base", "base, 3 shots", "trivial"]
    return table([*header, "adapter", "gain over the best other"], rows)


def _contamination(results: Results) -> str:
    found = results["contamination"]
    rows = []
    for name, s in found["sets"].items():
        rows.append(
            [
                name,
                f"{s['items']:,}",
                f"{s['long_enough']:,}",
                _share(s.get("in_corpus"), s["items"]),
                _share(s["in_training"], s["items"]),
            ]
        )
    note = (
        f"Test items that have {found['num_words']} words in a row, case and punctuation aside, in "
        "common with the corpus as published (*corpus*) and with the documents that were trained "
        "on (*training*). Shorter items cannot be found so."
    )
    return f"{note}\n\n{table(['test set', 'items', 'long enough', 'corpus', 'training'], rows)}"


def _share(number: int | None, of: int) -> str:
    return "-" if number is None else f"{number:,} ({number / of:.2%})"


BLOCKS: dict[str, Block] = {
    "facts": Block(("facts",), _facts),
    "stages": Block(("stages",), _stages),
    "sources": Block(("stages",), _sources),
    "bits": Block(("bf16", "nf4", "5gram", "5gram_read", "stories260K"), _bits),
    "samples": Block(("samples",), _samples),
    "scores": Block(("scores",), _scores),
    "perplexity": Block(("scores",), _perplexity),
    "adapters": Block(("adapters",), _adapters),
    "contamination": Block(("contamination",), _contamination),
}
