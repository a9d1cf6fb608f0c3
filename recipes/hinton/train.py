"""Train students of the MNIST cache as Hinton et al. 2015, sections 3 and 6, and print the tables.

python recipes/hinton/train.py runs/hinton --data FOLDER

Neither the teacher's code nor its weights are needed. Run it again after a kill: students that are done are not trained
again, and the others go on from their last epoch.
"""

import argparse
import sys
from pathlib import Path

import torch
from data import tensors
from student import student
from torch.nn.functional import cross_entropy

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import Curve, device, epochs, of_cache, one_cycle, row, trained
from mnist import HUB, whole

EPOCHS, BATCH, MOMENTUM = 30, 100, 0.9
# A student, unless its row says otherwise. The learning rates are those that did best in a few tries.
SOFT = {
    "width": 800,
    "temperature": 20.0,
    "alpha": 1.0,
    "rate": 0.05,
    "digits": "0123456789",
    "share": 1.0,
    "epochs": 1,
}
HARD = {"alpha": 0.0, "rate": 0.1}
TEMPERATURES = (1, 2, 3, 4, 6, 8, 12, 20)
WIDTHS = (30, 300)
ANNEALED = (
    ("1", 1.0, "4", 4.0),
    ("1", 1.0, "20", 20.0),
    ("1", 1.0, "20 to 1", [20.0, 1.0]),
    ("0.7", 0.7, "4", 4.0),
    ("0.7", 0.7, "20", 20.0),
    ("0.5", 0.5, "4", 4.0),
    ("0.5", 0.5, "20", 20.0),
    ("1 to 0.5", [1.0, 0.5], "4", 4.0),
    ("1 to 0.5", [1.0, 0.5], "20 to 1", [20.0, 1.0]),
)
# A bias is moved as far as this share of the images that a student was trained on allows: so many may become wrong.
MAY_BE_LOST = 0.01
PARTS = ("main", "omitted", "few", "sweep", "annealed")


def jobs(part, seeds):
    """Return the students of each row of a table, as jobs for `trained`, without what all have in common."""
    settings = {
        "main": {"hard labels": HARD, "soft targets, T = 20": {}},
        "sweep": {
            f"{width} units, T = {t}": {"width": width, "temperature": float(t)}
            for width in WIDTHS
            for t in TEMPERATURES
        },
        "annealed": {
            f"alpha = {alpha_name}, T = {t_name}": {"alpha": alpha, "temperature": temperature}
            for alpha_name, alpha, t_name, temperature in ANNEALED
        },
        "omitted": {"no 3": {"digits": "012456789"}, "only 7 and 8": {"digits": "78"}},
        # Ten times as many epochs are a third of the steps.
        "few": {
            "hard labels, all images": HARD,
            "hard labels, 3 % of the images": HARD | {"share": 0.03, "epochs": 10},
            "soft targets, 3 % of the images": {"share": 0.03, "epochs": 10},
        },
    }
    return {
        title: [SOFT | chosen | {"seed": seed} for seed in range(seeds)] for title, chosen in settings[part].items()
    }


