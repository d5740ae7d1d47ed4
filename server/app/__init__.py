"""Composition root: puts a server together, starts it, and takes it down in order."""

from server.app.app import App
from server.app.machine import detect_hardware
from server.app.process import run

__all__ = ["App", "detect_hardware", "run"]
