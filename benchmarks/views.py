"""What it costs to replay a view and to check it, beside the transform alone; and what a stored view takes.

pip install -c constraints.txt -e ".[digits,images]"
python benchmarks/views.py
python benchmarks/views.py --logits DIR:TARGET  # how exact k = 10 is, on a cache of dense logits
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from timing import alternate, machine, ratio, table

import softcache
from softcache.codecs import TopkCodec
from softcache.transfer.augmentation import view_seed

BATCH = 32
NODES = (4, 8, 16)
CODE = """
import numpy as np
import torch
from views import photo_crop, small_crop  # noqa: F401

def samples(count, kind):
    from views import images
    return {"id": list(range(count)), "image": images(kind, count), "x": list(range(count))}

class Random(torch.nn.Module):
    def forward(self, seeds):
        return torch.stack([torch.randn(1000, generator=torch.Generator().manual_seed(int(s))) * 2 for s in seeds])

def preprocess(sample):
    return torch.tensor(int(np.asarray(sample["image"]).sum()))
"""


def photo_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of a photo, resized to 224 x 224, perhaps mirrored, its colours changed; uint8 [224, 224, 3]."""
    photo = Image.fromarray(image)
    side = int(min(photo.size) * rng.uniform(0.3, 1))
    left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
    part = photo.resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        part = change(part).enhance(rng.uniform(0.6, 1.4))
    return np.ascontiguousarray(np.asarray(part)[:, :: rng.choice([1, -1])])


