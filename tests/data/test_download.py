"""Downloads from a server on this machine that supports ranges, and misbehaves where its paths say so."""

import hashlib
import http.server
import io
import re
import threading
import time
from email.utils import formatdate

import numpy as np
import pytest

from needle.data import MNISTDataset, default_data_folder, download, write_idx
from needle.errors import DataError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with CONTENT. The path's first part says how:

    whole: without ranges; part: with them; cut: with them, and ends each answer after 100,000 bytes; nolength: says not
    how long it is; liar: answers a range with other bytes; ignored: claims the file is younger; 404; slow; and three
    redirections.
    """

    def do_GET(self):
        manner, _, rest = self.path[1:].partition("/")
        self.server.requests.append((manner, self.headers["Range"]))
        getattr(self, f"answer_{manner}")(rest)

    def send(self, status, body, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length != 0:
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def start(self):
        asked = self.headers["Range"]
        return int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0

    def send_from(self, start, stop=None, **headers):
        if start >= len(CONTENT):
            return self.send_error(416)
        ranged = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
        body = CONTENT[start:stop]
        return self.send(206 if start else 200, body, len(CONTENT) - start, **ranged, **headers)

    def answer_whole(self, _):
        self.send(200, CONTENT)

    def answer_part(self, _):
        self.send_from(self.start())

    def answer_cut(self, _):
        self.send_from(self.start(), self.start() + 100_000)

    def answer_nolength(self, _):
        self.send(200, CONTENT, length=0)

    def answer_liar(self, _):
        self.send(206, CONTENT[5:], Content_Range="bytes 5-9/10") if self.start() else self.send(200, CONTENT)

    def answer_changed(self, _):
        self.send_from(self.start(), Last_Modified=formatdate(time.time() + 3600, usegmt=True))

    def answer_404(self, _):
        self.send_error(404)

    def answer_slow(self, _):
        self.server.released.wait(10)

    def answer_redirect(self, rest):
        self.send(302, b"", Location=f"/{rest}")

    def answer_tofile(self, _):
        self.send(302, b"", Location="file:///etc/hostname")

    def answer_loop(self, _):
        self.send(302, b"", Location="/loop/x")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.released = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def requests(server):
    server.requests.clear()
    return server.requests


@pytest.mark.parametrize("manner", ["whole", "part", "nolength", "liar", "redirect/redirect/part"])
def test_download_writes_the_file_and_nothing_else(server, tmp_path, manner):
    path = download(f"{server.url}/{manner}/a", tmp_path / "new" / "b", sha256=SHA256.upper(), progress=False)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["b"]


def test_download_leaves_a_right_file_alone(server, tmp_path, requests):
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    for checksum in ({"sha256": SHA256}, {"md5": MD5}, {}):
        assert download(f"{server.url}/whole/a", path, progress=False, **checksum) == path
    assert requests == []


def test_download_replaces_a_wrong_file(server, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    download(f"{server.url}/whole/a", path, md5=MD5, progress=False)
    assert path.read_bytes() == CONTENT


def test_download_goes_on_after_an_interruption(server, tmp_path, requests):
    download(f"{server.url}/cut/a", tmp_path / "a", md5=MD5, progress=False)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert requests == [("cut", None), ("cut", "bytes=100000-"), ("cut", "bytes=200000-")]


def test_download_keeps_what_came_and_goes_on_next_time(server, tmp_path, requests):
    path, part = tmp_path / "a", tmp_path / "a.part"
    with pytest.raises(DataError) as caught:
        download(f"{server.url}/cut/a", path, md5=MD5, progress=False, retries=0)
    assert str(caught.value) == (
        f"{server.url}/cut/a cannot be fetched: the connection ended after 100,000 of 300,000 bytes; the 100,000 bytes "
        f"that came are kept in {part}, and gone on with next time. Where there is no network: fetch the file on "
        f"another machine and put it at {path}"
    )
    assert not path.exists() and part.read_bytes() == CONTENT[:100_000]
    download(f"{server.url}/part/a", path, md5=MD5, progress=False)
    assert requests[-1] == ("part", "bytes=100000-") and path.read_bytes() == CONTENT and not part.exists()


@pytest.mark.parametrize("manner", ["whole", "liar", "changed"])
def test_download_begins_anew_where_it_cannot_go_on(server, tmp_path, manner):
    (tmp_path / "a.part").write_bytes(b"something else" * 10)
    download(f"{server.url}/{manner}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [100, 300_000, 400_000])
def test_download_begins_anew_where_the_part_is_of_another_file(server, tmp_path, length):
    (tmp_path / "a.part").write_bytes(b"x" * length)
    download(f"{server.url}/part/a", tmp_path / "a", sha256=SHA256, progress=False)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_download_wrong_checksum_keeps_nothing(server, tmp_path):
    wrong = "0" * 64
    with pytest.raises(DataError) as caught:
        download(f"{server.url}/whole/a", tmp_path / "a", sha256=wrong, progress=False)
    message = f"is not the file expected: its sha256 is {SHA256} (300,000 bytes), expected {wrong}; nothing was kept"
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_download_tries_other_addresses(server, tmp_path, requests):
    urls = [f"{server.url}/404/a", f"{server.url}/whole/a"]
    download(urls, tmp_path / "a", md5=MD5, progress=False)
    assert [manner for manner, _ in requests] == ["404", "whole"]
    with pytest.raises(DataError, match=r"404 Not Found\. http.*404 Not Found\. Where there is no network: fetch"):
        download(urls[:1] * 2, tmp_path / "b", progress=False)


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        ("404", "the server answers 404 Not Found"),
        ("tofile", "302 .*file:///etc/hostname|unknown url type|redirect"),
        ("loop", "redirect"),
    ],
)
def test_download_refusals(server, tmp_path, manner, message):
    with pytest.raises(DataError, match=f"{server.url}/{manner}/a cannot be fetched: .*({message}).*put it at "):
        download(f"{server.url}/{manner}/a", tmp_path / "a", progress=False, retries=0)
    assert list(tmp_path.iterdir()) == []


def test_download_without_a_server(tmp_path):
    url = "http://127.0.0.1:9/mnist.gz"  # the discard port: nobody listens
    with pytest.raises(
        DataError, match=rf"{url} cannot be fetched: there is no connection .*refused.*put it at {tmp_path}"
    ):
        download(url, tmp_path / "a", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_download_server_that_does_not_answer(server, tmp_path):
    with pytest.raises(DataError, match="timed out"):
        download(f"{server.url}/slow/a", tmp_path / "a", progress=False, timeout=0.1, retries=1)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/a", "a/b", "http://", ""])
def test_download_only_over_http(tmp_path, url):
    with pytest.raises(DataError, match="only addresses that begin with http:// or https:// can be fetched"):
        download(url, tmp_path / "a")


def test_download_to_a_place_that_cannot_be_written(server, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path} is a folder: name the file in it"):
        download(f"{server.url}/whole/a", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a cannot be written: Not a directory|File exists"):
        download(f"{server.url}/whole/a", tmp_path / "file" / "a", progress=False)


def test_download_progress_in_lines(server, tmp_path, capsys):
    download(f"{server.url}/whole/a", tmp_path / "a")
    assert capsys.readouterr().err.splitlines() == [
        f"fetching {server.url}/whole/a (300,000 bytes)",
        "fetched a: 300,000 bytes",
    ]


def test_download_progress_as_a_bar(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    download(f"{server.url}/whole/a", tmp_path / "picture.gz")
    assert "picture.gz" in screen.getvalue() and "300" in screen.getvalue()


def test_data_folder_follows_the_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_folder() == tmp_path / "needle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_folder() == tmp_path / ".cache" / "needle"


def test_data_sets_fetch_their_files_once(server, tmp_path, monkeypatch, requests):
    source = tmp_path / "source"
    source.mkdir()
    sums = {}
    for name, array in (("images-idx3", np.ones((2, 28, 28), np.uint8)), ("labels-idx1", np.array([3, 4], np.uint8))):
        file = f"t10k-{name}-ubyte.gz"
        write_idx(source / file, array)
        sums[file] = hashlib.md5((source / file).read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(
        Handler, "answer_mnist", lambda self, rest: self.send(200, (source / rest).read_bytes()), raising=False
    )
    monkeypatch.setattr(MNISTDataset, "mirrors", (f"{server.url}/mnist/",))
    monkeypatch.setattr(MNISTDataset, "checksums", sums)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        assert MNISTDataset.download(train=False, progress=False).labels.tolist() == [3, 4]
    assert len(requests) == 2
    assert {file.name for file in (tmp_path / "needle" / "mnist").iterdir()} == sums.keys()
