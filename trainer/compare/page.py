"""The comparison as one HTML file that loads nothing."""

import html
from pathlib import Path

from trainer.compare.table import Result, caption, columns, lines

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
div {{ overflow-x: auto; }}
svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
<div><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<p>{caption}</p>
{picture}
</html>
"""


def write_page(result: Result, svg: Path, path: Path) -> None:
    """Writes the page, with the picture at `svg` in it."""
    picture = svg.read_text(encoding="utf-8")
    body = "\n".join(f"<tr>{_cells('td', line)}</tr>" for line in lines(result))
    text = _PAGE.format(
        title=html.escape(result.name),
        head=_cells("th", columns(result)),
        body=body,
        caption=html.escape(caption(result)),
        picture=picture[picture.index("<svg") :],
    )
    path.write_text(text, encoding="utf-8")


def _cells(tag: str, texts: list[str]) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
