"""Train the three teachers on the training digits; write weights/a.safetensors, b.safetensors and c.safetensors."""

from pathlib import Path

import torch
from data import digits, is_test
from model import DigitsCNN, preprocess
from safetensors.torch import save_file

TEACHERS = {"a": (16, 64, 0), "b": (12, 48, 1), "c": (20, 32, 2)}
EPOCHS = 60


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Return a batch shifted by up to one pixel, since there are few digits to train on."""
    dy, dx = torch.randint(-1, 2, (2,)).tolist()
    return torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)[:, :, 1 + dy : 9 + dy, 1 + dx : 9 + dx]


def train(width: int, hidden: int, seed: int) -> tuple[DigitsCNN, float]:
    """Return a trained teacher and its accuracy on the held-out digits."""
    torch.manual_seed(seed)
    data = digits()
    test = torch.from_numpy(is_test(data["id"]))
    images = torch.stack([preprocess({"image": image}) for image in data["image"]])
    labels = torch.from_numpy(data["label"])
    model = DigitsCNN(width, hidden)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    known = (~test).nonzero()[:, 0]
    for _ in range(EPOCHS):
        model.train()
        for rows in known[torch.randperm(len(known))].split(64):
            loss = torch.nn.functional.cross_entropy(model(shifted(images[rows]))["digit"], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        right = (model(images[test])["digit"].argmax(1) == labels[test]).float().mean()
    return model, float(right)


if __name__ == "__main__":
    folder = Path(__file__).parent / "weights"
    folder.mkdir(exist_ok=True)
    for name, (width, hidden, seed) in TEACHERS.items():
        model, accuracy = train(width, hidden, seed)
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        print(f"{name}: width {width}, accuracy {accuracy:.4f} on the held-out digits")
