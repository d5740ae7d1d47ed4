import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.prompt import PromptError, PromptTemplate


@given(st.text())
def test_values_enter_the_prompt_unchanged(text: str) -> None:
    assert PromptTemplate("Q: {{ input }}\nA:").render({"input": text}) == f"Q: {text}\nA:"


def test_trailing_newline_is_kept() -> None:
    assert PromptTemplate("{{ input }}\n").render({"input": "x"}) == "x\n"


def test_messages_render_in_order() -> None:
    template = PromptTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert template.render({"messages": messages}) == "user: hi\nassistant: yes\n"


def test_missing_and_unknown_variables_are_named() -> None:
    with pytest.raises(PromptError, match="missing input; unknown inptu"):
        PromptTemplate("{{ input }}").render({"inptu": "x"})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ input", "line 1"),
        ("no variable", "names no variable"),
        ("{{ input }}" + "x" * 70_000, "characters"),
    ],
)
def test_invalid_templates_are_refused(template: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        PromptTemplate(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ input.__class__.__mro__ }}",
        "{{ input * 999999999 }}",
        "{{ 9 ** 9999999 }}{{ input }}",
        "{% for i in range(10 ** 9) %}{{ input }}{% endfor %}",
        "{% for a in input %}{% for b in input %}{% for c in input %}{{ input }}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{{ cycler.__init__.__globals__ }}{{ input }}",
        "{% include '/etc/passwd' %}{{ input }}",
        "{% set a = input %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
        "{% set a = input %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
        "{% for a in input %}{% for b in input %}{% for c in input %}{% endfor %}{% endfor %}"
        "{% endfor %}",
        "{{ '%2000000000d' % 5 }}{{ input }}",
        "{{ input.ljust(2000000000) }}",
        "{{ input.replace('a', input) }}",
        "{{ '{:>2000000000}'.format(input) }}",
        "{{ input|center(2000000000) }}",
        "{{ input|list|join(input) }}",
        "{{ [" + "input," * 8000 + "] }}",
        "{{ [" + "input," * 8000 + "]|tojson }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}{{ input }}",
        "{{ '(' * 5 }}{{ input }}",
        "{% set _steps = 1 %}{% for a in input %}{{ a }}{% endfor %}",
    ],
)
def test_hostile_templates_are_stopped(template: str) -> None:
    with pytest.raises(PromptError):
        PromptTemplate(template).render({"input": "a" * 2000})


def test_a_published_models_kind_of_chat_template_renders() -> None:
    template = PromptTemplate(
        "{%- set ns = namespace(system='') -%}"
        "{%- for m in messages -%}{%- if m['role'] == 'system' -%}"
        "{%- set ns.system = m['content'] | trim -%}{%- endif -%}{%- endfor -%}"
        "{{- '<s>' + ns.system ~ '\\n' -}}"
        "{%- for m in messages if m.role != 'system' -%}"
        "{%- if loop.index0 % 2 == 0 -%}{{- '[U]' ~ m.content.strip() -}}"
        "{%- else -%}{{- '[A]' ~ m.content|trim -}}{%- endif -%}"
        "{%- if loop.last -%}{{- '[A]' -}}{%- endif -%}{%- endfor -%}"
    )
    messages = [
        {"role": "system", "content": " be kind "},
        {"role": "user", "content": " hi "},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "bye"},
    ]
    assert template.variables == {"messages"}
    assert template.render({"messages": messages}) == "<s>be kind\n[U]hi[A]yes[U]bye[A]"


def test_renderings_do_not_share_their_budget() -> None:
    template = PromptTemplate("{% for a in input %}{{ a }}{% endfor %}")
    for _ in range(3):
        assert template.render({"input": "a" * 40_000}) == "a" * 40_000


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Note: {{ input }}\nAnswer:", False),
        ("{% if input %}{{ input | trim }}{% endif %}", False),
        ("{% for a in input %}{{ a }}{% endfor %}", True),
        ("{% set a = input ~ input %}{{ a }}", True),
        ("{{ input ~ input }}", True),
        ("{{ input | join(input) }}", True),
        ("{{ input }}" * 100, True),
    ],
)
def test_what_may_take_long(template: str, expected: bool) -> None:
    assert PromptTemplate(template).may_take_long == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for x in input %}" * 25 + "{% endfor %}" * 25, "too many statically nested blocks"),
        ("{{ input(b=1, b=2) }}", "keyword argument repeated"),
        ("{{ input }}{{ " + "9" * 5000 + " }}", "5000 digits"),
        ("{{ input }}" * 3000, "15000 tokens, at most 8192"),
    ],
)
def test_templates_that_python_or_time_forbid(template: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        PromptTemplate(template)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for a in input recursive %}{{ loop(input) }}{% endfor %}", "cannot be rendered"),
        ("{{ input }}{{ '\\ud800' }}", "half a surrogate pair"),
    ],
)
def test_renderings_that_python_ends(template: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        PromptTemplate(template).render({"input": "noon"})
