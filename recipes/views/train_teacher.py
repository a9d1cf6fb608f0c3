"""Train the teacher on augmented images and write weights/teacher.safetensors.

python recipes/views/train_teacher.py FOLDER
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from fashion import read, tensor
from model import teacher
from safetensors.torch import save_file

EPOCHS, BATCH, RATE = 12, 128, 3e-3
PAD, HOLE = 3, 8


def augment(image, rng):
    """Return an image shifted by up to three pixels, mirrored half the time, with a blank square half the time."""
    padded = np.pad(image, PAD)
    top, left = rng.integers(2 * PAD + 1, size=2)
    view = padded[top : top + 28, left : left + 28][:, :: rng.choice([1, -1])].copy()
    if rng.random() < 0.5:
        y, x = rng.integers(28 - HOLE + 1, size=2)
        view[y : y + HOLE, x : x + HOLE] = 0
    return view


@torch.inference_mode()
def accuracy(model, images, labels):
    """Return a model's accuracy on images, uint8 [n, 28, 28]."""
    found = [model(torch.stack([tensor(i) for i in images[k : k + 500]])) for k in range(0, len(images), 500)]
    return float((torch.cat(found).argmax(1).numpy() == labels).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder with the four IDX files")
    folder = parser.parse_args().folder.resolve()
    images, labels = read(folder, "train")
    torch.manual_seed(0)
    model, rng = teacher(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.02)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        model.train()
        order = rng.permutation(len(images))[: steps * BATCH].reshape(steps, BATCH)
        for rows in order:
            views = torch.stack([tensor(augment(images[i], rng)) for i in rows])
            loss = torch.nn.functional.cross_entropy(model(views), torch.as_tensor(labels[rows], dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(epoch, round(accuracy(model.eval(), *read(folder, "t10k")), 4), flush=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        Path(__file__).parent / "weights/teacher.safetensors",
    )


if __name__ == "__main__":
    main()
