"""The course's scripts as modules, and small files in MNIST's format."""

import gzip
import importlib.util
import os
import struct
from pathlib import Path

import numpy as np
import pytest

APPS = Path(__file__).parents[2] / "apps"


def load_app(name):
    spec = importlib.util.spec_from_file_location(name, APPS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def simple_ml():
    return load_app("simple_ml")


@pytest.fixture
def mlp_resnet():
    return load_app("mlp_resnet")


@pytest.fixture
def models():
    return load_app("models")


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_mnist(folder, prefix, images, labels):
    write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
    write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)


@pytest.fixture
def small_mnist(tmp_path):
    """A folder of MNIST's four files, of blobs that a model can tell apart: 130 to train, 50 to test."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (10, 28, 28))
    for prefix, count in (("train", 130), ("t10k", 50)):
        labels = generator.integers(0, 10, count).astype(np.uint8)
        noise = generator.integers(-40, 41, (count, 28, 28))
        images = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
        write_mnist(tmp_path, prefix, images, labels)
    return tmp_path


@pytest.fixture
def real_mnist():
    folder = os.environ.get("NEEDLE_DATA")
    if not folder:
        pytest.skip("NEEDLE_DATA names no folder with MNIST")
    return Path(folder) / "mnist"


def read_mnist(folder, prefix):
    """Read a pair of files with the standard library and NumPy alone."""
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        _, count, height, width = struct.unpack(">4I", file.read(16))
        images = np.frombuffer(file.read(), np.uint8).reshape(count, height * width)
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read()[8:], np.uint8)
    return images, labels


@pytest.fixture
def small_arrays(small_mnist):
    """What is in the files of `small_mnist`: float64 images in [0, 1] and labels, of both parts."""
    return {
        prefix: (read_mnist(small_mnist, prefix)[0] / 255, read_mnist(small_mnist, prefix)[1].astype(int))
        for prefix in ("train", "t10k")
    }
