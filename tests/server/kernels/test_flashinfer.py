"""Plans for FlashInfer, against the plain reference: the library's side is its documentation's.

FlashInfer itself was never called by a test: it runs on CUDA only.
"""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import StartupError
from server.kernels import FlashInfer, load_flashinfer, page_plan
from server.kernels.reference import attention_reference
from server.models.loader import load_base
from tests.server.kernels.flashinfer_double import library
from tests.tiny import make_base

_CPU = torch.device("cpu")
_KV_HEADS, _GROUP, _DIM = 2, 3, 8


@given(
    seen=st.lists(st.integers(1, 70), min_size=1, max_size=9),
    block_size=st.sampled_from([1, 3, 16]),
)
@settings(deadline=None)
def test_a_plan_names_each_position_once(seen: list[int], block_size: int) -> None:
    # More blocks than are seen: those of later positions.
    blocks = [list(range(100 * i, 100 * i + 1 + length)) for i, length in enumerate(seen)]
    plan = page_plan(list(zip(seen, blocks, strict=True)), block_size)
    assert plan.num_rows == len(seen)
    bounds = plan.indptr.tolist()
    assert bounds[0] == 0
    assert bounds[-1] == len(plan.indices)
    for i, length in enumerate(seen):
        pages = plan.indices[bounds[i] : bounds[i + 1]].tolist()
        assert pages == blocks[i][: len(pages)]
        assert (len(pages) - 1) * block_size + int(plan.last_page_len[i]) == length
        assert 1 <= plan.last_page_len[i] <= block_size


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_attention_of_a_step_is_the_references(seed: int) -> None:
    """Single rows, then chunks, of random lengths, with every kind of layer in one step."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    block_size = generator.choice([1, 4, 16])
    cache = torch.randn(200, block_size, 2, _KV_HEADS, _DIM)
    free = list(range(1, 200))
    generator.shuffle(free)
    counts = [1] * generator.randint(0, 4) + [generator.randint(1, 9) for _ in range(2)]
    seen = []
    for count in counts:
        length = count + generator.randint(0, 30)
        seen.append((length, [free.pop() for _ in range(-(-length // block_size))]))
    num_single = len(counts) - 2
    step = FlashInfer(library(), _CPU).step(
        page_plan(seen[:num_single], block_size) if num_single else None,
        page_plan(seen[num_single:], block_size, counts[num_single:]),
    )
    # As the model has it: heads before rows.
    query = torch.randn(_KV_HEADS * _GROUP, sum(counts), _DIM).transpose(0, 1)
    kinds = [(0.3, None, None), (0.5, 7, None), (0.3, None, 20.0), (0.3, 1, 5.0)]
    for scaling, window, softcap in [*kinds, *kinds]:
        found = step.attend(query, cache, scaling, window, softcap)
        first = 0
        for count, (length, blocks) in zip(counts, seen, strict=True):
            states = cache[blocks].flatten(0, 1)[:length]
            rows = slice(first, first := first + count)
            expected = attention_reference(
                query[rows].transpose(0, 1),
                states[:, 0].transpose(0, 1),
                states[:, 1].transpose(0, 1),
                scaling,
                window,
                softcap,
            )
            torch.testing.assert_close(found[rows], expected)


def test_a_fixed_step_sees_what_it_was_told_last() -> None:
    torch.manual_seed(0)
    cache = torch.randn(20, 4, 2, _KV_HEADS, _DIM)
    fixed = FlashInfer(library(), _CPU).fixed(2, 5)
    query = torch.randn(2, _KV_HEADS * _GROUP, _DIM)
    for seen in ([(9, [3, 4, 5]), (1, [0])], [(17, [9, 8, 7, 6, 5]), (4, [2])]):
        fixed.plan(page_plan(seen, 4))
        expected = FlashInfer(library(), _CPU).step(page_plan(seen, 4), None)
        for window in (None, 3):
            for _ in range(2):
                found = fixed.attend(query, cache, 0.3, window, None)
                torch.testing.assert_close(
                    found, expected.attend(query, cache, 0.3, window, None), rtol=0, atol=0
                )


def test_it_is_refused_where_it_does_not_run(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    assert load_flashinfer(_CPU, torch.bfloat16) == "not for cpu"
    assert "only for float16 and bfloat16" in load_flashinfer(torch.device("cuda"), torch.float32)
    for options, reason in (
        ({}, "attention 'flashinfer': not for cpu; choose 'auto'"),
        ({"deterministic": True}, "its sums depend on the batch, which deterministic forbids"),
    ):
        with pytest.raises(StartupError, match=reason):
            load_base(base, attention="flashinfer", **options)  # type: ignore[arg-type]
