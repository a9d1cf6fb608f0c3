"""One build after another: what is redone, what is kept, and when nothing is left to do."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from conftest import Workshop

from softcache.audit.status import status
from softcache.errors import (
    TransferSetError,
)


def test_answers_are_kept_when_a_later_sample_fails(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__((38, 0), 999))
    with pytest.raises(TransferSetError, match="38"):
        workshop.build()
    done = [json.loads(p.read_text())["target"] for p in (workshop.cache / "receipts").rglob("*.json")]
    assert done.count("cls@t") == 3


def test_a_split_changed_in_an_unfinished_build(workshop: Workshop) -> None:
    workshop.build()
    next((workshop.cache / "commits").rglob("*.json")).unlink()
    workshop.build("transfer_set.split=test")
    assert workshop.open().commit.splits == {"test": 40}
    assert workshop.open().rows.table()["split"].unique().to_pylist() == ["test"]


def test_two_recipes_in_turn_have_nothing_left_to_do(workshop: Workshop) -> None:
    done = []
    for _ in range(3):
        workshop.samples(20, ids=range(100, 120))
        done.append(workshop.build("transfer_set.split=val").up_to_date)
        workshop.samples(40)
        done.append(workshop.build().up_to_date)
    assert done == [False, False, True, True, True, True]
    assert workshop.open().commit.number == 2


def test_status_after_a_changed_sample(workshop: Workshop) -> None:
    workshop.build()
    workshop.samples(40, change=lambda x: x.__setitem__(3, 1.0))
    workshop.build()
    assert status(workshop.cache).complete


def test_status_of_a_planned_change(workshop: Workshop) -> None:
    workshop.build()
    workshop.samples(40, change=lambda x: x.__setitem__((3, 0), 999))
    with pytest.raises(TransferSetError):
        workshop.build()
    found = status(workshop.cache)
    assert not found.complete
    assert found.pending_fragments == 1


def test_a_dropped_target_can_be_built_with_another_dtype(workshop: Workshop) -> None:
    workshop.build("build.fragment_rows=100")
    workshop.samples(40, change=lambda x: x.__setitem__(3, 1.0))
    workshop.build("~tasks.feat")
    assert workshop.open().targets == ("cls@t",)
    workshop.build("tasks.feat.store.dtype=float32")
    assert workshop.open()["feat"].lookup([1]).values.dtype == torch.float32


def test_slices_of_a_split_beside_gaps(workshop: Workshop) -> None:
    workshop.samples(20, ids=range(100, 120))
    workshop.build("transfer_set.split=val", "~tasks.feat")
    workshop.samples(40)
    workshop.build()
    train = workshop.open().split("train")
    assert train["feat"].read(slice(None)).ids.tolist() == list(range(40))
    assert len(train["cls"].read(slice(0, 30))) == 10


def test_fragments_in_another_order_are_up_to_date(workshop: Workshop) -> None:
    """The transfer set has some fragments' samples in another order and lacks one fragment."""
    workshop.samples(40, ids=[f"s{i}" for i in range(40)])
    workshop.build()
    made = json.loads((workshop.folder / "samples.json").read_text())
    order = [*range(39, 19, -1), *range(10)]
    shuffled = {name: [made[name][i] for i in order] for name in ("id", "label")}
    shuffled["x"] = [v for i in order for v in made["x"][4 * i : 4 * i + 4]]
    (workshop.folder / "samples.json").write_text(json.dumps(shuffled))
    assert workshop.build().up_to_date
    assert isinstance(workshop.open().rows.table(), pa.Table)
    assert torch.is_tensor(workshop.open()["cls"].read([0]).values)
    with pytest.raises(TransferSetError, match="no column"):
        workshop.build("transfer_set.keep=[nothing]", "tasks.cls.label=null")
    assert Path(workshop.cache).exists()
