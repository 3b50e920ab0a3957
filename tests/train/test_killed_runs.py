"""Runs that are killed at random points, again and again, end as the one that nobody killed."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

# Eager and small, so that a process is at work most of its short life. It saves after every third step.
PROGRAM = textwrap.dedent(
    """
    import sys
    import numpy as np
    from needle import nn, optim
    from needle.data import DataLoader, NDArrayDataset
    from needle.train import Callback, Checkpoints, MetricsLog, Trainer, list_checkpoints

    folder, pause = sys.argv[1], float(sys.argv[2])


    class Pause(Callback):
        def on_step(self, trainer):
            import time
            time.sleep(pause)


    np.random.seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))
    optimizer = optim.Adam(model.parameters(), lr=optim.CosineDecay(0.05, 200))
    generator = np.random.default_rng(1)
    images, labels = generator.random((70, 6)).astype(np.float32), generator.integers(0, 4, 70)
    loader = DataLoader(NDArrayDataset(images, labels), 5, shuffle=True)
    callbacks = [MetricsLog(folder + "/metrics.jsonl"), Checkpoints(folder, every_steps=3), Pause()]
    trainer = Trainer(model, optimizer, nn.SoftmaxLoss(), average_decay=0.9, compiled=False, progress=False,
                      callbacks=callbacks)
    if list_checkpoints(folder):
        trainer.load(folder, loader)
    trainer.fit(loader, epochs=6)
    print(sum(float(np.abs(value).sum()) for value in model.state_dict().values()).hex())
    """
)


def start(program, folder, pause):
    command = [sys.executable, "-W", "ignore", str(program), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def untimed_rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


@pytest.mark.parametrize("part", range(4))
def test_a_run_that_is_killed_at_random_points_ends_bit_for_bit_as_one_that_is_not(tmp_path, part):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    whole = start(program, tmp_path / "whole", 0)
    expected, complaint = whole.communicate(timeout=60)
    assert whole.returncode == 0, complaint
    moment = random.Random(part)
    folder, kills = tmp_path / "killed", 0
    while kills < 25:
        process = start(program, folder, 0.02)
        time.sleep(0.15 + 0.5 * moment.random())
        process.send_signal(signal.SIGKILL)
        out, complaint = process.communicate(timeout=60)
        if process.returncode == 0:  # it had come to the end: begin again, there are kills left
            assert out == expected
            folder = tmp_path / f"killed-{kills}"
            continue
        assert process.returncode == -signal.SIGKILL, complaint
        kills += 1
    process = start(program, folder, 0)
    out, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    assert out == expected
    assert untimed_rows(folder) == untimed_rows(tmp_path / "whole")
