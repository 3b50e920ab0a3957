"""What all tests share: the Python blocks of the documentation are tests too."""

from __future__ import annotations

import doctest
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import needle

pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS),
        SkipParser(),
    ],
    patterns=["*.md"],
    fixtures=["folder_of_its_own"],
).pytest()

# The blocks of a page before a block, and those that this process has run.
_EARLIER = pytest.StashKey[list[SybilItem]]()
_RUN: set[SybilItem] = set()


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs of the tests apart from the user's, all processes of a run in one folder."""
    if "NEEDLE_CACHE_DIR" not in os.environ and not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="needle-cache-")
        os.environ["NEEDLE_CACHE_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="module")
def folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run the blocks of a page in an empty folder, so that they leave nothing behind: no file, no seeded generator."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("docs")
    os.chdir(folder)
    yield folder
    os.chdir(before)
    needle.seed(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each block of a page know those before it."""
    pages: dict[Path, list[SybilItem]] = {}
    for item in items:
        if isinstance(item, SybilItem):
            page = pages.setdefault(item.path, [])
            item.stash[_EARLIER] = list(page)
            page.append(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Run first those blocks of the page that another process of the run was given: a block needs those before it."""
    for block in item.stash.get(_EARLIER, []):
        if block not in _RUN:
            _RUN.add(block)
            block.example.evaluate()
    if isinstance(item, SybilItem):
        _RUN.add(item)
