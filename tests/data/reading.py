"""Data sets for the workers' tests, in a module that worker processes can import."""

import os
import signal
import sys
import time

import numpy as np

from needle.data import Dataset, Transform
from needle.device import random


class Noise(Transform):
    """A number added to the image; remembers nothing."""

    def draw(self):
        return random.rand()

    def apply(self, image, drawn):
        return image + drawn


class Images(Dataset):
    """Twenty-three images, read one by one, augmented."""

    def __init__(self, transforms=None, length=23):
        super().__init__(transforms)
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        image = np.arange(12.0, dtype=np.float32).reshape(2, 3, 2) + 100 * index
        return self.apply_transforms(image), index


class Troubled(Images):
    """Reads well but for one item, at which it does what its trouble says."""

    def __init__(self, trouble, at=9):
        super().__init__()
        self.trouble, self.at = trouble, at

    def __getitem__(self, index):
        if index == self.at:
            getattr(self, self.trouble)()
        return super().__getitem__(index)

    def fail(self):
        raise KeyError("no such picture")

    def stop(self):
        raise StopIteration

    def sleep(self):
        time.sleep(30)

    def exit(self):
        os._exit(7)

    def be_killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self):
        os.abort()

    def draw(self):
        np.random.rand()


class Unsendable(Images):
    """Cannot be pickled."""

    def __init__(self):
        super().__init__()
        self.function = lambda: None


class Unbuildable(Images):
    """Can be pickled, but not unpickled."""

    def __setstate__(self, state):
        raise RuntimeError("cannot be rebuilt here")


class FarAway(Images):
    """Says from which process and thread each item comes, and keeps the generator's state out of it."""

    def __getitem__(self, index):
        return np.array([os.getpid(), index]), np.full((64, 1024), index, dtype=np.float32)


class Words(Images):
    """Items that no array can hold."""

    def __getitem__(self, index):
        return "word" * index, sys.modules if index == 5 else index
