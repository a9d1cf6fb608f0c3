"""What the networks hear: frames of 40 log-mel numbers, 10 ms apart."""

import numpy as np
import torch
from corpus import HOP, RATE

BANDS, LOWEST, HIGHEST, WINDOW, LONG = 40, 60.0, 10_000.0, 551, 1024  # hertz; samples: 25 ms, padded to LONG


def preprocess(sample):
    """Return the frames of a sample's sound, float32 [F, 40], with mean 0 in each band and one scale for all."""
    sound = torch.from_numpy(np.frombuffer(sample["sound"], np.int16).astype(np.float32)) / 2**15
    spectrum = torch.stft(sound, LONG, HOP, WINDOW, torch.hann_window(WINDOW), return_complex=True)
    bands = (FILTERS @ spectrum.abs().square() + 1e-6).log().T
    return (bands - bands.mean(0)) / bands.std()


def _filters():
    """Return the mel filters, triangles that overlap, float32 [40, LONG / 2 + 1]."""
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(LONG, 1 / RATE) / 700)
    edges = np.linspace(*(2595 * np.log10(1 + hertz / 700) for hertz in (LOWEST, HIGHEST)), BANDS + 2)
    rising, falling = (mel - edges[:-2, None]) / (edges[1] - edges[0]), (edges[2:, None] - mel) / (edges[1] - edges[0])
    return torch.from_numpy(np.minimum(rising, falling).clip(0).astype(np.float32))


FILTERS = _filters()
