"""Compares methods: trains each on the same data and budget, scores all, and writes one table."""

from collections.abc import Callable

from trainer import folder
from trainer.compare.page import write_page
from trainer.compare.plot import plot
from trainer.compare.scoring import check_tasks, score
from trainer.compare.settings import Comparison, load_comparison
from trainer.compare.table import Result, build_result, columns, lines, to_markdown
from trainer.compare.training import train_methods
from trainer.writing import write_json

__all__ = ["Comparison", "Result", "columns", "compare", "lines", "load_comparison"]

JSON, MARKDOWN, PNG, SVG, HTML = (f"compare.{end}" for end in ("json", "md", "png", "svg", "html"))


def compare(comparison: Comparison, say: Callable[[str], None], *, quiet: bool) -> Result:
    """Does all of it, and writes `compare.json`, `.md`, `.png`, `.svg` and `.html`.

    What an earlier, interrupted comparison has trained and asked is taken from it. `say` gets a
    line as each part begins. What cannot be
    scored is refused before anything trains. Raises TrainerError.
    """
    task = check_tasks(comparison)
    directory = comparison.directory
    folder.make(directory)
    with folder.alone_in(directory):
        trained = train_methods(comparison, say, quiet=quiet)
        say("scoring the base and what was trained, through a server")
        result = build_result(comparison, trained, score(comparison, trained, task))
    write_json(directory / JSON, result.to_dict())
    (directory / MARKDOWN).write_text(to_markdown(result), encoding="utf-8")
    plot(result, directory / PNG, directory / SVG)
    write_page(result, directory / SVG, directory / HTML)
    return result
