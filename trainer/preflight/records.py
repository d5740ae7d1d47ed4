"""What pre-flight leaves in the output folder: the leakage report, and the test part."""

from typing import Any

import yaml

from trainer import files
from trainer.config import TrainConfig
from trainer.preflight.prepared import Prepared
from trainer.tasks import tasks_of
from trainer.writing import json_line, write_json


def write_records(config: TrainConfig, prepared: Prepared) -> None:
    """Writes `leakage.json`, and `test.jsonl` where a share was held out for the eval suite.

    Where the template reads one column alone, and all rows have the text to learn in one column,
    `test.yaml` beside it is the task of these rows for `python -m evalsuite`.
    """
    folder = config.output.dir
    for name in files.PREFLIGHT:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / files.LEAKAGE, prepared.leakage.to_json())
    if not prepared.test_rows:
        return
    with (folder / files.TEST).open("w", encoding="utf-8") as file:
        for row in prepared.test_rows:
            file.write(json_line(dict(row.fields), ensure_ascii=False, default=str) + "\n")
    columns = {prepared.objective.target_columns(t.config.data)[0] for t in tasks_of(config)}
    # A conversation, or a prompt made of several columns, is no text in one of them; and a
    # classifier writes none.
    read = prepared.template.text_variable
    writes = prepared.objective.task != "SEQ_CLS"
    if (
        read
        and writes
        and len(columns) == 1
        and all(read in row.fields for row in prepared.test_rows)
    ):
        task = _task(config, prepared, read, columns.pop())
        text = yaml.safe_dump(task, sort_keys=False, allow_unicode=True)
        (folder / files.TEST_TASK).write_text(text, encoding="utf-8")


def _task(config: TrainConfig, prepared: Prepared, name: str, column: str) -> dict[str, Any]:
    return {
        "name": "test",
        "source": f"held out from the training data of {config.name}",
        "data": files.TEST,
        "columns": {"input": name, "completion": column},
        "template": prepared.template.template,
        "metrics": ["rougeL", "exact_match"],
    }
