"""The golden cache of format version 1, and what its teacher said to the first four of its five samples."""

from pathlib import Path

import torch

V1 = Path(__file__).parent / "golden/v1"
VALUES = torch.tensor([[1.5, -2.0, 0.25], [0.0, 60.0, -60.0], [3.0, 3.0, 3.0], [-0.5, 8.0, 1e-3]])
