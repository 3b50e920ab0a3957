"""Which code counts as the user's: by the folder that it lies in, as Python has found it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from needle.compiler.user_code import PACKAGE, is_users_code, library_folders

SOURCE = Path(PACKAGE).parent


@pytest.mark.parametrize("folder", [PACKAGE, *library_folders()])
def test_code_in_a_folder_beside_one_of_a_library_is_the_users(folder: str) -> None:
    inside, beside = f"{folder}mine.py", f"{folder.rstrip(os.sep)}_of_mine{os.sep}mine.py"
    assert not is_users_code(compile("0", inside, "exec"))
    assert is_users_code(compile("0", beside, "exec"))


def test_a_line_is_the_users_where_needle_is_found_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "needle").symlink_to(SOURCE / "needle")
    program = tmp_path / "program.py"
    program.write_text(
        "import needle as ndl\nfrom needle.errors import TraceError\n"
        "try:\n"
        "    ndl.jit(lambda x: float(x))(ndl.Tensor(1.0))\n"
        "except TraceError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert f"{program}:4" in run.stdout