def train(job, checkpoint):
    """Train a student and return its errors on the test images, and what is found if it has not seen some digits."""
    (images, labels), tests = (tensors(job["data"], which, device()) for which in ("train", "test"))
    chosen = transfer_set(job, labels)
    soft = softcache.open(job["cache"])["digit"].lookup(chosen).to(device()) if job["alpha"] else None
    torch.manual_seed(job["seed"])
    model, generator = student(job["width"]).to(device()), torch.Generator().manual_seed(job["seed"])
    images, labels = images[chosen], labels[chosen]
    steps = job["epochs"] * -(-len(chosen) // BATCH)
    temperature, alpha = over(steps, job["temperature"]), over(steps, job["alpha"])
    optimizer = torch.optim.SGD(model.parameters(), job["rate"], momentum=MOMENTUM, nesterov=True)
    schedule = one_cycle(optimizer, job["rate"], steps)
    curve = Curve()
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "generator": generator, "curve": curve}
    for _ in epochs(checkpoint, job["epochs"], **parts):
        for rows in torch.randperm(len(chosen), generator=generator).split(BATCH):
            logits, step = model(images[rows]), schedule.last_epoch
            if soft is None:
                loss = cross_entropy(logits, labels[rows])
            else:
                loss = softcache.distillation_loss(logits, soft[rows], temperature(step), labels[rows], alpha(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        curve.points.append(wrong(answers(model, tests[0]), tests[1]))
    return {"curve": curve.points} | figures(job, model, images, labels, tests)


def over(steps, given):
    """Return a schedule over all steps: of one number, or linear from one to another."""
    if isinstance(given, list):
        return softcache.schedules.linear(*given, steps=steps)
    return softcache.schedules.constant(given)


def transfer_set(job, labels):
    """Return which training images a student sees: some digits, or a random share of all."""
    numbers = torch.isin(labels.cpu(), torch.tensor([int(digit) for digit in job["digits"]])).nonzero()[:, 0]
    if job["share"] == 1:
        return numbers
    picked = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(job["seed"]))
    return numbers[picked[: int(len(numbers) * job["share"])].sort().values]


@torch.no_grad()
def answers(model, images):
    """Return a student's logits, [n, 10]."""
    return torch.cat([model(part) for part in images.split(2000)])


def wrong(logits, labels):
    """Return how many images a student gets wrong."""
    return int((logits.argmax(1) != labels).sum())


def figures(job, model, images, labels, tests):
    """Return a student's errors; if it has not seen some digits, also those with its biases moved."""
    logits, right = answers(model, tests[0]), tests[1]
    found = {"errors": wrong(logits, right)}
    if len(job["digits"]) == 10:
        return found
    seen = torch.zeros(10, device=logits.device)
    seen[[int(digit) for digit in job["digits"]]] = 1
    unseen = seen[right] == 0
    own = answers(model, images)
    shifts = [i / 20 for i in range(601)]
    lost = [wrong(own - shift * seen, labels) / len(labels) for shift in shifts]
    honest = max(shift for shift, share in zip(shifts, lost, strict=True) if share <= MAY_BE_LOST or shift == 0)
    tuned = min(shifts, key=lambda shift: wrong(logits - shift * seen, right))
    for name, shift in (("", 0.0), ("honest ", honest), ("tuned ", tuned)):
        moved = logits - shift * seen
        found |= {f"{name}errors": wrong(moved, right), f"{name}errors on unseen": wrong(moved[unseen], right[unseen])}
    return found | {"honest shift": honest, "tuned shift": tuned}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--data", default=HUB, help="the folder with the four IDX files, or a dataset on the Hub")
    parser.add_argument("--out", type=Path, help="where results are kept, by default beside the cache")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3], help="by default the first three")
    parser.add_argument("--seeds", type=int, help="by default 10 for `main`, otherwise 3")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    folder = options.out or options.cache.with_name(f"{options.cache.name}-students")
    for part in options.parts:
        rows = jobs(part, options.seeds or (10 if part == "main" else 3))
        for job in (job for each in rows.values() for job in each):
            job |= of_cache(options.cache) | {"data": whole(options.data), "epochs": job["epochs"] * options.epochs}
        found = iter(trained([job for each in rows.values() for job in each], train, folder))
        print(f"\n{part}: test errors\n\n| student | mean | std | least | most | seeds |\n|---|--:|--:|--:|--:|--:|")
        for title, each in rows.items():
            print_rows(title, [next(found) for _ in each])


def print_rows(title, students):
    """Print the rows of a table for students that differ in their seed."""
    for name in [name for name in students[0] if name.endswith(("errors", "on unseen", "shift"))]:
        what = "" if name == "errors" else f": {name}"
        print(row(f"{title}{what}", [each[name] for each in students], 2 if name.endswith("shift") else 1))


if __name__ == "__main__":
    main()
