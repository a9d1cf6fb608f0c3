"""MNIST and sets in its form, from the Hub or from four IDX files; or scikit-learn's digits, for a quick try."""

import gzip
from functools import cache
from pathlib import Path

import numpy as np

HUB, FASHION, DIGITS = "ylecun/mnist", "zalando-datasets/fashion_mnist", "digits"


@cache
def read(path, which):
    """Return the images, uint8 [n, 28, 28], and labels, int64 [n], of `train` or `test`.

    `path` is the folder with the four IDX files, `digits`, or the name of a dataset on the Hub.
    """
    if path == DIGITS:
        return _digits(which)
    if not Path(path).is_dir():
        return _from_hub(path, which)
    prefix = {"train": "train", "test": "t10k"}[which]
    images = gzip.decompress((Path(path) / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((Path(path) / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    images, labels = np.frombuffer(images, np.uint8, offset=16), np.frombuffer(labels, np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels.astype(np.int64)


def whole(path):
    """Return a path without what depends on the current folder. A name on the Hub stays as it is."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _from_hub(path, which):
    from datasets import load_dataset

    data = load_dataset(path, split=which)
    return np.stack([np.asarray(image, np.uint8) for image in data["image"]]), np.asarray(data["label"], np.int64)


def _digits(which):
    """Every third digit is for tests."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.kron(found.images.round(), np.ones((3, 3))) * 15.9375
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    chosen = (np.arange(len(images)) % 3 == 0) == (which == "test")
    return images[chosen], found.target[chosen].astype(np.int64)
