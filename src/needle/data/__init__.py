"""Data sets, loaders and transforms: how data get from files to batches of Tensors.

A data set gives one item for an index, transforms change its image, and a `DataLoader` decides the order and makes
batches.
"""

from needle.data.batch import collate
from needle.data.cifar10 import CIFAR10Dataset
from needle.data.dataset import Dataset, NDArrayDataset, Subset, random_split
from needle.data.digits import DigitsDataset
from needle.data.files import MissingFileError
from needle.data.idx import read_idx, write_idx
from needle.data.images import ImageDataset
from needle.data.loader import DataLoader
from needle.data.mnist import FashionMNISTDataset, MNISTDataset
from needle.data.remote import default_data_folder, download
from needle.data.sampler import RandomSampler, Sampler, SequentialSampler, SubsetSampler, WeightedSampler
from needle.data.transforms import (
    Apply,
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomFlipHorizontal,
    RandomRotation,
    RandomScale,
    RandomTranslation,
    Transform,
)

__all__ = [
    "Apply",
    "CIFAR10Dataset",
    "Compose",
    "Cutout",
    "DataLoader",
    "Dataset",
    "DigitsDataset",
    "FashionMNISTDataset",
    "ImageDataset",
    "MNISTDataset",
    "MissingFileError",
    "NDArrayDataset",
    "Normalize",
    "RandomCrop",
    "RandomFlipHorizontal",
    "RandomRotation",
    "RandomSampler",
    "RandomScale",
    "RandomTranslation",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "SubsetSampler",
    "Transform",
    "WeightedSampler",
    "collate",
    "default_data_folder",
    "download",
    "random_split",
    "read_idx",
    "write_idx",
]
