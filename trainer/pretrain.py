"""Pretrains a small Llama model from a recipe: `python -m trainer pretrain recipes/nano.yaml`."""

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer import corpus
from trainer.corpus import SourceTokens
from trainer.errors import CheckpointError, ConfigError, InputError
from trainer.keep_out import KeptOut
from trainer.pretrain_config import ModelConfig, Recipe, TrainConfig, read_recipe
from trainer.pretrain_export import export, plot_curves
from trainer.pretrain_init import add_copying_heads

CHECKPOINT = "checkpoint.pt"
EXAMPLES = """examples:
  python -m trainer pretrain recipes/nano.yaml --corpus DIR --work runs/nano --out demo/base
  python -m trainer pretrain recipes/nano.yaml --work runs/nano --out demo/base --export-only
"""


@dataclass
class Position:
    """How far a run is. `elapsed_s` counts time spent training, over all restarts."""

    step: int = 0
    elapsed_s: float = 0.0


def build_model(config: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh fp32 model; its weights come from torch's global generator."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def progress_of(config: TrainConfig, position: Position) -> float:
    """Share of the run that is over, in 0..1, by steps or minutes, whichever is further."""
    by_time = position.elapsed_s / 60 / config.max_minutes if config.max_minutes else 0.0
    return min(1.0, max(position.step / config.max_steps, by_time))


def learning_rate(config: TrainConfig, position: Position) -> float:
    """Warmup, constant, linear to zero: see `TrainConfig`."""
    warmup = min(1.0, (position.step + 1) / config.warmup_steps)
    decay = min(1.0, (1.0 - progress_of(config, position)) / config.decay_share)
    return config.learning_rate * warmup * decay


def build_optimizers(model: LlamaForCausalLM, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW, after Muon for the layers' matrices if so configured; no weight decay on vectors."""
    vectors = [p for p in model.parameters() if p.dim() == 1]
    matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
    rest = [model.model.embed_tokens.weight]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    else:
        rest += matrices
    adamw = torch.optim.AdamW(
        [
            {"params": rest, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        fused=True,
    )
    return [*optimizers, adamw]


def loss_function(
    model: LlamaForCausalLM, config: TrainConfig
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Mean next-token cross-entropy in nats of ids `[B, T]`, as a function to differentiate."""

    def loss(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(input_ids=ids, use_cache=False).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())

    return torch.compile(loss, dynamic=False) if config.compile else loss


def read_batch(
    sources: list[SourceTokens], chunks: NDArray[np.int64], context: int, rows_per_chunk: int
) -> torch.Tensor:
    """Token ids `[len(chunks) * rows_per_chunk, context // rows_per_chunk]` of these chunks."""
    picked = [sources[source].train[at * context : (at + 1) * context] for source, at in chunks]
    ids = torch.from_numpy(np.stack(picked).astype(np.int64))
    return ids.view(len(chunks) * rows_per_chunk, context // rows_per_chunk)


@torch.no_grad()
def validate(
    model: LlamaForCausalLM, sources: list[SourceTokens], config: TrainConfig, context: int
) -> dict[str, dict[str, float]]:
    """Loss (nats per token) and bits per byte of every source's held-out text.

    Windows of `context` targets; each window starts with the last token of the one before, so
    every token but the first is predicted once.
    """
    result: dict[str, dict[str, float]] = {}
    model.eval()
    for source in sources:
        ids = torch.from_numpy(source.validation.astype(np.int64))
        total, num_targets = 0.0, 0
        for start in range(0, len(ids) - 1, context - 1):
            window = ids[start : start + context].unsqueeze(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                logits = model(input_ids=window, use_cache=False).logits
            total += cross_entropy(logits[0, :-1].float(), window[0, 1:], reduction="sum").item()
            num_targets += window.shape[1] - 1
        if num_targets:
            result[source.name] = {
                "loss": total / num_targets,
                "bits_per_byte": total / math.log(2) / source.num_validation_bytes,
            }
    model.train()
    return result


def save_checkpoint(
    path: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    position: Position,
) -> None:
    """Writes model, optimizers, random state and position; replaces the old file at the end."""
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rng": torch.get_rng_state(),
        "position": asdict(position),
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load_checkpoint(
    path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> Position:
    """Restores what `save_checkpoint` wrote; without optimizers only the weights."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    if optimizers:
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["rng"])
    return Position(**state["position"])


def train(recipe: Recipe, work: Path, init: Path | None = None) -> LlamaForCausalLM:
    """Runs the recipe from the checkpoint in `work`, if any, to its end.

    A run without checkpoint starts from the weights in the folder `init`, else from random ones.
    Needs what `corpus.prepare` wrote. With `max_minutes` unset, interrupted and resumed runs end
    with the same weights as one that was not, to the last bit. Ctrl-C saves a checkpoint.
    """
    config, context = recipe.train, recipe.model.context
    torch.set_num_threads(config.num_threads)
    sources = corpus.load(work)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, tokenizer)
    if init is not None:
        start = LlamaForCausalLM.from_pretrained(init, dtype=torch.float32)
        model.load_state_dict(start.state_dict())
    elif recipe.model.copying_heads:
        add_copying_heads(model, recipe.seed, recipe.model.rope_theta)
    optimizers = build_optimizers(model, config)
    position = Position()
    if (work / CHECKPOINT).is_file():
        position = load_checkpoint(work / CHECKPOINT, model, optimizers)
    num_chunks = config.max_steps * config.chunks_per_step
    late_from = recipe.data.late.from_step * config.chunks_per_step if recipe.data.late else 0
    order = corpus.plan(sources, context, num_chunks, recipe.seed, late_from)
    loss_of = loss_function(model, config)
    end = min(config.max_steps, config.stop_at or config.max_steps)
    last_saved = time.monotonic()
    bar = Progress(
        TextColumn("pretrain"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    )
    with bar, (work / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        task = bar.add_task("", total=1.0)

        def record(**values: Any) -> None:
            position_now = {"step": position.step, "elapsed_s": round(position.elapsed_s, 1)}
            metrics.write(json.dumps({**position_now, **values}) + "\n")
            metrics.flush()

        try:
            while position.step < end and progress_of(config, position) < 1.0:
                started = time.monotonic()
                rate = learning_rate(config, position)
                for group in (group for each in optimizers for group in each.param_groups):
                    group["lr"] = rate
                first = position.step * config.chunks_per_step
                long = position.step % config.long_every == 0
                chunks = order[first : first + config.chunks_per_step]
                ids = read_batch(sources, chunks, context, 1 if long else 2)
                loss = loss_of(ids)
                model.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                for optimizer in optimizers:
                    optimizer.step()
                seconds = time.monotonic() - started
                position.step += 1
                position.elapsed_s += seconds
                if position.step % config.log_every == 0 or position.step == end:
                    speed = ids.numel() / seconds
                    record(
                        loss=round(loss.item(), 4),
                        learning_rate=rate,
                        grad_norm=round(norm.item(), 4),
                        tokens=position.step * ids.numel(),
                        tokens_per_s=round(speed),
                    )
                    bar.update(
                        task,
                        completed=progress_of(config, position),
                        description=f"step {position.step} loss {loss:.3f} {speed:.0f} tok/s",
                    )
                if position.step % config.validate_every == 0:
                    record(validation=validate(model, sources, config, context))
                if time.monotonic() - last_saved > config.checkpoint_minutes * 60:
                    save_checkpoint(work / CHECKPOINT, model, optimizers, position)
                    last_saved = time.monotonic()
        finally:
            save_checkpoint(work / CHECKPOINT, model, optimizers, position)
        record(validation=validate(model, sources, config, context))
    return model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of `pretrain`."""
    parser.add_argument("recipe", type=Path, help="recipe file (YAML)")
    parser.add_argument("--corpus", type=Path, help="folder with one <source>.jsonl.gz per source")
    parser.add_argument(
        "--keep-out",
        type=Path,
        metavar="DIR",
        help="leave out documents that share 13 words in a row with the test sets in this folder",
    )
    parser.add_argument("--work", type=Path, required=True, help="token files and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="where the model is written")
    parser.add_argument("--init", type=Path, help="start from this model and its tokenizer")
    parser.add_argument(
        "--export-only", action="store_true", help="write the model of the last checkpoint"
    )


def run(args: argparse.Namespace) -> int:
    """Prepares (once), trains or resumes, exports. Returns the exit status."""
    try:
        recipe = read_recipe(args.recipe)
        if not (args.work / "data.json").is_file():
            if args.corpus is None:
                raise ConfigError(f"{args.work}: no prepared data there; give --corpus DIR")
            shape = recipe.model
            given = PreTrainedTokenizerFast.from_pretrained(args.init) if args.init else None
            keep_out = KeptOut.of_folder(args.keep_out) if args.keep_out else None
            corpus.prepare(
                recipe.data,
                args.corpus,
                args.work,
                shape.vocab_size,
                shape.context,
                given,
                keep_out,
            )
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.work / "tokenizer")
        if args.export_only:
            model = build_model(recipe.model, tokenizer)
            if not (args.work / CHECKPOINT).is_file():
                raise CheckpointError(f"{args.work / CHECKPOINT}: no checkpoint to export")
            load_checkpoint(args.work / CHECKPOINT, model, [])
        else:
            for stop in (signal.SIGINT, signal.SIGTERM):
                signal.signal(stop, signal.default_int_handler)
            model = train(recipe, args.work, args.init)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    export(model, tokenizer, args.out)
    plot_curves(args.work / "metrics.jsonl", args.out / "curves.png")
    print(f"wrote {args.out}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m trainer pretrain`."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer pretrain",
        description="Pretrain a small Llama model and its tokenizer from a recipe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