def small_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image of 28 x 28 shifted by up to three pixels, perhaps mirrored."""
    padded = np.pad(image, 3)
    top, left = rng.integers(7, size=2)
    return np.ascontiguousarray(padded[top : top + 28, left : left + 28][:, :: rng.choice([1, -1])])


def images(kind: str, count: int) -> np.ndarray:
    """Photos of 427 x 640 pixels in turns, or noise of 28 x 28, uint8."""
    if kind == "photo":
        photos = load_sample_images().images
        return np.stack([photos[i % len(photos)] for i in range(count)])
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)


def build(folder: Path, kind: str, samples: int, views: int, store: dict[str, Any]) -> softcache.Cache:
    """Build a cache of views."""
    folder.mkdir()
    (folder / "code_of_views.py").write_text(CODE)
    source = {"type": "python", "callable": "code_of_views:samples", "arguments": {"count": samples, "kind": kind}}
    teacher = {"model": "code_of_views:Random", "preprocess": "code_of_views:preprocess", "reads": ["image"]}
    recipe = {
        "transfer_set": {"source": source, "id": "id"},
        "teachers": {"t": teacher},
        "tasks": {
            "cls": {
                "kind": "classification",
                "classes": 1000,
                "value_kind": "logits",
                "teachers": ["t"],
                "store": store,
            }
        },
        "augmentation": {"transform": f"code_of_views:{kind}_crop", "column": "image", "views": views},
        "build": {"fragment_rows": 8192},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    softcache.build(folder / "recipe.yaml", folder / "cache")
    return softcache.open(folder / "cache")


def cost(folder: Path, kind: str, samples: int, rounds: int) -> list[list[Any]]:
    """Time a batch: the transform alone, and what `softcache.views` gives without and with checks, and soft targets."""
    cache, columns = build(folder, kind, samples, 2, {"codec": "topk", "k": 10}), images(kind, samples)
    dataset = [{"id": i, "image": image} for i, image in enumerate(columns)]
    transform = {"photo": photo_crop, "small": small_crop}[kind]
    order = np.random.default_rng(1)
    # The same views, since some parts of a photo take longer than others; generators are made beforehand.
    ready = [
        [np.random.Generator(np.random.PCG64(view_seed(0, i, 0))) for _ in range(rounds + 1)] for i in range(samples)
    ]

    def alone() -> list[np.ndarray]:
        return [transform(dataset[i]["image"], ready[i].pop()) for i in order.permutation(samples)[:BATCH].tolist()]

    def replayed(check: str, targets: list[str]) -> Callable[[], object]:
        data = softcache.views(dataset, cache, transform, id="id", check=check, targets=targets)
        for begin in range(0, 128, BATCH):  # beyond the first views, which are all compared
            data.__getitems__(list(range(begin % samples, begin % samples + BATCH)))
        return lambda: data.__getitems__(order.permutation(samples)[:BATCH].tolist())

    ways = {
        "the transform alone": alone,
        "replayed, not compared": replayed("off", []),
        "replayed, one in 16 compared": replayed("sampled", []),
        "replayed, all compared": replayed("always", []),
        "replayed, one in 16 compared, and its soft targets": replayed("sampled", ["cls"]),
    }
    times = alternate(ways, rounds)
    return [[kind, way, 1e3 * median(times[way]) / BATCH, 1 / ratio(times, way, "the transform alone")] for way in ways]


def stored(folder: Path, samples: int, views: int, nodes: int) -> list[Any]:
    """Return what each view takes: its answers, what is recorded of it, and with all files of the cache."""
    store = {"codec": "topk", "k": 10, "nodes": nodes, "companions": False}
    cache = build(folder, "small", samples, views, store)
    rows = samples * views
    whole = sum(p.stat().st_size for p in (folder / "cache").rglob("*") if p.is_file())
    recorded = sum(p.stat().st_size for p in (folder / "cache/data/rows").rglob("*.arrow"))
    return [f"{views}", f"k = 10, {nodes} nodes", cache["cls"].stats["bytes"] / rows, recorded / rows, whole / rows]


def exactness(target: softcache.Target, nodes: int) -> list[Any]:
    """Return how far k = 10 is from the logits of a dense target.

    That is the tail's mass, the worst row of 60 temperatures from 0.5 to 20 and of T = 2, and the mean KL divergence at
    T = 1, 2 and 4.
    """
    soft = target.read(range(len(target)))
    logits = soft.values[soft.mask].float()
    codec = TopkCodec(target.task, k=10, nodes=nodes, companions=False)
    columns = codec.encode(logits)

    def tail_error(temperature: float) -> float:
        sparse = codec.decoder.sparse_log_probs(columns, temperature)
        tail = (logits / temperature).softmax(1).scatter(1, sparse.ids, 0.0).sum(1)
        return float((sparse.log_tail.exp() - tail).abs().max())

    def divergence(temperature: float) -> float:
        log_p, log_q = (logits / temperature).log_softmax(1), codec.decoder.log_probs(columns, temperature)
        return float((log_p.exp() * (log_p - log_q)).sum(1).mean())

    worst = max(map(tail_error, np.geomspace(0.5, 20, 60).tolist()))
    return [f"{nodes}", f"{worst:.1e}", f"{tail_error(2.0):.1e}", *(f"{divergence(t):.4f}" for t in (1.0, 2.0, 4.0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--logits", metavar="DIR:TARGET")
    arguments = parser.parse_args()
    if arguments.logits is not None:
        path, _, name = arguments.logits.rpartition(":")
        rows = [exactness(softcache.open(path)[name], nodes) for nodes in NODES]
        titles = ["nodes", "tail mass, T 0.5 to 20", "tail mass, T = 2", "KL, T = 1", "KL, T = 2", "KL, T = 4"]
        print(machine(), end="\n\n")
        print(table(titles, rows))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = cost(folder / "photo", "photo", 64, arguments.rounds)
        found += cost(folder / "small", "small", 4000, 4 * arguments.rounds)
        rows = [[kind, way, f"{ms:.3f}", f"{beside:.2f}"] for kind, way, ms, beside in found]
        print(machine(), end="\n\n")
        print(table(["images", "a view", "ms", "beside the transform"], rows), end="\n\n")
        sizes = [
            stored(folder / f"{views}-{nodes}", arguments.samples, views, nodes) for views in (8, 50) for nodes in NODES
        ]
        rows = [[views, codec, *(f"{size:.1f}" for size in each)] for views, codec, *each in sizes]
        print(table(["views a sample", "stored", "answers, key", "recorded of it", "all files"], rows))


if __name__ == "__main__":
    main()
