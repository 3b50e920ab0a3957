"""The processor that programs are compiled for can be an older one."""

import os
import re
import subprocess
import sys

import llvmlite.binding as llvm
import pytest

FEATURES = llvm.get_host_cpu_features()
needs_avx2 = pytest.mark.skipif(not FEATURES.get("avx2"), reason="this processor is not of the level x86-64-v3")

SHOW = """
import needle as ndl
from needle.compiler.host import host
from needle.compiler.object_code import target_machine

import llvmlite.binding as llvm

x = ndl.init.ones(64, 64)
lowered = ndl.jit(lambda x: ndl.tanh(x @ x)).lower(x)
machine = target_machine(host().cpu, host().features)
print(machine.emit_assembly(llvm.parse_assembly(lowered.show("llvm"))))
"""

TRAIN = """
import numpy as np
import needle as ndl
from needle import models, nn, optim

ndl.seed(0)


def check(model, inputs, labels):
    optimizer, loss_fn = optim.Adam(model.parameters(), lr=0.01), nn.SoftmaxLoss()

    @ndl.jit(check=3)
    def step(x, y):
        optimizer.reset_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    assert np.isfinite([step(inputs, labels).item() for _ in range(4)]).all()


labels = ndl.Tensor(np.arange(12) % 5)


class LastState(nn.Module):
    def __init__(self):
        self.lstm, self.linear = nn.LSTM(7, 9), nn.Linear(9, 5)

    def forward(self, x):
        return self.linear(self.lstm(x)[0][-1])


{model}
"""

MODELS = {
    "perceptron": """
layers = nn.Linear(19, 37), nn.BatchNorm1d(37), nn.GELU(), nn.Dropout(0.2), nn.LayerNorm1d(37), nn.Linear(37, 5)
model = nn.Sequential(*layers)
check(model, ndl.init.randn(12, 19), labels)""",
    "convolutions": """
convolutions = nn.Conv2d(3, 13, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(13, 13, 3, groups=13)
model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(13, 5))
check(model, ndl.init.randn(12, 3, 6, 6), labels)""",
    "recurrence": "check(LastState(), ndl.init.randn(20, 12, 7), labels)",
    "transformer": """
model = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 24), nn.Flatten(), nn.Linear(16 * 9, 5))
check(model, ndl.init.randn(12, 9, 16), labels)""",
}


def run(program, cpu):
    environment = {**os.environ, "NEEDLE_CPU": cpu}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


@needs_avx2
def test_code_is_for_the_level_that_is_asked_for():
    shown = run(SHOW, "x86-64-v3")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"vfmadd\w+ps.*%ymm", shown.stdout)
    assert "%zmm" not in shown.stdout


@needs_avx2
@pytest.mark.parametrize("model", MODELS)
def test_training_steps_for_an_older_processor_equal_eager_ones(model):
    trained = run(TRAIN.replace("{model}", MODELS[model]), "x86-64-v3")
    assert trained.returncode == 0, trained.stderr


def test_a_level_that_there_is_not_is_an_error_that_lists_those_there_are():
    failed = run("import needle as ndl; ndl.jit(ndl.relu)(ndl.Tensor([1.0]))", "pentium")
    assert failed.returncode == 1
    message = failed.stderr.strip().splitlines()[-1]
    assert re.search(
        r"SettingError: NEEDLE_CPU is a level of x86-64 that .* \(.*\), or not set; got 'pentium'", message
    )
    if FEATURES.get("avx2"):
        assert "x86-64-v3" in message
