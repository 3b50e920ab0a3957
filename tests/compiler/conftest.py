"""Tests of the compiler run its stages: some with parts of it replaced, of which nothing may be left on disk."""

import pytest

from needle.compiler import executable


@pytest.fixture(autouse=True)
def without_plans(request, monkeypatch):
    if request.module.__name__.rpartition(".")[2] not in ("test_plan", "test_cache"):
        monkeypatch.setattr(executable, "plan_name", lambda *_: None)
