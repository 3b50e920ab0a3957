"""Worker threads and processes: the same data for any number of them, and what happens when they fail."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from reading import FarAway, Images, Noise, Troubled, Unbuildable, Unsendable, Words

from needle.data import Apply, DataLoader, NDArrayDataset, RandomCrop, RandomFlipHorizontal, Subset
from needle.errors import DataError

AUGMENTATION = [RandomCrop(1), Noise(), RandomFlipHorizontal()]
KINDS = ["thread", "process"]


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where Linux keeps its segments


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = _segments()
    yield
    deadline = time.monotonic() + 1
    while _left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _left()
    assert {name for name in _segments() - before if name.startswith("psm_")} == set()


def _segments():
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def _left():
    threads = [t for t in threading.enumerate() if t.name.startswith("needle-data")]
    return [*threads, *multiprocessing.active_children()]


def run(dataset, num_workers, kind="thread", *, other_draws=False, stop_after=None, **options):
    """An epoch's batches, and where the generator then stands."""
    np.random.seed(7)
    batches = []
    loader = DataLoader(dataset, 4, shuffle=True, num_workers=num_workers, workers=kind, **options)
    for count, batch in enumerate(loader, start=1):
        batches.append([t.numpy().tolist() for t in batch])
        if other_draws:
            np.random.rand(3)
        if count == stop_after:
            break
    return batches, np.random.rand()


ARRAYS = np.random.default_rng(0).random((23, 4, 4, 1))
DATASETS = {
    "items": Images(AUGMENTATION),
    "items without transforms": Images(),
    "whole batches": NDArrayDataset(ARRAYS, np.arange(23), transforms=AUGMENTATION),
    "subset": Subset(Images(AUGMENTATION), np.arange(20, 3, -1)),
}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("other_draws", [False, True])
@pytest.mark.parametrize("stop_after", [None, 3])
def test_threads_change_nothing(name, prefetch, other_draws, stop_after):
    options = {"other_draws": other_draws, "stop_after": stop_after}
    expected = run(DATASETS[name], 0, **options)
    for num_workers in (1, 3):
        assert run(DATASETS[name], num_workers, prefetch=prefetch, **options) == expected


@pytest.mark.parametrize("num_workers", [1, 3])
def test_processes_change_nothing(num_workers):
    for name, options in (
        ("items", {}),
        ("items", {"other_draws": True}),
        ("whole batches", {"stop_after": 3}),
    ):
        assert run(DATASETS[name], num_workers, "process", **options) == run(DATASETS[name], 0, **options)


def test_other_loaders_that_draw_between_change_nothing():
    def interleaved(num_workers):
        np.random.seed(1)
        loaders = [DataLoader(Images(AUGMENTATION), 5, shuffle=True, num_workers=num_workers) for _ in range(2)]
        return [[t.numpy().tolist() for t in (*a, *b)] for a, b in zip(*loaders, strict=True)], np.random.rand()

    assert interleaved(2) == interleaved(0)


def test_processes_do_the_reading_and_batches_can_be_written_to():
    loader = DataLoader(FarAway(), 4, num_workers=2, workers="process")
    batches = list(loader)
    assert os.getpid() not in {int(pid) for who, _ in batches for pid in who.numpy()[:, 0]}
    for indices, (who, pixels) in zip(loader.ordering, batches, strict=True):
        assert who.numpy()[:, 1].tolist() == indices.tolist()
        np.testing.assert_array_equal(pixels.numpy()[:, 0, 0], indices)
        pixels.cached_data[:] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_collate_runs_here_on_items_read_by_workers(kind):
    here = threading.get_ident()

    def collate(items):
        assert threading.get_ident() == here
        return [word for word, _ in items]

    words = [w for batch in DataLoader(Words(length=5), 2, num_workers=2, workers=kind, collate=collate) for w in batch]
    assert words == ["word" * i for i in range(5)]


def test_a_resumed_epoch_reads_on_with_workers():
    loader = DataLoader(Images(), 4, num_workers=2)
    iter(loader)  # nobody holds the iterator, so its workers go after each batch
    first = next(loader)[1].numpy().tolist()
    other = DataLoader(Images(), 4, num_workers=2)
    other.load_state_dict(loader.state_dict())
    assert first + [y for _, batch in other for y in batch.numpy().tolist()] == list(range(23))
    del loader


@pytest.mark.parametrize("kind", KINDS)
def test_failure_is_reported_with_the_workers_traceback(kind):
    start = time.monotonic()
    with pytest.raises(DataError, match=r"failed while reading items 8, 9, 10, 11: KeyError: 'no such pict") as caught:
        list(DataLoader(Troubled("fail"), 4, num_workers=2, workers=kind))
    assert 'raise KeyError("no such picture")' in str(caught.value)
    assert "while reading item 9 of Troubled" in str(caught.value)
    assert time.monotonic() - start < 20
    assert not _left()  # at once, with the exception still in hand


