"""Small files in the formats that the data sets read."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from idx_bytes import idx_bytes


@pytest.fixture
def mnist_files(tmp_path):
    """A pair of gzipped files of 12 random images, and what is in them."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 28, 28), dtype=np.uint8)
    labels = generator.integers(0, 10, 12, dtype=np.uint8)
    paths = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    for path, array in zip(paths, (images, labels), strict=True):
        path.write_bytes(gzip.compress(idx_bytes(array)))
    return paths, images, labels


@pytest.fixture
def real_data():
    folder = os.environ.get("NEEDLE_DATA")
    if not folder:
        pytest.skip("NEEDLE_DATA names no folder with data sets")
    return Path(folder)
