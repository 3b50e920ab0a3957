"""What a run was started with: `run.json` in its folder, written before the first step.

A model says at the end how it was made. The record is there from the beginning, so that a run that fails, is killed or
is still going on can be told from others, compared with them and repeated.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import needle
from needle.compiler.thread_count import available_processors
from needle.errors import CheckpointError, SettingError
from needle.train.files import write_file
from needle.train.json_objects import Check, check_entries, is_list_of, is_object, is_text, read_object
from needle.train.machine import memory_bytes, package_version, processor_name, system_name

__all__ = ["RUN_FILE", "RunRecord", "begin_run", "describe_run", "read_run_record", "write_run_record"]

RUN_FILE = "run.json"
FORMAT = {"name": "needle run", "version": 1}
# What a command line parser adds to the options.
_NO_OPTIONS = {"run", "parser", "debug", "resume"}
_GIT_SECONDS = 2.0


@dataclass(frozen=True)
class RunRecord:
    """How a run was started, and on what.

    Args:
        command: what was run, such as `train`.
        options: every option, with its value, also where that is a default.
        seed: the seed of the run.
        versions: of needle, numpy, llvmlite and python.
        system: the operating system, its release and the kind of machine.
        processor: the processor's name.
        cores: how many processors the run may use.
        memory_bytes: the machine's memory; None where the system does not tell.
        commit: the git commit of the current folder; None where there is no git or no repository.
        dirty: whether files that git knows had changed since; None likewise.
        started: when, as ISO 8601 in UTC.
        command_line: the program and its arguments.
    """

    command: str
    options: Mapping[str, Any]
    seed: int | None
    versions: Mapping[str, str]
    system: str
    processor: str
    cores: int
    memory_bytes: int | None
    commit: str | None
    dirty: bool | None
    started: str
    command_line: tuple[str, ...]


def begin_run(folder: str | os.PathLike[str], options: Mapping[str, Any], command: str) -> None:
    """Write the record of a run that is about to make its first step; a run that is resumed keeps its first record.

    Args:
        folder: the run's folder; made where it does not exist.
        options: every option, resolved. One named `resume` that is not None tells that the run goes on.
        command: what is run, such as `train`.

    Raises:
        SettingError: an option is nothing that JSON can hold.
        OSError: the folder cannot be written.
    """
    if options.get("resume") is None:
        write_run_record(folder, describe_run(options, command))


def describe_run(options: Mapping[str, Any], command: str) -> RunRecord:
    """Return the record of a run that starts now, in this process, on this machine.

    Args:
        options: every option, resolved; paths become text.
        command: what is run, such as `train`.

    Raises:
        SettingError: an option is nothing that JSON can hold.

    Example:
        >>> from needle.train import describe_run
        >>> record = describe_run({"epochs": 3, "seed": 7}, "train")
        >>> record.options["epochs"], record.seed, sorted(record.versions)
        (3, 7, ['llvmlite', 'needle', 'numpy', 'python'])
    """
    commit, dirty = _git_state()
    return RunRecord(
        command=command,
        options={name: _plain(name, value) for name, value in options.items() if name not in _NO_OPTIONS},
        seed=options.get("seed"),
        versions=_versions(),
        system=system_name(),
        processor=processor_name(),
        cores=available_processors(),
        memory_bytes=memory_bytes(),
        commit=commit,
        dirty=dirty,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command_line=_command_line(),
    )


def _plain(name: str, value: Any) -> Any:
    """Return an option's value as it will be read back."""
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=os.fspath))
    except (TypeError, ValueError) as error:
        raise SettingError(f"the option {name} cannot be recorded: {error}") from None


def _versions() -> dict[str, str]:
    packages = {name: package_version(name) or "unknown" for name in ("numpy", "llvmlite")}
    return {"needle": needle.__version__, **packages, "python": platform.python_version()}


def _command_line() -> tuple[str, ...]:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # `python -m needle`
    return (name, *sys.argv[1:])


# -------------------------------------------------------------------------------------------------------- git


def _git_state() -> tuple[str | None, bool | None]:
    """Return the commit of the current folder, and whether files that git knows have changed since."""
    commit = _git("rev-parse", "--verify", "HEAD")
    if commit is None:
        return None, None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Return what git prints, None where it is missing, fails, or takes long: a record is not worth waiting for."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  fixed arguments, found on the user's own path
            [program, *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # a look must not keep a commit from being made
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


# -------------------------------------------------------------------------------------------- writing, reading


def write_run_record(folder: str | os.PathLike[str], record: RunRecord) -> Path:
    """Write a record into a run's folder, whole or not at all, and return the file's path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **asdict(record)}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is no text holds lone surrogates: their escape is what JSON reads them from.
    write_file(folder / RUN_FILE, text.encode(errors="backslashreplace"))
    return folder / RUN_FILE


def read_run_record(folder: str | os.PathLike[str]) -> RunRecord:
    """Read the record of a run.

    Raises:
        CheckpointError: there is none, or it is damaged or of another format.

    Example:
        >>> import tempfile
        >>> from needle.train import describe_run, read_run_record, write_run_record
        >>> record = describe_run({"lr": 0.01}, "train")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_run_record(folder, record)
        ...     read_run_record(folder) == record
        True
    """
    path = Path(folder) / RUN_FILE
    content = read_object(path)
    if content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} is not of a format that this version reads: {json.dumps(FORMAT)}")
    try:
        entries = check_entries(content, _KINDS, _KINDS.keys(), "record")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.rule}") from None
    return RunRecord(**{**entries, "command_line": tuple(entries["command_line"])})


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _or_none(*kinds: type) -> Check:
    return lambda value: value is None or type(value) in kinds


_KINDS: dict[str, Check] = {
    "command": is_text,
    "options": is_object,
    "seed": _or_none(int),
    "versions": _is_texts,
    "system": is_text,
    "processor": is_text,
    "cores": lambda value: type(value) is int and value > 0,
    "memory_bytes": _or_none(int),
    "commit": _or_none(str),
    "dirty": _or_none(bool),
    "started": _is_time,
    "command_line": is_list_of(str),
}
assert _KINDS.keys() == {one.name for one in fields(RunRecord)}
