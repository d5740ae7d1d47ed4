"""The generated parts of a page, between markers: the prose around them is written by hand."""

import re

from demo.card.held import CardError


def names(page: str) -> list[str]:
    """The names of a page's blocks, in their order."""
    return re.findall(r"^<!-- begin: ([\w-]+) -->$", page, re.MULTILINE)


def replaced(page: str, name: str, body: str) -> str:
    """The page with `body` as the block's text. Raises CardError without exactly one such block.

    A block is what stands between the lines `<!-- begin: NAME -->` and `<!-- end: NAME -->`.
    """
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise CardError(f"the page needs the two lines {begin.strip()!r} and {end.strip()!r} once")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{body.strip()}\n\n{end}{rest.partition(end)[2]}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: the first column to the left, those that hold numbers to the right."""
    columns = list(zip(*rows, strict=True)) or [() for _ in header]
    rule = [
        "---:" if column and all(_is_number(cell) for cell in column) else "---"
        for column in columns
    ]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _is_number(cell: str) -> bool:
    return not cell or cell == "-" or bool(re.match(r"-?[\d.,]+%?( |$)", cell))


def inline(text: str) -> str:
    """A model's text on one line of Markdown: line breaks shown, marks and tags made harmless."""
    shown = " / ".join(text.strip().splitlines())
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", shown)
