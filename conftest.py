"""What all tests share: the Python blocks of the documentation are tests too."""

from __future__ import annotations

import doctest
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS),
        SkipParser(),
    ],
    patterns=["*.md"],
    fixtures=["folder_of_its_own"],
).pytest()


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs of the tests apart from the user's, all processes of a run in one folder."""
    if "NEEDLE_CACHE_DIR" not in os.environ and not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="needle-cache-")
        os.environ["NEEDLE_CACHE_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="module")
def folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run the blocks of a page in an empty folder, so that they leave nothing behind."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("docs")
    os.chdir(folder)
    yield folder
    os.chdir(before)
