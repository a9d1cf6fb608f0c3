"""How far a codec's answers are from the values that it was given, at temperatures across its range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from softcache.codecs.codec import Codec
from softcache.codecs.logits import tempered
from softcache.codecs.temperature import temper_each
from softcache.errors import FormatError
from softcache.measures import MeasuredErrors

TEMPERATURES = (0.5, 0.55, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
WIDE = 60.0
SHARE = 256
NOISE = 2e-6
_CHUNK = 2**22

Extent = tuple[float | None, float | None]


@dataclass(frozen=True)
class Errors:
    """The errors of some rows (docs/format.md, section 6).

    Attributes:
        rows: how many rows were measured.
        wide: how many of all rows have logits further apart than 60 nats.
        at: by temperature and measure, the largest and the mean error. With p the teacher's distribution and q what
            `log_probs` answers, `tv` is half the sum of |p - q|, `kl` is KL(p || q) in nats (None where infinite), and
            `tail_mass` is the absolute error of the mass of the classes that are not stored (absent if all are). With
            sigmoid `tv` is the largest over the classes, and `kl` the sum over them.
    """

    rows: int
    wide: int
    at: dict[str, dict[str, Extent]]

    @property
    def worst(self) -> float:
        """The largest error over all temperatures: of the tail's mass, or of `tv` if all classes are stored."""
        found = [m.get("tail_mass", m["tv"])[0] for m in self.at.values()]
        return max((math.inf if e is None else e for e in found), default=0.0)

    def to_json(self) -> MeasuredErrors:
        """Return the errors as in statistics, rounded."""
        at = {t: {name: list(map(_rounded, extent)) for name, extent in found.items()} for t, found in self.at.items()}
        return {"rows": self.rows, "wide": self.wide, "at": at}

    @classmethod
    def from_json(cls, data: Any) -> Errors:
        """Read back `to_json`. Raises FormatError for anything else."""
        try:
            at = {
                str(t): {str(name): _read_extent(extent) for name, extent in found.items()}
                for t, found in data["at"].items()
            }
            if any("tv" not in found for found in at.values()):
                raise KeyError("tv")
            return cls(int(data["rows"]), int(data["wide"]), at)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise FormatError(f"not measured errors: {e!r}") from e


def _read_extent(data: Any) -> Extent:
    largest, mean = data
    return (None, None) if largest is None or mean is None else (float(largest), float(mean))


def wide_rows(values: torch.Tensor) -> torch.Tensor:
    """Return which rows of logits [B, C] have finite logits further apart than 60 nats: bool [B]."""
    low, high = torch.aminmax(values, dim=1)
    if bool((low == -torch.inf).any()):
        low = values.masked_fill(values == -torch.inf, torch.inf).amin(1)
    return high - low > WIDE


def measure(codec: Codec, values: torch.Tensor, columns: Mapping[str, torch.Tensor], wide: int = 0) -> Errors:
    """Return the errors of single items: `values` [N, ...] as the teacher gave them, `columns` as they were encoded.

    `wide` is the number of items, of all, whose logits are further apart than 60 nats.
    """
    at_once = max(_CHUNK // (math.prod(codec.task.shape) * len(TEMPERATURES)), 1)
    parts = []
    for begin in range(0, len(values), at_once):
        rows = slice(begin, begin + at_once)
        parts.append(_measure(codec, values[rows], {name: column[rows] for name, column in columns.items()}))
    return merge_errors([Errors(0, wide, {}), *parts])


def _measure(codec: Codec, values: torch.Tensor, columns: Mapping[str, torch.Tensor]) -> Errors:
    """Measure rows at all temperatures at once: each row is repeated for each temperature."""
    rows = torch.arange(len(values), device=values.device).repeat_interleave(len(TEMPERATURES))
    temperatures = torch.tensor(TEMPERATURES, device=values.device).repeat(len(values))
    columns = {name: column[rows] for name, column in columns.items()}
    logits = codec.logits(values)[rows]
    decoder = codec.decoder
    log_p = tempered(logits, codec.task, temperatures)
    log_q = decoder.log_probs(columns, temperatures)
    if codec.task.activation == "softmax":
        found = {"tv": (log_p.exp() - log_q.exp()).abs().sum(1) / 2, "kl": _kl(log_p, log_q).sum(1).clamp(min=0)}
    else:
        both = torch.stack([log_p, temper_each(-logits, temperatures)], -1)
        of_both = _kl(both, decoder.log_outcomes(columns, temperatures)).sum((1, 2))
        found = {"tv": (log_p.exp() - log_q.exp()).abs().amax(1), "kl": of_both.clamp(min=0)}
    sparse = decoder.sparse_log_probs(columns, temperatures)
    if sparse is not None and decoder.covers_all:
        tail = log_p.exp().scatter(1, sparse.ids, 0.0).sum(1)
        found["tail_mass"] = (sparse.log_tail.exp() - tail).abs()
    errors = {name: e.view(-1, len(TEMPERATURES)) for name, e in found.items()}
    extents = {name: (e.amax(0).tolist(), e.mean(0).tolist()) for name, e in errors.items()}
    at = {
        f"{t:g}": {name: _extent(largest[i], mean[i]) for name, (largest, mean) in extents.items()}
        for i, t in enumerate(TEMPERATURES)
    }
    return Errors(len(values), 0, at)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0)


def _extent(largest: float, mean: float) -> Extent:
    return (largest, mean) if math.isfinite(largest) else (None, None)


def _rounded(error: float | None) -> float | None:
    """Return an error without float32's noise, which differs between processors."""
    return None if error is None else float(f"{error:.3g}") if error >= NOISE else 0.0


def merge_errors(parts: Sequence[Errors]) -> Errors:
    """Return the errors of several sets of rows as one."""
    rows = sum(part.rows for part in parts)
    measured = [part for part in parts if part.rows]
    at: dict[str, dict[str, Extent]] = {}
    for temperature, found in measured[0].at.items() if measured else ():
        same = [part for part in measured if part.at.get(temperature, {}).keys() == found.keys()]
        at[temperature] = {name: _merge([(part.rows, part.at[temperature][name]) for part in same]) for name in found}
    return Errors(rows, sum(part.wide for part in parts), at)


def _merge(parts: Sequence[tuple[int, Extent]]) -> Extent:
    largest = [high for _, (high, _) in parts if high is not None]
    means = [rows * mean for rows, (_, mean) in parts if mean is not None]
    if len(means) < len(parts):
        return None, None
    return max(largest), sum(means) / sum(rows for rows, _ in parts)


def better_settings(codec: Codec, values: torch.Tensor, max_error: float) -> str:
    """Say which settings or codec would store the items `values` [N, ...] within `max_error`."""
    for other in codec.finer():
        if measure(other, values, other.encode(values)).worst <= max_error:
            wanted = ", ".join(f"{name}: {value}" for name, value in other.to_json().items() if name != "name")
            return f"store: {{codec: {other.name}, {wanted}}} would pass"
    return "no setting of this codec would pass; store: {codec: dense, dtype: float32} would"
