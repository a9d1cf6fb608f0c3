"""Train the teacher of Hinton et al. 2015, section 3, on MNIST, and build the cache of its answers.

python recipes/hinton/build.py runs/hinton --data FOLDER

The teacher's weights are kept beside the cache. Run it again after a kill: it goes on from the last epoch.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from data import tensors
from safetensors.torch import load_file, save_file
from teacher import teacher
from torch.nn.functional import cross_entropy, pad

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device, epochs, one_cycle, write_whole
from mnist import HUB, whole

EPOCHS, BATCH, RATE, PAD, LARGEST = 150, 256, 1e-3, 2, 15**0.5


def jittered(images, generator):
    """Return images [B, 28, 28], each shifted by up to two pixels in any direction."""
    shifts = torch.randint(2 * PAD + 1, (2, len(images), 1), generator=generator).to(images.device)
    down, right = shifts + torch.arange(28, device=images.device)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return pad(images, (PAD,) * 4)[each, down[:, :, None], right[:, None, :]]


@torch.no_grad()
def limit(model):
    """Scale each unit's incoming weights to a norm of at most the square root of 15 (Hinton et al. 2012)."""
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            layer.weight.mul_((LARGEST / layer.weight.norm(dim=1, keepdim=True)).clamp(max=1))


@torch.no_grad()
def errors(model, images, labels):
    """Return how many images, float32 [n, 28, 28], a model gets wrong."""
    return sum(
        int((model(x).argmax(1) != y).sum()) for x, y in zip(images.split(2000), labels.split(2000), strict=True)
    )


def train(data, checkpoint, count, width):
    """Return the trained teacher."""
    (images, labels), tests = (tensors(data, which, device()) for which in ("train", "test"))
    torch.manual_seed(0)
    model, generator = teacher(width).to(device()), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = one_cycle(optimizer, RATE, count * -(-len(images) // BATCH))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "generator": generator}
    for epoch in epochs(checkpoint, count, **parts):
        model.train()
        for rows in torch.randperm(len(images), generator=generator).to(device()).split(BATCH):
            loss = cross_entropy(model(jittered(images[rows], generator)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            limit(model)
        print(f"epoch {epoch + 1}: {errors(model.eval(), *tests)} test errors", flush=True)
    return model.eval()


def build(cache, data, weights):
    """Build the cache of a teacher's answers, from its weights."""
    overrides = [
        f"transfer_set.source.arguments.path={json.dumps(data)}",
        f"teachers.wide.weights={json.dumps(str(weights))}",
        f"teachers.wide.arguments.width={len(load_file(weights)['2.bias'])}",
    ]
    return softcache.build(Path(__file__).parent / "recipe.yaml", cache, overrides)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="where the cache is written")
    parser.add_argument("--data", default=HUB, help="the folder with the four IDX files, or a dataset on the Hub")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--width", type=int, default=1200)
    options = parser.parse_args()
    trained = f"{Path(options.data).name}, {options.width} units, {options.epochs} epochs"
    weights = options.cache.with_name(f"{options.cache.name}-teacher ({trained}).safetensors").resolve()
    data = whole(options.data)
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        model = train(data, weights.with_suffix(".pt"), options.epochs, options.width)
        write_whole(weights, lambda path: save_file(model.state_dict(), path))
    built = build(options.cache, data, weights)
    print(f"{built.path}: the teacher has answered {built.rows:,} images")


if __name__ == "__main__":
    main()
