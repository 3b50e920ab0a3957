"""One file over HTTP into a `.part` file: requests that go on where the last one stopped, and their progress."""

from __future__ import annotations

import http.client
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from needle.errors import DataError

__all__ = ["Transfer"]

_BLOCK = 1 << 16  # bytes
# Called with how many bytes there are, of how many (None: not known).
Report = Callable[[int, int | None], None]


class _InterruptedError(Exception):
    """The connection ended before the file did."""


@dataclass(frozen=True)
class Transfer:
    """The fetching of one file.

    Args:
        url: where it is.
        part: where to write what comes. What is there already is gone on with.
        timeout: seconds to wait for the server at any one time.
        progress: whether to show how far it is.
    """

    url: str
    part: Path
    timeout: float
    progress: bool

    def run(self, retries: int) -> None:
        """Fetch the file, going on up to `retries` times where the connection breaks.

        Raises:
            DataError: the server refuses, or cannot be reached, or the connection breaks too often.
        """
        with _shown(self.part.with_suffix("").name, self.url, self.progress) as report:
            for attempt in range(retries + 1):
                try:
                    self._request_once(report)
                    return
                except _InterruptedError as interruption:
                    if attempt == retries:
                        raise DataError(f"{self.url} cannot be fetched: {interruption}{self._kept()}") from None

    def _kept(self) -> str:
        size = self._size()
        return f"; the {size:,} bytes that came are kept in {self.part}, and gone on with next time" if size else ""

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _request_once(self, report: Report) -> None:
        with _network_errors(self.url), self._respond(self._size()) as response:
            start = self._size() if response.status == HTTPStatus.PARTIAL_CONTENT else 0
            self._save(response, start, report)

    def _respond(self, start: int) -> Any:
        """Ask for what comes after the first `start` bytes; for all where that is refused or would not fit."""
        if start:
            try:
                response = self._open({"Range": f"bytes={start}-"})
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise
            else:
                if response.status != HTTPStatus.PARTIAL_CONTENT or self._continues(response, start):
                    return response
                response.close()
        return self._open({})

    def _open(self, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(self.url, headers={"User-Agent": "needle", **headers})  # noqa: S310  checked
        return _http_only().open(request, timeout=self.timeout)

    def _continues(self, response: Any, start: int) -> bool:
        """Tell whether a partial answer begins where the `.part` file ends, and is of no younger file."""
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return False
        modified = response.headers.get("Last-Modified")
        return modified is None or parsedate_to_datetime(modified).timestamp() <= self.part.stat().st_mtime

    def _save(self, response: Any, start: int, report: Report) -> None:
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        written = start
        with self.part.open("ab" if start else "wb") as file:
            report(written, total)
            while block := response.read(_BLOCK):
                file.write(block)
                written += len(block)
                report(written, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and written < total:
            raise _InterruptedError(f"the connection ended after {written:,} of {total:,} bytes")


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Sort what a connection raises into refusals, which are final, and interruptions, which are not."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        reason = " ".join(str(error.reason).split())
        raise DataError(f"{url} cannot be fetched: the server answers {error.code} {reason}") from None
    except urllib.error.URLError as error:
        raise _InterruptedError(f"there is no connection to the server ({error.reason})") from None
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _InterruptedError(f"the connection broke ({str(error) or type(error).__name__})") from None


def _http_only() -> urllib.request.OpenerDirector:
    """Make an opener that knows HTTP alone: a redirection to a file or to FTP leads nowhere."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler, urllib.request.UnknownHandler),
        *(urllib.request.HTTPHandler, urllib.request.HTTPSHandler),
        *(_Redirection, urllib.request.HTTPErrorProcessor, urllib.request.HTTPDefaultErrorHandler),
    ):
        opener.add_handler(handler())
    return opener


class _Redirection(urllib.request.HTTPRedirectHandler):
    """Follow redirections, but never from an encrypted connection to an open one."""

    def redirect_request(  # noqa: PLR0917  as the standard library has it
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# --------------------------------------------------------------------------------------------------- progress


@contextmanager
def _shown(name: str, url: str, progress: bool) -> Iterator[Report]:
    """Show a bar on a terminal, lines elsewhere, or nothing."""
    if not progress:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(name) as report:
            yield report
    else:
        with _lines(name, url) as report:
            yield report


@contextmanager
def _lines(name: str, url: str) -> Iterator[Report]:
    last: list[int] = []

    def report(done: int, total: int | None) -> None:
        if not last:
            size = f" ({total:,} bytes)" if total is not None else ""
            print(f"fetching {url}{size}", file=sys.stderr)
        last[:] = [done]

    yield report
    print(f"fetched {name}: {last[0]:,} bytes", file=sys.stderr)


@contextmanager
def _bar(name: str) -> Iterator[Report]:
    from rich.console import Console  # noqa: PLC0415  only what shows something imports rich
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
