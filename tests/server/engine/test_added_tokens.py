"""Adapters that add tokens to the vocabulary, mixed with others and the bare base."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoTokenizer

from server.config import EngineConfig
from server.engine.limits import check_request
from server.errors import InvalidRequestError
from server.models.loader import LoadedBase, load_base
from server.types import FinishedSample, FinishReason
from tests.server.engine import oracle
from tests.server.engine.added import COMET, MOON, ZEBRA, make_added
from tests.server.engine.harness import Driver
from tests.server.engine.kinds import check_against_peft, hold, load_kernels, vocabulary_size
from tests.server.engine.small_bases import BASES
from tests.tiny import make_adapter, make_model


def _lora(**options: Any) -> peft.LoraConfig:
    options.setdefault("target_modules", ["q_proj", "down_proj"])
    return peft.LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", **options)


# Rows behind the base's: three named ones, or more than are named.
_CONFIGS: dict[str, tuple[peft.PeftConfig, int]] = {
    "resized": (_lora(), 323),
    "saved": (_lora(modules_to_save=["embed_tokens", "lm_head"]), 333),
    "tokens": (_lora(trainable_token_indices=[5, 321, 322]), 323),
    "lora": (_lora(target_modules=["q_proj", "embed_tokens", "lm_head"]), 400),
}
# PEFT itself cannot load what it saved of the others where the two are tied.
_TIED = ("resized", "tokens", "lora")


class Made:
    """A base, adapters that add tokens by name, and one that adds none."""

    def __init__(self, root: Path, name: str) -> None:
        self.base = make_model(root / "base", BASES[name])
        kinds = _CONFIGS if name == "llama" else _TIED
        self.adapters = {
            kind: make_added(
                self.base,
                root / kind,
                _CONFIGS[kind][0],
                name=kind,
                seed=seed,
                num_rows=_CONFIGS[kind][1],
            )
            for seed, kind in enumerate(kinds)
        }
        # It changes the output head's own columns, beside those that others add.
        dora = _lora(target_modules=["q_proj", "lm_head"], use_dora=True)
        self.plain = make_adapter(self.base, root / "plain", dora, name="plain", seed=9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("added")
    return cache(lambda name: Made(root / name, name))


@pytest.fixture(scope="module")
def llama(made: Any) -> tuple[Made, LoadedBase]:
    return made("llama"), load_base(made("llama").base, quantization="none", deterministic=True)


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gemma2"])
@pytest.mark.parametrize(
    ("kernels", "quantization"), [("deterministic", "none"), ("native", "nf4"), ("torch", "int8")]
)
def test_against_peft(made: Any, name: str, kernels: str, quantization: str) -> None:
    tiny = made(name)
    base = load_kernels(tiny.base, quantization, kernels)
    adapters = {"plain": tiny.plain, **tiny.adapters}
    check_against_peft(base, tiny.base, adapters, step_tokens=17, prompts_each=1)


def _run(made: Made, base: LoadedBase, key: str | None, **options: Any) -> FinishedSample:
    driver = Driver(base, deterministic=True)
    path = None if key is None else made.adapters.get(key, made.plain)
    return _add(driver, base, path, **options)


def _add(driver: Driver, base: LoadedBase, path: Path | None, **options: Any) -> FinishedSample:
    held = None if path is None else hold(path.name, path, base)
    inbox = driver.add(options.pop("prompt", (5, 9, 40)), held, **options)
    driver.run()
    return inbox.finished


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_bits_do_not_depend_on_the_mixture(made: Any, name: str) -> None:
    tiny = made(name)
    base = load_base(tiny.base, quantization="nf4", deterministic=True)
    generator = random.Random(3)
    paths = [None, tiny.plain, *tiny.adapters.values()]
    held = [None if path is None else hold(path.name, path, base) for path in paths]
    jobs = []
    for i in range(18):
        adapter = held[i % len(held)]
        size = vocabulary_size(base, adapter)
        prompt = [generator.randrange(1, size) for _ in range(generator.choice([1, 7, 33, 60]))]
        options = {"max_tokens": 9, "num_logprobs": 4, "num_prompt_logprobs": 2}
        options |= {"temperature": 0.8, "seed": i, "repetition_penalty": 1.2} if i % 2 else {}
        jobs.append((prompt, adapter, options))
    alone = []
    for prompt, adapter, options in jobs:
        driver = Driver(base, deterministic=True, prefix_cache=False)
        inbox = driver.add(prompt, adapter, **options)
        driver.run()
        alone.append(inbox.answer)
    # Small steps, and a cache that holds few of them: chunks, prefixes that are found, preemption.
    mixed = Driver(base, deterministic=True, max_step_tokens=24, max_batch_size=9, num_blocks=7)
    inboxes = [mixed.add(prompt, adapter, **options) for prompt, adapter, options in jobs]
    mixed.run()
    assert mixed.metrics.num_preempted > 0
    for expected, inbox in zip(alone, inboxes, strict=True):
        assert inbox.answer.samples == expected.samples
        assert inbox.answer.prompt_logprobs == expected.prompt_logprobs


def test_every_option_knows_the_added_tokens(llama: tuple[Made, LoadedBase]) -> None:
    tiny, base = llama
    forced = _run(tiny, base, "resized", logit_bias=((321, 1e4),), max_tokens=2, num_logprobs=323)
    assert forced.token_ids == (321, 321)
    assert forced.text == "zebrazebra"
    assert {top.token_id for top in forced.logprobs[0].top} == set(range(323))
    special = _run(tiny, base, "resized", logit_bias=((320, 1e4),), max_tokens=2)
    assert (special.token_ids, special.text) == ((320, 320), "")
    stopped = _run(tiny, base, "resized", logit_bias=((321, 1e4),), stop=("razeb",))
    assert (stopped.text, stopped.stop, stopped.reason) == ("zeb", "razeb", FinishReason.STOP)
    twice = {"prompt": (5, 321), "logit_bias": ((321, 1e4),), "max_tokens": 1}
    penalized = _run(tiny, base, "resized", repetition_penalty=1e9, **twice)
    assert penalized.token_ids != (321,)
    drawn = _run(
        tiny, base, "lora", temperature=1.0, top_k=1, logit_bias=((399, 1e4),), max_tokens=1
    )
    # A row that no tokenizer names has no text.
    assert (drawn.token_ids, drawn.text) == ((399,), "")


def test_an_added_token_ends_the_text(llama: tuple[Made, LoadedBase], tmp_path: Path) -> None:
    tiny, base = llama
    path = make_added(tiny.base, tmp_path / "chat", _lora(), name="chat", eos=MOON)
    driver = Driver(base, deterministic=True)
    options = {"logit_bias": ((320, 1e4),), "ignore_eos": False}
    ended = _add(driver, base, path, **options)
    assert (ended.token_ids, ended.text, ended.reason) == ((320,), "", FinishReason.EOS)
    later = _add(driver, base, path, min_tokens=3, max_tokens=5, **options)
    assert 320 not in later.token_ids[:3]
    assert (later.token_ids[3:], later.reason) == ((320,), FinishReason.EOS)
    # The base's own still does.
    plain = _add(driver, base, path, logit_bias=((0, 1e4),), ignore_eos=False)
    assert plain.reason is FinishReason.EOS


def test_scores_of_added_tokens(llama: tuple[Made, LoadedBase]) -> None:
    tiny, base = llama
    path = tiny.adapters["tokens"]
    driver = Driver(base, deterministic=True)
    continuations = ((321, 7, 322), (5, 320))
    inbox = driver.add((9, 322, 4), hold(path.name, path, base), continuations=continuations)
    bare = driver.add((9, 31, 4), None, continuations=((8, 9),))
    driver.run()
    model = oracle.load(tiny.base, "none", path, num_tokens=323)
    for score, tokens in zip(inbox.scored.scores, continuations, strict=True):
        ids = torch.tensor([[9, 322, 4, *tokens]])
        with torch.inference_mode():
            rows = model(input_ids=ids).logits[0, 2:-1].log_softmax(-1)
        expected = float(rows.gather(1, torch.tensor(tokens).unsqueeze(1)).sum())
        assert score.logprob == pytest.approx(expected, rel=1e-5)
    assert len(bare.scored.scores) == 1


def test_the_tokenizer_is_transformers_own(llama: tuple[Made, LoadedBase]) -> None:
    tiny, base = llama
    path = tiny.adapters["resized"]
    own = hold(path.name, path, base).weights.vocabulary
    assert own is not None
    expected = AutoTokenizer.from_pretrained(path)
    generator = random.Random(1)
    pieces = ["the late ", "train", MOON, ZEBRA, COMET, " ", "note:", "</s>", "é", "zeb", "<"]
    for _ in range(200):
        text = "".join(generator.choices(pieces, k=generator.randint(1, 9)))
        assert own.tokenizer(text)["input_ids"] == expected(text)["input_ids"]
        ids = generator.choices(range(323), k=generator.randint(1, 12))
        assert own.decode(ids) == expected.decode(ids, skip_special_tokens=True)
    # The base's knows none of them.
    assert max(base.tokenizer(MOON + ZEBRA)["input_ids"]) < 320


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("input", {"prompt": (5, 323)}),
        ("sampling.logit_bias[323]", {"logit_bias": ((323, 1.0),)}),
        ("continuations[0]", {"continuations": ((323,),)}),
        ("structured_output", {"constraint": object()}),
    ],
)
def test_requests_that_cannot_run(
    llama: tuple[Made, LoadedBase], field: str, options: dict[str, Any]
) -> None:
    tiny, base = llama
    driver = Driver(base, deterministic=True)
    held = hold("resized", tiny.adapters["resized"], base)
    request = driver.request(options.pop("prompt", (5,)), held, **options)
    with pytest.raises(InvalidRequestError) as caught:
        check_request(request, base.info, EngineConfig(), 512)
    assert caught.value.field == field
    # What the adapter knows the base does not.
    request = driver.request((320,), None)
    with pytest.raises(InvalidRequestError, match="vocabulary of 320"):
        check_request(request, base.info, EngineConfig(), 512)
