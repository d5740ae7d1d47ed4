"""Imported once by the fork server of `tests.trainer.forks`, so that its children need not."""

import matplotlib.backends.backend_agg
import torch
import transformers.models.llama.modeling_llama
import transformers.pytorch_utils

import trainer.report
import trainer.train
from trainer.__main__ import main

# No thread pool may be in use before a fork, and equal bits need equal numbers of threads.
torch.set_num_threads(1)

__all__ = ["main", "matplotlib", "trainer", "transformers"]
