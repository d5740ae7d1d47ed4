"""The sections of the card: what each measures, and with what."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.card import bits, held, samples, scores, sizes
from demo.card.bits import Progress
from demo.card.held import CardError, Document
from demo.card.kneser_ney import KneserNey
from demo.roles import ROLES
from understudy import Client, processes
from understudy.processes import python

ORDER = 5
STORIES = Path("models") / "stories260K" / "hf"
# What stories260K's tokenizer writes for a space: a text that holds one would not come back.
ITS_SPACE = "\u2581"
READY_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Setting:
    """What is measured, and where its parts lie."""

    base: Path
    works: tuple[Path, ...]
    recipes: tuple[Path, ...]
    """Of the works, in their order."""
    data: Path | None
    """Folder with `data/` and `models/stories260K/`."""
    corpus: Path | None
    demo_report: Path | None
    results: Path
    """Where results, logs and the eval suite's answers are kept."""

    def needed(self, name: str) -> Path:
        """The folder or file of a flag. Raises CardError where it was not given."""
        path: Path | None = getattr(self, name)
        if path is None:
            raise CardError(f"needs --{name.replace('_', '-')}")
        return path

    def documents(self) -> tuple[list[Document], int]:
        """The held-out documents, and how many of them are left out. Raises CardError."""
        if not self.works:
            raise CardError("needs --work")
        every = held.held_out(self.works)
        kept = [document for document in every if ITS_SPACE not in document.text]
        if not kept:
            raise CardError("no document is held out")
        return kept, len(every) - len(kept)


Measure = Callable[[Setting, Progress], Any]


def _facts(setting: Setting, _: Progress) -> Any:
    return sizes.facts(setting.base)


def _stages(setting: Setting, _: Progress) -> Any:
    if not setting.works:
        raise CardError("needs --work")
    return [sizes.stage(work) for work in setting.works]


def _served(base: Callable[[Setting], Path], quantization: str, is_plain: bool = False) -> Measure:
    """Bits per byte through a server. `is_plain`: control tokens are text like any other."""

    def measure(setting: Setting, progress: Progress) -> Any:
        documents, left_out = setting.documents()
        folder = base(setting)
        tokenizer = held.read_tokenizer(folder)
        tokenizer.encode_special_tokens = is_plain
        with _server(setting, folder, quantization) as address:
            with Client(address) as client:
                context = client.model_info().max_context_tokens
            found = bits.by_server(address, tokenizer, documents, progress)
        return {
            "context": context,
            "left_out": left_out,
            "sources": bits.by_source(documents, found),
        }

    return measure


def _ngrams(setting: Setting, progress: Progress) -> Any:
    """Of all the prepared text."""
    documents, _ = setting.documents()
    tokens = held.training_tokens(setting.works, documents)
    return _ngrams_of(setting, tokens, None, progress)


def _ngrams_read(setting: Setting, progress: Progress) -> Any:
    """Of what the base has read."""
    if not setting.works or len(setting.recipes) != len(setting.works):
        raise CardError("needs --work and --recipe, as often each")
    parts = []
    for number, (recipe, work) in enumerate(zip(setting.recipes, setting.works, strict=True)):
        out = setting.results / f"read-{number}.npz"
        command = python("trainer.pretrain_read", str(recipe), "--work", str(work))
        log = out.with_suffix(".log")
        processes.run([*command, "--out", str(out)], "finding what was read", log)
        parts.append(np.load(out))
        out.unlink()
    tokens, begins = (
        np.concatenate([part[name] for part in parts]) for name in ("tokens", "begins")
    )
    return _ngrams_of(setting, tokens, begins, progress)


