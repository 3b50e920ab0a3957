"""Checkpoints: going on bit for bit, damage that is noticed, and saves that are killed."""

import json
import os
import random as python_random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.data import DataLoader, NDArrayDataset
from needle.errors import CheckpointError
from needle.train import list_checkpoints, load_checkpoint, save_checkpoint

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((22, 6)).astype("float32"), RNG.integers(0, 3, 22)


class Run:
    """A small training run with all that has a state: dropout, running statistics, a schedule, shuffling."""

    def __init__(self, make_optimizer=optim.Adam, compiled=False, workers=0):
        self.model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        self.optimizer = make_optimizer(self.model.parameters(), lr=optim.CosineDecay(0.05, 40, 4))
        self.loader = DataLoader(NDArrayDataset(X, Y), 5, shuffle=True, num_workers=workers)
        self.batches = iter(())
        loss_fn = nn.SoftmaxLoss()

        def step(x, y):
            self.optimizer.reset_grad()
            loss = loss_fn(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            return loss

        self.step = ndl.jit(step) if compiled else step

    def go(self, steps):
        losses = []
        while len(losses) < steps:
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                continue
            losses.append(self.step(*batch).item())
        return losses

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "loader": self.loader}


def seeded(kind, seed):
    ndl.seed(seed if kind == "philox" else None)
    np.random.seed(seed)


@pytest.fixture(autouse=True)
def numpy_generator():
    yield
    ndl.seed(None)


OPTIMIZERS = [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad]


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
@pytest.mark.parametrize("generator", ["numpy", "philox"])
@pytest.mark.parametrize("steps", [5, 7])  # at the end of an epoch, and within one
def test_a_run_goes_on_bit_for_bit(tmp_path, make_optimizer, generator, steps):
    seeded(generator, 3)
    whole = Run(make_optimizer)
    first = whole.go(steps)
    save_checkpoint(tmp_path, step=steps, **whole.parts())
    expected = whole.go(9)

    seeded(generator, 99)
    again = Run(make_optimizer)
    found = load_checkpoint(tmp_path, **again.parts())
    again.batches = iter(again.loader)
    assert again.go(9) == expected
    assert (found.step, len(first)) == (steps, steps)
    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(again.model.state_dict()[name], array)


@pytest.mark.parametrize(("compiled", "workers"), [(True, 0), (False, 2)])
def test_it_does_so_compiled_and_with_workers(tmp_path, compiled, workers):
    np.random.seed(3)
    whole = Run(compiled=compiled, workers=workers)
    whole.go(7)
    save_checkpoint(tmp_path, step=7, **whole.parts())
    expected = whole.go(9)
    again = Run(compiled=compiled, workers=workers)
    load_checkpoint(tmp_path, **again.parts())
    again.batches = iter(again.loader)
    assert again.go(9) == expected


def test_the_last_ones_are_kept(tmp_path):
    run = Run()
    for step in (1, 2, 30, 4):
        save_checkpoint(tmp_path, step=step, **run.parts())
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000030"]
    save_checkpoint(tmp_path, step=30, model=run.model, extra={"again": True}, keep=5)
    assert load_checkpoint(tmp_path, model=run.model).extra == {"again": True}
    assert {path.name[:5] for path in tmp_path.iterdir()} == {"step-"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "shorten", "empty", "remove"])
def test_what_is_damaged_is_noticed_and_the_one_before_taken(tmp_path, name, damage):
    run = Run()
    save_checkpoint(tmp_path, step=1, **run.parts())
    newest = save_checkpoint(tmp_path, step=2, **run.parts()) / name
    data = newest.read_bytes()
    middle = len(data) // 2
    if damage == "remove":
        newest.unlink()
    else:
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        newest.write_bytes({"flip": flipped, "shorten": data[:-1], "empty": b""}[damage])
    if name == "manifest.json" and damage == "flip":
        pytest.skip("a flipped bit of a sum is found as a sum that differs, of a space not at all")
    with pytest.warns(UserWarning, match="step-00000001 is taken instead"):
        assert load_checkpoint(tmp_path, **run.parts()).step == 1


def test_nothing_whole_is_an_error_that_lists_all(tmp_path):
    run = Run()
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        load_checkpoint(tmp_path, **run.parts())
    for step in (1, 2):
        (save_checkpoint(tmp_path, step=step, **run.parts()) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)is whole:.*step-00000002.*step-00000001"):
        load_checkpoint(tmp_path, **run.parts())


def test_what_does_not_fit_changes_nothing(tmp_path):
    run = Run()
    run.go(3)
    save_checkpoint(tmp_path, step=3, **run.parts())
    other = Run(optim.SGD)
    before = other.model.state_dict()
    state = np.random.get_state()[1].copy()
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(tmp_path, **other.parts())
    for name, array in before.items():
        np.testing.assert_array_equal(other.model.state_dict()[name], array)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    save_checkpoint(tmp_path, step=4, model=run.model)
    with pytest.raises(CheckpointError, match="without the state of its optimizer"):
        load_checkpoint(tmp_path, model=run.model, optimizer=run.optimizer)


def test_bad_settings_write_nothing(tmp_path):
    run = Run()
    with pytest.raises(CheckpointError, match="JSON cannot hold"):
        save_checkpoint(tmp_path, step=1, model=run.model, extra={"rows": np.zeros(3)})
    with pytest.raises(CheckpointError, match="keep is 1 or more"):
        save_checkpoint(tmp_path, step=1, model=run.model, keep=0)
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    run = Run()
    save_checkpoint(tmp_path, step=1, model=run.model, extra={"old": True})

    def refuse(*_):
        raise OSError("no")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no"):
        patched.setattr(os, "rename", refuse)
        save_checkpoint(tmp_path, step=1, model=run.model)
    assert load_checkpoint(tmp_path, model=run.model).extra == {"old": True}
    assert len(list(tmp_path.iterdir())) == 1


SAVER = """
import sys, numpy as np
from needle import nn
from needle.train import save_checkpoint
model = nn.Linear(300, 300)
print("ready", flush=True)
for step in range(10**6):
    model.weight.cached_data[...] = step
    save_checkpoint(sys.argv[1], step=step, model=model)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process with a signal")
def test_saves_that_are_killed_lose_nothing(tmp_path):
    kills = int(os.environ.get("NEEDLE_TEST_KILLS", "6"))
    chance = python_random.Random(0)
    model = nn.Linear(300, 300)
    for number in range(kills):
        folder = tmp_path / str(number)
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(folder)], stdout=subprocess.PIPE)
        process.stdout.readline()
        while not list_checkpoints(folder):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = load_checkpoint(folder, model=model)
        assert (model.weight.numpy() == found.step).all()
        newest = list_checkpoints(folder)[-1]
        assert json.loads((newest / "manifest.json").read_bytes())["format"]["version"] == 1
