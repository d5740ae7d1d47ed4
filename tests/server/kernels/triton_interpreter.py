"""Runs Triton kernels by its interpreter where there is no GPU; import this before them.

Skips the importing module where triton is not installed: torch's CUDA builds bring it, and
`make test-triton` does.
"""

import importlib.util
import os

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
# Read when a kernel is defined.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
