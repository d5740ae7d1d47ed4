"""`inspect`: say what an adapter is."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.verbs.verb import ADAPTER_HELP, Verb, add_json, add_store
from trainer.writing import json_line

if TYPE_CHECKING:
    from rich.table import Table

    from trainer.inspection import Inspection, Layer

MAX_LAYERS = 12
# Of a low-rank update, whose norm as a matrix is printed.
FACTORS = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B")
IA3 = "ia3_l"
COLUMNS = ("update", "factor change", "of the base", "effective rank", "other tensors")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what an adapter is: method, size, the norm of what it does to each layer, how much of "
        "its rank an update uses, and the words of the vocabulary around each virtual token."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help=ADAPTER_HELP)
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="its base model")
    add_store(parser)
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="words per virtual token (default: 5)"
    )
    parser.add_argument("--all", action="store_true", help="print every layer, not the largest")
    add_json(parser, "everything")


def _run(options: argparse.Namespace) -> int:
    if options.top < 1:
        raise InputError(f"--top {options.top} is not a number from 1")

    from rich.console import Console

    from trainer.inspection import inspect
    from trainer.reference import find_adapter

    found = inspect(find_adapter(options.adapter, options.store), options.base, options.top)
    if options.json:
        print(json_line(found.to_dict()))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    console.print("\n".join(_facts(found)), markup=False)
    for table in _tables(found, None if options.all else MAX_LAYERS):
        console.print(table)
    return 0


def _facts(found: "Inspection") -> list[str]:
    lines = [
        f"{found.name}: {found.method}, {found.num_parameters:,} parameters "
        f"({', '.join(found.dtypes)}), {found.size_bytes:,} bytes"
    ]
    if (manifest := found.manifest) is not None:
        lines += [
            f"content hash {manifest['content_hash']}, intact",
            f"for {manifest['base_name']} ({manifest['base_architecture']}, "
            f"{manifest['quantization']}), fingerprint {manifest['base_fingerprint']}",
        ]
    ranks = [layer.low_rank for layer in found.layers if layer.low_rank is not None]
    if ranks:
        effective = sorted(rank.effective_rank for rank in ranks)
        lines.append(
            f"effective rank of the updates: median {effective[len(effective) // 2]:.1f}, from "
            f"{effective[0]:.1f} to {effective[-1]:.1f}, of {max(rank.rank for rank in ranks)}"
        )
    return lines


def _tables(found: "Inspection", most: int | None) -> list["Table"]:
    from rich.table import Column, Table

    tables = []
    if found.layers:
        ordered = sorted(found.layers, key=_weight, reverse=True) if most else list(found.layers)
        title = "Layers"
        if most and len(ordered) > most:
            title = f"The {most} largest of {len(ordered)} layers (--all prints all)"
        lines = [_cells(layer) for layer in ordered[:most]]
        # Columns that this adapter has something for.
        columns = [name for name in COLUMNS if any(name in cells for cells in lines)]
        table = Table(Column("module", no_wrap=True), *columns, title=title)
        for layer, cells in zip(ordered[:most], lines, strict=True):
            table.add_row(layer.module, *(cells.get(name, "") for name in columns))
        tables.append(table)
    if found.virtual_tokens:
        title = "Virtual tokens"
        if found.median_word_norm is not None:
            title += f" (a word's embedding has a norm of {found.median_word_norm:.3g}, median)"
        table = Table("token", "norm", "nearest by cosine", "nearest by distance", title=title)
        for token in found.virtual_tokens:
            table.add_row(
                str(token.index),
                f"{token.norm:.3g}",
                "  ".join(f"{_quoted(word.text)} {word.cosine:.2f}" for word in token.by_cosine),
                "  ".join(
                    f"{_quoted(word.text)} {word.distance:.2f}" for word in token.by_distance
                ),
            )
        tables.append(table)
    if found.trained_tokens:
        table = Table("module", "id", "token", "moved", title="Trained tokens")
        for trained in found.trained_tokens:
            table.add_row(
                trained.module, str(trained.id), _quoted(trained.text), f"{trained.moved:.1%}"
            )
        tables.append(table)
    return tables


def _cells(layer: "Layer") -> dict[str, str]:
    """A layer's line by column, without empty cells."""
    low, changes = layer.low_rank, dict(layer.relative_change)
    cells = {}
    if IA3 in changes:
        cells["factor change"] = _percent(changes.pop(IA3))
    of_base = [f"{name} {_percent(value)}" for name, value in changes.items()]
    if low is not None:
        cells["update"] = f"{low.norm:.3g}"
        cells["effective rank"] = f"{low.effective_rank:.1f} of {low.rank}"
        if low.relative is not None:
            of_base.insert(0, f"{low.relative:.2%}")
    cells["of the base"] = ", ".join(of_base)
    cells["other tensors"] = ", ".join(
        f"{part} {norm:.3g}"
        for part, norm in layer.norms.items()
        if part != IA3 and (low is None or part not in FACTORS)
    )
    return {name: text for name, text in cells.items() if text}


def _percent(share: float | None) -> str:
    """A dash where there is nothing that it could be a share of."""
    return "-" if share is None else f"{share:.2%}"


def _weight(layer: object) -> float:
    """What layers are sorted by: how much they change, and where that is unknown, their norm."""
    from trainer.inspection import Layer

    assert isinstance(layer, Layer)
    if layer.low_rank is not None:
        return layer.low_rank.norm
    changes = [value or 0.0 for value in layer.relative_change.values()]
    return max([*changes, 0.0]) or max(layer.norms.values())


def _quoted(text: str) -> str:
    from rich.markup import escape

    return escape(json.dumps(text, ensure_ascii=False))


VERB = Verb("inspect", "say what an adapter is", _add_arguments, _run)
