"""Gaps between logits and class numbers as small integers (docs/format.md, section 11.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from softcache.codecs.columns import Column

NEAR_STEPS, FAR_STEPS = 1024, 32  # per nat
NEAR = 48
NEAR_CODES = NEAR * NEAR_STEPS
LAST_CODE, INFINITE_CODE, MISSING_CODE = 65_533, 65_534, 65_535
FARTHEST = NEAR + (LAST_CODE - NEAR_CODES) / FAR_STEPS
ID_BITS = 16


def encode_gaps(gaps: torch.Tensor, *, up: bool = False) -> torch.Tensor:
    """Return gaps >= 0 in nats (float32, any shape, also inf) as uint16 codes, rounded, or with `up` rounded up."""
    is_near = gaps <= NEAR
    steps = torch.where(is_near, gaps * NEAR_STEPS, (gaps - NEAR) * FAR_STEPS)
    # Round before adding the offset of far codes: a float32 sum would lose their fractions.
    codes = (steps.ceil() if up else steps.round()) + torch.where(is_near, 0, NEAR_CODES)
    codes = codes.clamp(max=LAST_CODE)
    return codes.masked_fill(gaps == torch.inf, INFINITE_CODE).to(torch.int32).to(torch.uint16)


def decode_gaps(codes: torch.Tensor) -> torch.Tensor:
    """Return the gaps of codes, float32 of the same shape, NaN in rows without an answer."""
    numbers = codes.to(torch.float32)
    gaps = torch.where(numbers <= NEAR_CODES, numbers / NEAR_STEPS, (numbers - NEAR_CODES) / FAR_STEPS + NEAR)
    gaps = gaps.masked_fill(numbers == INFINITE_CODE, torch.inf)
    return gaps.masked_fill_(numbers == MISSING_CODE, torch.nan)


def high_bits(classes: int) -> int:
    """Return how many bits a class number needs above the lowest 16."""
    return max((classes - 1).bit_length() - ID_BITS, 0)


def id_columns(ids: int, classes: int, name: str = "ids") -> list[Column]:
    """Return the columns for `ids` class numbers a row: their low 16 bits and, for many classes, the higher ones."""
    columns = [Column(name=name, dtype="uint16", shape=(ids,), missing=0xFFFF)]
    if high_bits(classes):
        planes = high_bits(classes) * -(-ids // 8)
        columns.append(Column(name=f"{name}_high", dtype="uint8", shape=(planes,), missing=0xFF))
    return columns


def pack_ids(ids: torch.Tensor, classes: int, name: str = "ids") -> dict[str, torch.Tensor]:
    """Return class numbers, int64 [B, k], as columns.

    `ids_high` holds one plane after the other. A plane has one bit of every id, the first id in the lowest bit of the
    first byte.
    """
    columns = {name: (ids & 0xFFFF).to(torch.int32).to(torch.uint16)}
    if high_bits(classes):
        padded = torch.nn.functional.pad(ids, (0, -ids.shape[1] % 8)).view(len(ids), -1, 8)
        places = torch.arange(8, device=ids.device)
        planes = [((padded >> (ID_BITS + bit) & 1) << places).sum(-1) for bit in range(high_bits(classes))]
        columns[f"{name}_high"] = torch.cat(planes, 1).to(torch.uint8)
    return columns


def read_ids(columns: Mapping[str, torch.Tensor], classes: int) -> torch.Tensor:
    """Return class numbers from columns, int64 [B, k], all below `classes`."""
    # Rows without an answer hold no class; clamp them, so that nothing indexes past the last class.
    return stored_ids(columns, classes).clamp_(max=classes - 1)


def id_contradictions(ids: torch.Tensor, classes: int) -> dict[str, torch.Tensor]:
    """Return where stored class numbers [B, k] are none of distinct classes, bool [B] by reason."""
    ordered = ids.sort(1).values
    return {
        f"a class number above {classes - 1:,}": (ids >= classes).any(1),
        "a class twice": (ordered[:, 1:] == ordered[:, :-1]).any(1),
    }


def stored_ids(columns: Mapping[str, torch.Tensor], classes: int, name: str = "ids") -> torch.Tensor:
    """Return class numbers as they are stored, int64 [B, k]."""
    ids = columns[name].to(torch.int64)
    bits = high_bits(classes)
    if bits:
        places = torch.arange(8, device=ids.device)
        ones = columns[f"{name}_high"].to(torch.int64).view(len(ids), bits, -(-ids.shape[1] // 8), 1) >> places & 1
        for bit, plane in enumerate(ones.flatten(2).unbind(1)):
            ids = ids | plane[:, : ids.shape[1]] << (ID_BITS + bit)
    return ids
