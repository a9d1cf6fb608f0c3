"""What the training of teachers and of students has in common."""

import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import torch
from frames import preprocess
from network import Network, windows

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device, learn

SETTINGS = {"batch": 256, "rate": 1e-3}


class Frames:
    """The frames of some files of utterances, one after another.

    Attributes:
        utterances: their ids.
        states: the state of each frame, int64 [N]; -100 if nobody labelled it.
    """

    def __init__(self, paths, device):
        samples = [sample for path in paths for sample in pq.read_table(path).to_pylist()]
        each = [preprocess(sample) for sample in samples]
        self.utterances = [sample["utterance"] for sample in samples]
        states = [sample["states"] or [-100] * len(own) for sample, own in zip(samples, each, strict=True)]
        self.states = torch.tensor([state for own in states for state in own], device=device)
        self._frames = torch.cat(each).to(device)
        starts = torch.tensor([0, *(len(own) for own in each)]).cumsum(0).tolist()
        numbered = [torch.arange(start, end)[:, None] for start, end in pairwise(starts)]
        self._around = torch.cat([windows(own) for own in numbered]).to(device)

    def __len__(self):
        return len(self._frames)

    def inputs(self, rows):
        """Return what a network's layers get for some frames, [n, 440]."""
        return self._frames[self._around[rows]].flatten(1)


@cache
def heard(folder, *names):
    """Return the frames of some files of a folder. Each process reads them once."""
    return Frames([Path(folder) / f"{name}.parquet" for name in names], device())


def trained_network(job, checkpoint, frames, loss):
    """Return a trained network, and what `train` keeps of it: which share of the test frames it gets right, in %.

    `loss(logits, rows)` is the loss for some of the frames. Of these the job's `share` is used, chosen at random. The
    curve, a number for each epoch, is that of every tenth frame of the test set, which takes less time.
    """
    test = heard(job["corpus"], "test")
    torch.manual_seed(job["seed"])
    network, generator = Network(job["width"]).to(device()), torch.Generator().manual_seed(job["seed"])
    some = torch.arange(0, len(test), 10)
    chosen = torch.randperm(len(frames), generator=generator)[: int(len(frames) * job["share"])]
    curve = learn(
        job | SETTINGS,
        checkpoint,
        network,
        generator,
        len(chosen),
        loss=lambda rows: loss(network.layers(frames.inputs(rows)), rows),
        score=lambda: right(network, test, some),
        rows=lambda _: chosen,
    )
    return network, {"curve": curve, "accuracy": right(network, test, torch.arange(len(test)))}


@torch.no_grad()
def right(network, frames, rows):
    """Return the share of some frames that a network gets right, in %."""
    logits = torch.cat([network.layers(frames.inputs(part)) for part in rows.split(8192)])
    return 100 * accuracy(logits, frames.states[rows])


def accuracy(logits, states):
    """Return the share of frames whose likeliest state is right."""
    return (logits.argmax(1) == states).float().mean().item()
