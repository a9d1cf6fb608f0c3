"""Train students on cached views, on a live teacher's answers to the same views, and on views that don't match.

python recipes/views/train.py runs/views runs/views-fixed
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from fashion import augment, read, samples, tensor
from model import student, teacher
from safetensors.torch import load_file
from torch import nn

import softcache

EPOCHS, BATCH, RATE, TEMPERATURE = 96, 64, 3e-3, 4.0
OWN = np.random.default_rng(1)
STUDENTS = {
    "live teacher, one view per epoch": (96, "live"),
    "cache, one view per epoch (96)": (96, "cached"),
    "cache, 16 views": (16, "cached"),
    "cache, 4 views": (4, "cached"),
    "cache, 1 view": (1, "cached"),
    "cache, plain images": (None, "cached"),
    "soft targets of one view, another view as input": (96, "other views"),
    "soft targets of plain images, views as input": (None, "other views"),
    "hard labels, one view per epoch": (96, "hard"),
}


def own_view(image):
    """Return a view that no teacher saw."""
    return augment(image, OWN)


class Images(torch.utils.data.Dataset):
    """The transfer set, as the build read it."""

    def __init__(self, columns: dict) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, i: int) -> dict:
        index, image, label = (self.columns[name][i] for name in ("index", "image", "label"))
        return {"index": int(index), "image": image, "label": int(label)}


class AsTheyAre(torch.utils.data.Dataset):
    """Plain images, or with `own` the student's own views of them. Views are not checked."""

    def __init__(self, images: Images, *, own: bool) -> None:
        self.images, self.own = images, own

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        sample = self.images[i]
        return sample | {"image": tensor(own_view(sample["image"]) if self.own else sample["image"])}


def train(
    name: str, images: Images, caches: list[softcache.Cache], live: nn.Module, seed: int, epochs: int
) -> nn.Module:
    """Train a student. All students with the same seed have the same initial weights and order of images."""
    views, given = STUDENTS[name]
    torch.manual_seed(seed)
    model = student()
    if views is None:
        data = softcache.attach(AsTheyAre(images, own=given == "other views"), caches[1], ids=images.columns["index"])
    else:
        transform, check = (own_view, "off") if given == "other views" else (augment, "sampled")
        data = softcache.views(images, caches[0], transform, id="index", views=views, then=tensor, check=check)
    generator = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, generator=generator, collate_fn=softcache.collate)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        if views is not None:
            data.set_epoch(epoch)
        for batch in loader:
            logits = model(batch["image"])
            loss = loss_of(given, logits, batch, live)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def loss_of(given: str, logits: torch.Tensor, batch: dict, live: nn.Module) -> torch.Tensor:
    """Return a student's loss, a scalar."""
    if given == "hard":
        return nn.functional.cross_entropy(logits, batch["label"])
    if given != "live":
        return softcache.distillation_loss(logits, batch["soft"]["item"], TEMPERATURE)
    with torch.inference_mode():
        said = (live(batch["image"]) / TEMPERATURE).log_softmax(1)
    mine = (logits / TEMPERATURE).log_softmax(1)
    return TEMPERATURE**2 * nn.functional.kl_div(mine, said.clone(), reduction="batchmean", log_target=True)


@torch.inference_mode()
def evaluate(model: nn.Module, live: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return a student's accuracy and the mean KL(teacher || student) at T = 1, both on the test images."""
    mine, said = (torch.cat([m(part) for part in images.split(500)]).log_softmax(1) for m in (model, live))
    kl = nn.functional.kl_div(mine, said, reduction="batchmean", log_target=True)
    return (mine.argmax(1) == labels).float().mean().item(), kl.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="the cache of views")
    parser.add_argument("fixed", help="the cache of plain images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", type=int, nargs="*", help="which students to train, by number from 0")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    caches = [softcache.open(options.cache), softcache.open(options.fixed)]
    arguments = caches[0].commit.transfer_set["source"]["arguments"]
    images = Images(samples(**arguments))
    found = read(arguments["folder"], "t10k")
    tests, labels = torch.stack([tensor(i) for i in found[0]]), torch.tensor(found[1].astype(np.int64))
    live = teacher()
    live.load_state_dict(load_file(Path(__file__).parent / "weights/teacher.safetensors"))
    live.eval()
    best = evaluate(live, live, tests, labels)[0]
    print(f"{len(images):,} images, {options.epochs} epochs, {options.seeds} seeds; the teacher: {best:.4f}")
    print(f"{'student':48} {'accuracy':>9} {'std':>7} {'KL':>7} {'std':>7} {'seconds':>8}", flush=True)
    for number, name in enumerate(STUDENTS):
        if options.only is not None and number not in options.only:
            continue
        began = time.monotonic()
        students = (train(name, images, caches, live, seed, options.epochs) for seed in range(options.seeds))
        scores = [evaluate(student, live, tests, labels) for student in students]
        (accuracy, kl), (spread, kl_spread) = np.mean(scores, 0), np.std(scores, 0, ddof=min(1, options.seeds - 1))
        seconds = (time.monotonic() - began) / options.seeds
        print(f"{name:48} {accuracy:9.4f} {spread:7.4f} {kl:7.4f} {kl_spread:7.4f} {seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
