"""Fixtures that several parts share."""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


class _ParsedError(Exception):
    """The program under test parsed its command line; stop before it runs."""


@pytest.fixture
def parse_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], None]:
    """Return a check that a documented command line is one its program accepts.

    Takes `python -m MODULE ...` or `understudy ...`, starts that program in this process with its
    own argument parser, and stops it as soon as the arguments are parsed. Fails the test if the
    program rejects them.
    """

    def parse(command: Sequence[str]) -> None:
        words = list(command)
        if Path(words[0]).name in {"python", "python3"}:
            assert words[1] == "-m", f"not a module: {words}"
            module, arguments = words[2], words[3:]
        else:
            module, arguments = words[0], words[1:]
        real_parse = argparse.ArgumentParser.parse_args

        def parse_then_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
            real_parse(self, *args, **kwargs)
            raise _ParsedError

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", parse_then_stop)
            patch.setattr(sys, "argv", [module, *arguments])
            # A test that imported the program before must not make runpy warn.
            for name in (module, f"{module}.__main__"):
                # A package stays: what it holds was imported from it.
                if not hasattr(sys.modules.get(name), "__path__"):
                    patch.delitem(sys.modules, name, raising=False)
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except _ParsedError:
                return
            except SystemExit as error:
                pytest.fail(f"{module} rejects {arguments} (exit {error.code})")
        pytest.fail(f"{module} never parsed its command line")

    return parse