def _ngrams_of(
    setting: Setting, tokens: held.Tokens, begins: NDArray[np.bool_] | None, progress: Progress
) -> Any:
    documents, _ = setting.documents()
    tokenizer = held.read_tokenizer(setting.base)
    vocabulary = tokenizer.get_vocab()
    for work in setting.works:
        if held.read_tokenizer(work / "tokenizer").get_vocab() != vocabulary:
            raise CardError(f"{work}: its vocabulary is not that of the base")
    progress(f"{len(tokens):,} tokens")
    bos, size = vocabulary[held.BOS], len(vocabulary)
    model = KneserNey(tokens, ORDER, size, bos, begins=begins, progress=progress)
    found = bits.by_ngrams(model, tokenizer, documents)
    return {
        "num_training_tokens": model.num_tokens,
        "discounts": model.discounts,
        "sources": bits.by_source(documents, found),
    }


def _samples(setting: Setting, _: Progress) -> Any:
    with _server(setting, setting.base, "nf4") as address:
        return samples.samples(address)


def _scores(setting: Setting, progress: Progress) -> Any:
    documents, _ = setting.documents()
    # Of these weights alone: the suite takes the answers that it finds in its folder.
    weights = hashlib.sha256((setting.base / sizes.WEIGHTS).read_bytes()).hexdigest()
    out = setting.results / f"evaluation-{weights[:12]}"
    with _server(setting, setting.base, "nf4") as address:
        return scores.score(address, setting.needed("data") / "data", documents, out, progress)


def _adapters(setting: Setting, _: Progress) -> Any:
    """What the demo's own report says of each adapter on its task."""
    path = setting.needed("demo_report")
    report = json.loads(path.read_text(encoding="utf-8"))
    found = {}
    for role in ROLES:
        if role.adapter not in report.get("tasks", {}).get(role.task, {}).get("rows", {}):
            raise CardError(
                f"--demo-report {path} has no {role.adapter} on {role.task}; name the "
                "evaluation/report.json that `python -m demo --out DIR` writes"
            )
        task = report["tasks"][role.task]
        metric, rows = task["primary_metric"], task["rows"]
        gain = rows[role.adapter]["gains"][metric]
        found[role.adapter] = {
            "task": role.task,
            "method": rows[role.adapter]["method"],
            "metric": metric,
            **{
                label: rows[row]["metrics"][metric]["value"] if row in rows else None
                for label, row in (
                    ("base", "base"),
                    ("base_3shot", "base_3shot"),
                    ("trivial", "trivial"),
                    ("adapter", role.adapter),
                )
            },
            "gain": gain["diff"],
            "ci_low": gain["ci_low"],
            "ci_high": gain["ci_high"],
        }
    return found


def _contamination(setting: Setting, _: Progress) -> Any:
    if not setting.works:
        raise CardError("needs --work")
    out = setting.results / "overlap.json"
    command = python("trainer.pretrain_overlap", str(setting.needed("data") / "data"))
    for work in setting.works:
        command += ["--work", str(work)]
    if setting.corpus is not None:
        command += ["--corpus", str(setting.corpus)]
    processes.run([*command, "--out", str(out)], "the search for test items")
    return json.loads(out.read_text(encoding="utf-8"))


def _stories(setting: Setting) -> Path:
    return setting.needed("data") / STORIES


@contextmanager
def _server(setting: Setting, base: Path, quantization: str) -> Iterator[str]:
    """The address of a server of the base for the length of the block."""
    flags = ["--base", str(base), "--quantization", quantization]
    with processes.server(flags, setting.results, READY_TIMEOUT_S) as server:
        yield server.address


SECTIONS: dict[str, Measure] = {
    "facts": _facts,
    "stages": _stages,
    "samples": _samples,
    "bf16": _served(lambda setting: setting.base, "none"),
    "nf4": _served(lambda setting: setting.base, "nf4"),
    "5gram": _ngrams,
    "5gram_read": _ngrams_read,
    "stories260K": _served(_stories, "none", is_plain=True),
    "scores": _scores,
    "contamination": _contamination,
    "adapters": _adapters,
}


def timed(name: str, setting: Setting, progress: Progress) -> dict[str, Any]:
    """A section's result with the seconds it took. Raises CardError and ChildError."""
    started = time.monotonic()
    result = SECTIONS[name](setting, progress)
    return {"section": name, "seconds": round(time.monotonic() - started, 1), "result": result}
