"""Wrong configurations and paths: one clear line and exit code 2, before the weights load."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.conftest import Refused, WriteConfig
from trainer.__main__ import main
from trainer.estimate import memory
from trainer.methods import METHODS

NO_NAME = "data.template_name=null"

CONFIG_ERRORS: list[tuple[list[str], str]] = [
    (["optimiser.lerning_rate=1"], "'optimiser.lerning_rate' is not known; did you mean 'learning"),
    (["nmae=x"], "key 'nmae' is not known; did you mean 'name'?"),
    (["method.rnk=3"], "key 'method.rnk' is not known; did you mean 'rank'?"),
    (["method={type: lorra}"], "key 'method.type': 'lorra' is not known; did you mean 'lora'?"),
    (["method={type: prmpt_tuning}"], "did you mean 'prompt_tuning'?"),
    (["method={type: xyzzy}"], "key 'method.type': 'xyzzy' is not one of bitfit, "),
    (["method={init_text: x}"], "key 'method.type' is missing"),
    (["method.rank=0"], "key 'method.rank': input should be greater than 0, got '0'"),
    (["optimiser.learning_rate=.nan"], "key 'optimiser.learning_rate': input should be a finite"),
    (["optimiser.learning_rate=fast"], "key 'optimiser.learning_rate': input should be a valid"),
    (["optimiser=3"], "key 'optimiser': input should be a dictionary"),
    (["optimiser.schedule=step"], "'cosine', 'linear', 'constant' or 'inverse_sqrt', got 'step'"),
    (["quantization=fp4"], "key 'quantization': input should be 'nf4', 'int8' or 'none'"),
    (["data.validation=1.5"], "key 'data.validation': input should be less than 1"),
    (["name=Über"], "adapter name 'Über' is not allowed"),
    (["name=base"], "reserved"),
    (["base=/nowhere"], "base '/nowhere': no such directory"),
    (["device=cuda"], "key 'device': 'cuda' is not available"),
    (["data.template_name=null", "data.template=hello"], "prompt template names no variable"),
    (["data.template_name=null", "data.template='{{ input'"], "key 'data.template': prompt templ"),
    (["data.template_name=sumarize"], "no template 'sumarize'; did you mean 'summarize'?"),
    (["data.template_name=summarize/9"], "'summarize' has wordings 0 to 7, and summarize/*"),
    (["data.template='{{ input }}'"], "'data.template' and 'data.template_name': give one"),
    (["data.template_name=null", "data.template='{{ completion }}'"], "the text to learn"),
    (["data.train=missing.jsonl"], "missing.jsonl: cannot be read: No such file"),
    (["data.max_length=5"], "examples are longer than 5 tokens"),
    (["data.max_length=9999"], "more than the base's context of 2048 tokens"),
    (["data.validation=0.0001"], "leaves no validation rows"),
    (["method.targets=[q_proj, z_proj]"], "'z_proj' names no linear layer of the base"),
    (["method.targets='*'"], "no regular expression"),
    (["method.rank=5000"], "key 'method.rank': 5000 is too large: the adapter would have "),
    (["method={rank: 5000}"], "; the largest that fits is "),
    (["method={type: prompt_tuning, num_virtual_tokens: 2048}"], "leave no room"),
    (["method={type: prompt_tuning, init: text}"], "`init: text` needs init_text"),
    (["method={type: prompt_tuning, init_text: x}"], "goes with `init: text` only"),
    (["method={type: prompt_tuning, init_labels: [a]}"], "with `init: class_labels` only"),
    (
        [
            "method={type: prompt_tuning, init: class_labels, init_labels: [a, b, c]}",
            "method.num_virtual_tokens=2",
        ],
        "3 labels are more than the 2 of",
    ),
    (["method={type: p_tuning, dropout: 0.1}"], "only `encoder: lstm` drops out"),
    (["method={type: p_tuning, num_layers: 3}"], "an mlp has three"),
    (
        ["method={type: prefix_tuning, init: vocab, projection: true}"],
        "which a projection computes",
    ),
    (["method={type: prefix_tuning, hidden_size: 8}"], "with `projection: true` only"),
    (["method={type: ia3, targets: [k_proj]}"], "'method.feedforward': give both or none"),
    (
        ["method={type: ia3, targets: [k_proj], feedforward: [up_proj]}"],
        "names no target of the base",
    ),
    (["method={type: trainable_tokens, tokens: [zebra]}"], "'zebra' is 5 tokens of the base"),
    (
        ["method={type: trainable_tokens, tokens: [320]}"],
        "id 320 is not of the base, whose last is",
    ),
    (["method={type: trainable_tokens, tokens: [7, 7]}"], "names a token twice"),
    (["method={type: trainable_tokens, tokens: []}"], "key 'method.tokens"),
    (
        ["method={type: ln_tuning, targets: [q_proj]}"],
        "'q_proj' names no norm of the base; there are",
    ),
    (["method={type: layers}"], "name modules to train, or decoder layers"),
    (["method={type: layers, layers: [2]}"], "2 is no layer of the base, which has 0 to 1"),
    (["method={type: layers, layers: [0]}"], "is a linear, and quantized as 'nf4'"),
    (["method={type: layers, modules: [z_proj]}"], "'z_proj' names no module of the base"),
    (["method={type: bitfit}"], "'bitfit' trains biases, and this base (llama) has none"),
    (["method={type: full}"], "key 'quantization': 'nf4', but full fine-tuning"),
    (
        ["method={type: full}", "quantization=none"],
        "key 'output.store': full fine-tuning makes a base",
    ),
    (["method={type: full}", "quantization=none", "dtype=bfloat16"], "lose small updates"),
    (
        ["method={type: full}", "quantization=none", "output.dtype=float16"],
        "key 'output.dtype': 'float16' is for adapters, but full fine-tuning",
    ),
    (["method={type: adalora}"], "PEFT's 'adalora' is not offered: it drops ranks"),
    (["method={type: VERA}"], "PEFT's 'vera' is not offered: it stores a low-rank update"),
    (["optimiser.epochs"], "expected key=value"),
    (["name=2024-13-45"], "--set name: '2024-13-45' is not valid YAML"),
    (["name=[" + "[" * 5000], "--set name: '[[["),
    (["seed=1" + "1" * 5000], "--set seed: '111"),
    (["1=x"], "key '1' is not known"),
    (['base="a\\0b"'], "key 'base': 'a\\x00b' holds a character of no text"),
    (['data.train="\\ud800"'], "key 'data.train': '\\ud800' holds a character of no text"),
    (["optimiser.batch_size=1" + "0" * 20], "'optimiser.batch_size': input should be less than"),
    (["optimiser.learning_rate=1e+300"], "'optimiser.learning_rate': input should be less than"),
    (["num_threads=1000000"], "key 'num_threads': input should be less than or equal to 4096"),
    (["method.rank=1000000000000", "allow_memory=true"], "'method.rank': input should be less"),
    (["data.templates=[summarize/*, rate/8]"], "give one of them"),
    ([NO_NAME, "data.templates=[]"], "key 'data.templates': the list is empty"),
    ([NO_NAME, "data.templates=[rate/8]"], "'rate' has wordings 0 to 5, and rate/* for all"),
    ([NO_NAME, "data.templates=[rate, entail]"], "'entail/0' reads hypothesis, premise, 'rate/0'"),
    ([NO_NAME, "data.templates=['{{ input']"], "key 'data.templates': prompt template, line 1"),
    (["data.template_name=summarise/*"], "no template 'summarise'; did you mean 'summarize"),
    (["data.template_name=order", "data.inverted_share=0.5"], "'order/0' has no inverted wordings"),
    (["data.inverted_share=1"], "key 'data.inverted_share': input should be less than 1"),
    (
        ["data.template_name=answer_passage"],
        "column 'passage' is missing (there is completion, inp",
    ),
    (["data.test=0.9"], "'data.validation' and 'data.test': 0.2 and 0.9 leave nothing"),
    (["data.test=0.0001"], "leaves no test rows; give a larger"),
    (["data.group_key=customer"], "column 'customer' is missing"),
    (["data.on_leak=ignore"], "input should be 'refuse', 'drop' or 'warn', got 'ignore'"),
    (["data.held_out=/nowhere.jsonl"], "key 'data.held_out': /nowhere.jsonl: cannot be read"),
    (["optimiser.batch_size=100000", "data.max_length=[1]"], "key 'data.max_length'"),
    (["name.x=1"], "--set name.x: 'name' holds a value, not keys"),
    (["name=[1"], "is not valid YAML"),
]

# Of `method`: what is written there, and what is said of it.
LORA_ERRORS: list[tuple[str, str]] = [
    ("type: alora", "PEFT's 'alora' is not offered: its update starts inside"),
    ("type: KaSA", "PEFT's 'kasa' is not offered"),
    ("type: dora, use_dora: false", "false contradicts `type: dora`, which is LoRA with `use_dora"),
    ("type: pissa, init: olora", "key 'method.init': olora contradicts `type: pissa`"),
    ("type: dora, init: pissa", "key 'method.init': 'pissa' does not go with DoRA"),
    ("type: dora, lora_bias: true", "key 'method.lora_bias': does not go with DoRA"),
    ("init: gaussian, lora_bias: true", "key 'method.lora_bias': does not go with init 'gaussian'"),
    ("type: mica, freeze_a: true", "with both kept nothing is trained"),
    ("targets: []", "key 'method.targets': names nothing"),
    ("targets: [norm]", "'norm' names no linear layer of the base"),
    ("layers: []", "key 'method.layers': give at least one layer"),
    ("layers: [1, -1]", "key 'method.layers': names a layer twice"),
    ("layers: [2]", "key 'method.layers': the base has no layer 2"),
    ("layers: [-3]", "key 'method.layers': the base has no layer -3"),
    ("layers: [0], targets: '.*q_proj'", "not with the regular expression '.*q_proj'"),
    ("layers_pattern: layers", "give it with method.layers, and only then"),
    ("rank_pattern: {z_proj: 2}", "key 'method.rank_pattern': 'z_proj' matches no adapted layer"),
    ("rank_pattern: {'(q|v)_proj': 2}", "does not serve the pattern '(q|v)_proj'"),
    ("rank_pattern: {q_proj: 0}", "key 'method.rank_pattern': input should be greater than 0"),
    ("alpha_pattern: {'[q': 2}", "key 'method.alpha_pattern': '[q' is no regular expression"),
    ("init: orthogonal, rank: 3", "3 of model.layers.0.self_attn.q_proj is odd"),
    ("init: pissa, rank: 33", "at most 32 directions for model.layers.0.self_attn.k_proj"),
    ("init: lora_ga, rank: 17", "at most 16 directions"),
    ("svd_iterations: -1", "key 'method.svd_iterations'"),
    ("learning_rate_ratio: 0.5", "key 'method.learning_rate_ratio': input should be greater than"),
    ("init_examples: 0", "key 'method.init_examples': input should be greater than 0"),
    ("bias: all", "key 'method.bias': 'all' trains nothing: the base has none such"),
    ("modules_to_save: [norms]", "'norms' names no module of the base; there are"),
    ("modules_to_save: [q_proj], targets: [v_proj]", "q_proj is quantized, and whole numbers"),
    ("modules_to_save: [lm_head], targets: [lm_head]", "lm_head is in method.targets too"),
    ("modules_to_save: [act_fn]", "act_fn has nothing to train"),
    ("trainable_token_indices: [320]", "320 is outside the base's vocabulary of 320"),
    ("trainable_token_indices: [3, 3]", "give each token once"),
    (
        "trainable_token_indices: [3], modules_to_save: [embed_tokens]",
        "embed_tokens trains the embeddings already",
    ),
    ("type: pissa, targets: [embed_tokens]", "is an embedding: init 'pissa' is for linear layers"),
    ("type: lora_fa, targets: [embed_tokens]", "with freeze_a nothing is trained"),
    ("type: lora_plus, targets: [embed_tokens]", "LoRA+ has no learning rate for them"),
    ("lora_bias: true, targets: [embed_tokens]", "lora_bias is for linear layers"),
]


@pytest.mark.parametrize(("overrides", "expected"), CONFIG_ERRORS)
def test_config(
    overrides: list[str],
    expected: str,
    write_config: WriteConfig,
    refused: Callable[..., str],
) -> None:
    arguments = [part for override in overrides for part in ("--set", override)]
    assert expected in refused(write_config(), *arguments)


@pytest.mark.parametrize(("method", "expected"), LORA_ERRORS)
def test_lora(
    method: str, expected: str, write_config: WriteConfig, refused: Callable[..., str]
) -> None:
    rank = "" if "rank:" in method else "rank: 4, "
    assert expected in refused(write_config(), "--set", f"method={{{rank}{method}}}")


def test_loftq_needs_quantization(write_config: WriteConfig, refused: Callable[..., str]) -> None:
    line = refused(write_config(quantization="none", method={"type": "loftq", "rank": 4}))
    assert "key 'method.init': 'loftq' makes up for quantization" in line


def test_not_enough_memory(
    write_config: WriteConfig, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known from lengths and shapes alone."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10 << 20)
    line = refused(write_config(), "--set", "optimiser.batch_size=40")
    assert "estimated memory " in line
    assert "is more than the 10 MiB that is available; lower optimiser.batch_size (40) or" in line
    assert "gradient_checkpointing=true" in line


def test_nothing_trainable(
    write_config: WriteConfig, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = METHODS["lora"]
    nothing = dataclasses.replace(lora, num_trainable=lambda outline, settings: 0)
    monkeypatch.setitem(METHODS, "lora", nothing)
    assert "it would train no parameter of this base" in refused(write_config())


def test_plan_refuses_what_train_refuses(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config()
    for overrides, expected in CONFIG_ERRORS[::6]:
        arguments = [part for override in overrides for part in ("--set", override)]
        assert main(["plan", str(config), *arguments]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "train.yaml:1: not valid YAML: key 'name' is given twice"),
        ("name: [\n", "train.yaml:2: not valid YAML"),
        ("- 1\n", "must hold keys and values"),
        ("name: a\n", "key 'base' is missing"),
    ],
)
def test_file(text: str, expected: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    line = refused(path)
    assert expected in line
    assert str(path) in line


@pytest.mark.parametrize("method", ["type: lora, rank", "type: p_tuning, num_virtual_tokens"])
def test_the_largest_that_fits(
    write_config: WriteConfig, refused: Refused, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    def change(size: int) -> str:
        return f"method={{{method}: {size}}}"

    config = write_config()
    line = refused(config, "--set", change(1900))
    largest = int(line.rsplit(" ", 1)[1])
    assert main(["plan", str(config), "--set", change(largest), "--set", "allow_memory=true"]) == 0
    capsys.readouterr()
    assert f"{largest + 1} is too large" in refused(config, "--set", change(largest + 1))


def test_no_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("? [a, b]\n: c\n", "train.yaml:1: not valid YAML: found unhashable key"),
        (
            "1: x\nname: a\nbase: b\ndata: {train: x}\noutput: {dir: d}\n",
            "train.yaml: key '1': keys should be strings",
        ),
        ("name: 2024-13-45\n", "train.yaml: not valid YAML: month must be in 1..12"),
        (f"seed: {'1' * 5000}\n", "train.yaml: not valid YAML: Exceeds the limit"),
        (f"name: {'[' * 5000}\n", "train.yaml: not valid YAML: maximum recursion depth"),
    ],
)
def test_what_yaml_admits_and_python_does_not(
    text: str, expected: str, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    assert f"error: {tmp_path}/{expected}" in refused(path)


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.train=none.jsonl", "none.jsonl: cannot be read: No such file or directory"),
        ("data.validation=rows.txt", "rows.txt: its format is told by its suffix"),
        ("base=none", "base 'none': no such directory"),
        ("output.dir=/proc/none/run", "key 'output.dir': '/proc/none/run' cannot be written"),
    ],
)
def test_wrong_paths_are_told_before_the_libraries_load(
    command: str, override: str, expected: str, write_config: WriteConfig
) -> None:
    code = (
        "import sys; from trainer.__main__ import main; code = main(sys.argv[1:]); "
        "print(code, *sorted({'torch', 'transformers', 'peft', 'scipy'} & set(sys.modules)))"
    )
    arguments = [command, str(write_config()), "--set", override]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2\n"
    assert done.stderr.startswith(f"error: {expected}")
