"""Crops of the photos in scikit-image and scikit-learn, and the preprocessing of EfficientNet-lite0."""

import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIZE, CROP = 192, 0.875
PHOTOS = {
    "skimage": [
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/cell.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/ihc.png",
        "data/moon.png",
        "data/motorcycle_left.png",
        "data/page.png",
        "data/retina.jpg",
        "data/rocket.jpg",
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}


def crops(each):
    """Return `each` square crops of every photo. Sides are a quarter to all of the photo's shorter side.

    Crops are mirrored at random.

    Columns: `crop` (the photo's name and a number), `photo`, whether it is `held_out` (every fifth), and `image`, uint8
    [192, 192, 3].
    """
    made = {"crop": [], "photo": [], "held_out": [], "image": []}
    for package, names in PHOTOS.items():
        root = Path(find_spec(package).submodule_search_locations[0])
        for name in names:
            photo, stem = Image.open(root / name).convert("RGB"), Path(name).stem
            random = np.random.default_rng(zlib.crc32(stem.encode()))
            for number in range(each):
                made["crop"].append(f"{stem}-{number:03d}")
                made["photo"].append(stem)
                made["held_out"].append(number % 5 == 0)
                made["image"].append(crop(photo, random))
    return made | {"image": np.stack(made["image"])}


def crop(photo, random):
    """Return a random square of a photo, perhaps mirrored, uint8 [192, 192, 3]."""
    side = int(min(photo.size) * random.uniform(0.25, 1))
    left, top = (int(random.integers(length - side + 1)) for length in photo.size)
    part = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return np.asarray(part)[:, :: random.choice([1, -1])]


def view(image, rng):
    """Return a random part of an image (at least a third of its area), perhaps mirrored, brighter or darker.

    It is resized to the crops' size, uint8 [192, 192, 3].
    """
    side = int(SIZE * np.sqrt(rng.uniform(1 / 3, 1)))
    left, top = (int(x) for x in rng.integers(SIZE - side + 1, size=2))
    box = (left, top, left + side, top + side)
    part = Image.fromarray(np.asarray(image)).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    pixels = np.asarray(part, np.float32)[:, :: rng.choice([1, -1])] * rng.uniform(0.7, 1.3)
    return pixels.clip(0, 255).astype(np.uint8)


def preprocess(sample, size=224):
    """Return the input of EfficientNet-lite0 for a sample's image, float32 [3, size, size]."""
    image = Image.fromarray(np.asarray(sample["image"], np.uint8))
    edge = (1 - CROP) / 2 * image.width
    box = (edge, edge, image.width - edge, image.height - edge)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box), np.float32)
    return torch.from_numpy((pixels - 127) / 128).movedim(2, 0)
