"""Train the two specialists on the training digits; write weights/strokes.safetensors and weights/curves.safetensors.

Hinton et al. 2015, section 5.2: half of the training digits are those that the specialist knows, half are others at
random. Afterwards the dustbin's logit is raised by the log of how much more often the known digits were shown.
"""

from pathlib import Path

import numpy as np
import torch
from data import digits, is_test
from model import preprocess
from safetensors.torch import save_file
from specialist import Specialist
from train_teachers import shifted

SPECIALISTS = {"strokes": ((1, 8, 9), 3), "curves": ((3, 5, 9), 4)}
EPOCHS = 60


def train(known: tuple[int, ...], seed: int) -> tuple[Specialist, float]:
    """Return a trained specialist and its accuracy on the held-out digits, whose unknown ones belong in the dustbin."""
    torch.manual_seed(seed)
    data = digits()
    test = torch.from_numpy(is_test(data["id"]))
    images = torch.stack([preprocess({"image": image}) for image in data["image"]])
    place = {digit: position for position, digit in enumerate(known)}
    labels = torch.tensor([place.get(label, len(known)) for label in data["label"].tolist()])
    own, others = ((~test & own).nonzero()[:, 0] for own in (labels < len(known), labels == len(known)))
    model = Specialist()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        model.train()
        shown = torch.cat([own, others[torch.randperm(len(others))[: len(own)]]])
        for rows in shown[torch.randperm(len(shown))].split(64):
            loss = torch.nn.functional.cross_entropy(model(shifted(images[rows]))["digit"], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        model.layers[-1].bias[-1] += np.log(len(others) / len(own))
        right = (model(images[test])["digit"].argmax(1) == labels[test]).float().mean()
    return model, float(right)


if __name__ == "__main__":
    folder = Path(__file__).parent / "weights"
    for name, (known, seed) in SPECIALISTS.items():
        model, accuracy = train(known, seed)
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        print(f"{name}: knows {', '.join(map(str, known))}, accuracy {accuracy:.4f} on the held-out digits")
