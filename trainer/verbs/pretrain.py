"""`pretrain`: make a small base model by a recipe; `trainer.pretrain` reads its own arguments."""

import argparse

from trainer.verbs.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def _run(options: argparse.Namespace) -> int:
    from trainer import pretrain

    return pretrain.main(options.arguments)


VERB = Verb("pretrain", "make a small base model by a recipe", _add_arguments, _run)
