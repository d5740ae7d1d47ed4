"""The error tree of the eval suite.

EvalError               one line for the user, exit code 2
├── InputError          a flag, task file or data file is wrong
├── ServerError         the server cannot be used, or went away; what was answered is kept
│   └── ServerAway      it cannot be reached or has too much to do: worth another try
└── RequestRefused      the server refuses this one request: its sample stays unscored
"""

import difflib
from collections.abc import Iterable


class EvalError(Exception):
    """Base of all errors that the command line shows as one line."""


class InputError(EvalError):
    """A flag, a task file or a data file is wrong. The message names file, field and value."""


class ServerError(EvalError):
    """The server cannot be used."""


class ServerAway(ServerError):
    """The server cannot be reached, or is too busy; another try may succeed."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds the server asks to wait; 0 where it did not say."""


class RequestRefused(EvalError):
    """The server refuses this request for what it contains, such as a prompt that is too long."""


def nearest(value: str, valid: Iterable[str]) -> str:
    """A remedy to append to a message: the closest valid name, or all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(value, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names)}"
