"""Bases for the shape of tails: of ruled-out classes, and with more components than a pilot has."""

import pytest
import torch

from softcache.codecs import TopkCodec
from softcache.codecs.basis import fit_basis
from softcache.codecs.fidelity import measure
from softcache.codecs.tables import GivenTable
from softcache.tasks import TaskSpec


def test_a_ruled_out_tail_has_no_shape() -> None:
    """With probabilities of exactly 0 nothing becomes NaN, and the measured error is 0."""
    task = TaskSpec("classification", (50,), "probs")
    probs = torch.eye(50)[:20]
    codec = TopkCodec(task, k=4, basis=3)
    codec = codec.with_table(GivenTable({"basis": fit_basis(codec.logits(probs), 3)}))
    found = codec.decoder.log_probs(codec.encode(probs), 1.0)
    assert not found.isnan().any()
    assert torch.allclose(found.exp(), probs)
    assert measure(codec, probs, codec.encode(probs)).worst == 0


@pytest.mark.parametrize("rank", [9, 12, 40])
def test_a_basis_larger_than_the_pilot_allows(rank: int) -> None:
    """Components that the pilot does not support are left out, because they would be rounding errors."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(400, 8, generator=generator) * 2
    pilot, rows = (torch.randn(n, 8, generator=generator) @ matrix.T for n in (256, 32))
    codec = TopkCodec(TaskSpec("classification", (400,), "logits"), k=4, basis=rank)
    codec = codec.with_table(GivenTable({"basis": fit_basis(pilot, rank)}))
    log_p = (rows.double() / 2).log_softmax(1)
    log_q = codec.decoder.log_probs(codec.encode(rows), 2.0).double()
    assert (log_p.exp() * (log_p - log_q)).sum(1).mean() < 1e-3


def test_autocast_changes_nothing() -> None:
    """A training step reads its soft targets under autocast."""
    logits = torch.randn(8, 50)
    codec = TopkCodec(TaskSpec("classification", (50,), "logits"), k=4, basis=3)
    codec = codec.with_table(GivenTable({"basis": fit_basis(logits, 3)}))
    columns = codec.encode(logits)
    expected = codec.decoder.log_probs(columns, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.decoder.log_probs(columns, 2.0), expected)