@pytest.mark.parametrize(
    ("trouble", "how"),
    [("exit", "exit status 7"), ("be_killed", "killed by SIGKILL"), ("crash", "killed by SIGABRT")],
)
def test_death_is_reported_within_a_second(trouble, how):
    iterator = iter(DataLoader(Troubled(trouble), 3, num_workers=1, workers="process", prefetch=0))
    for _ in range(3):
        next(iterator)
    start = time.monotonic()
    with pytest.raises(
        DataError, match=rf"worker process 0 failed while reading items 9, .*it died \({how}\)"
    ) as caught:
        next(iterator)
    assert time.monotonic() - start < 1
    assert not _left()
    if trouble == "crash":
        assert f"in {trouble}" in str(caught.value)  # where it stood


@pytest.mark.parametrize("kind", KINDS)
def test_hang_is_reported_within_a_second_of_the_timeout(kind, monkeypatch):
    dataset = Troubled("sleep")
    release = threading.Event()
    if kind == "thread":  # a thread cannot be killed, so let it go at the end
        monkeypatch.setattr(dataset, "sleep", lambda: release.wait(30), raising=False)
    iterator = iter(DataLoader(dataset, 3, num_workers=1, workers=kind, timeout=0.4, prefetch=0))
    for _ in range(3):
        next(iterator)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"while reading items 9, 10, 11: it is not done after 0\.4 s") as caught:
        next(iterator)
    assert 0.4 <= time.monotonic() - start < 1.4
    assert "in __getitem__" in str(caught.value)
    release.set()


def test_break_ends_the_workers():
    for kind in KINDS:
        loader = DataLoader(Images(), 4, num_workers=2, workers=kind)
        for _ in loader:
            break
        assert not _left()
        assert len(list(loader)) == 6


def test_failing_collate_ends_the_workers():
    def collate(items):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        list(DataLoader(Images(), 4, num_workers=2, collate=collate))
    assert caught and not _left()


def test_dropping_the_loader_ends_workers_of_an_epoch_that_nobody_iterates():
    loader = DataLoader(Images(), 4, num_workers=1)
    iter(loader)
    next(loader)
    assert _left()
    del loader
    assert not _left()


def test_data_set_that_cannot_be_sent():
    with pytest.raises(DataError, match=r'Unsendable cannot be sent to worker processes: .*or use workers="thread"'):
        list(DataLoader(Unsendable(), 4, num_workers=1, workers="process"))
    assert len(list(DataLoader(Unsendable(), 4, num_workers=1))) == 6


def test_data_set_that_cannot_be_rebuilt():
    with pytest.raises(DataError, match="could not rebuild the data set: RuntimeError: cannot be"):
        list(DataLoader(Unbuildable(), 4, num_workers=1, workers="process"))
    assert not _left()


def test_items_that_cannot_be_sent_back():
    with pytest.raises(DataError, match="failed while reading items 4, 5: TypeError: cannot pickle"):
        list(DataLoader(Words(), 2, num_workers=1, workers="process", collate=list))


def test_drawing_in_a_worker_process_is_an_error():
    with pytest.raises(DataError, match="draws random numbers in a worker process"):
        list(DataLoader(Troubled("draw"), 4, num_workers=1, workers="process"))


def test_transforms_that_the_loader_does_not_know_of_are_an_error():
    class Wrapper(Images):
        def __getitem__(self, index):
            return inner[index]

    inner = Images(AUGMENTATION)
    with pytest.raises(DataError, match="applied more transforms to an item than its all_transforms"):
        list(DataLoader(Wrapper(), 4, num_workers=1))


def test_apply_lets_workers_run_a_function():
    threads = set()

    def note(image):
        threads.add(threading.get_ident())
        return image

    list(DataLoader(Images([Apply(note)]), 4, num_workers=2))
    assert threads and threading.get_ident() not in threads


def run_script(tmp_path, text):
    script = tmp_path / "script.py"
    script.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


UNGUARDED = """
from needle.data import DataLoader
from reading import Images
for batch in DataLoader(Images(), 4, num_workers=1, workers="process"):
    pass
"""


def test_missing_main_guard_is_one_clear_error(tmp_path):
    process = run_script(tmp_path, UNGUARDED)
    assert process.returncode == 1
    assert process.stderr.count("Traceback") == 1
    assert 'put what the program does under `if __name__ == "__main__":`' in process.stderr.splitlines()[-1]


ENDING = """
import sys
from needle.data import DataLoader
from reading import Images
if __name__ == "__main__":
    iterator = iter(DataLoader(Images(), 4, num_workers=2, workers=sys.argv[1] if sys.argv[1:] else "process"))
    next(iterator)
    print("end")
"""


def test_program_that_ends_in_the_middle_of_an_epoch(tmp_path):
    start = time.monotonic()
    process = run_script(tmp_path, ENDING)
    assert (process.returncode, process.stdout, process.stderr) == (0, "end\n", "")
    assert time.monotonic() - start < 30
