"""The command line as a process, and small data files for it."""

import contextlib
import gzip
import os
import pty
import re
import struct
import subprocess
import sys

# A model that is trained in well under a second.
TINY = ["--epochs", "2", "--hidden-dim", "16", "--num-blocks", "1"]


def run_needle(*arguments, cwd, **environment):
    """Run `python -m needle` in a folder and return the finished process, its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "needle", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def idx(shape, size=None):
    count = 1
    for length in shape:
        count *= length
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(count if size is None else size)


def write_mnist(folder, **changes):
    folder.mkdir()
    for prefix, count in (("train", 30), ("t10k", 10)):
        files = {"images-idx3": idx((count, 28, 28)), "labels-idx1": idx((count,))}
        for kind, data in files.items():
            name = f"{prefix}-{kind}-ubyte.gz"
            content = changes.get(f"{prefix}_{kind[:6]}", gzip.compress(data))
            if content is not None:
                (folder / name).write_bytes(content)


def run_in_terminal(*arguments, cwd, columns=100):
    """Run `python -m needle` in a pseudo-terminal and return its status and what it wrote, without colours."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "needle", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "30"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    written = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while chunk := os.read(master, 65536):
            written += chunk
    os.close(master)
    status = process.wait(timeout=20)
    return status, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.decode()).replace("\r\n", "\n")
