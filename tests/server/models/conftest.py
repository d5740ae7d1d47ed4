"""The base that most of these tests load."""

from pathlib import Path

import pytest

from tests.tiny import make_base


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("llama"))
