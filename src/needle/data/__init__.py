"""Data sets, loaders and transforms: how data get from files to batches of Tensors.

A data set gives one item for an index, transforms change its image, and a `DataLoader` decides the order and makes
batches. Text becomes numbers in a `Corpus` of words, or through a tokenizer.
"""

from needle.data.batch import collate
from needle.data.cifar10 import CIFAR10Dataset
from needle.data.corpus import Corpus, Dictionary, batchify, get_batch
from needle.data.dataset import Dataset, NDArrayDataset, Subset, random_split
from needle.data.digits import DigitsDataset
from needle.data.files import MissingFileError
from needle.data.idx import read_idx, write_idx
from needle.data.images import ImageDataset
from needle.data.loader import DataLoader
from needle.data.mnist import FashionMNISTDataset, MNISTDataset
from needle.data.remote import default_data_folder, download
from needle.data.sampler import (
    ColumnSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetSampler,
    WeightedSampler,
)
from needle.data.shapes import ShapesDataset
from needle.data.text import text_chunks, text_lines, tiny_shakespeare
from needle.data.tokenizer import (
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordTokenizer,
    make_tokenizer,
    tokenizer_from_json,
)
from needle.data.tokens import TokenDataset, encode_file
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
    "ByteTokenizer",
    "CIFAR10Dataset",
    "CharacterTokenizer",
    "ColumnSampler",
    "Compose",
    "Corpus",
    "Cutout",
    "DataLoader",
    "Dataset",
    "Dictionary",
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
    "ShapesDataset",
    "Subset",
    "SubsetSampler",
    "TokenDataset",
    "Tokenizer",
    "Transform",
    "WeightedSampler",
    "WordTokenizer",
    "batchify",
    "collate",
    "default_data_folder",
    "download",
    "encode_file",
    "get_batch",
    "make_tokenizer",
    "random_split",
    "read_idx",
    "text_chunks",
    "text_lines",
    "tiny_shakespeare",
    "tokenizer_from_json",
    "write_idx",
]
