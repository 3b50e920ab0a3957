"""One small trained run that many tests look at."""

import pytest

from .needle_process import TINY, run_needle


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which `needle train` was run once, and that process."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run_needle("train", *TINY, cwd=folder)
