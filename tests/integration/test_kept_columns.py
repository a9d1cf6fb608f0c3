"""The columns that a recipe keeps: complete, and the same in every build."""

import json

import pytest
from conftest import Workshop

from softcache.errors import (
    IncompatibleTarget,
    TransferSetError,
)


def test_nothing_kept_is_up_to_date(workshop: Workshop) -> None:
    workshop.build("transfer_set.keep=[]", "~tasks.cls.label")
    assert workshop.build("transfer_set.keep=[]", "~tasks.cls.label").up_to_date


@pytest.mark.parametrize("override", ["transfer_set.keep=[]", "transfer_set.keep=[label, x2]"])
def test_kept_columns_do_not_drift(workshop: Workshop, override: str) -> None:
    workshop.build("~tasks.cls.label")
    workshop.write(
        "data.py", (workshop.folder / "data.py").read_text().replace('"label"]}', '"label"], "x2": made["id"]}')
    )
    with pytest.raises(IncompatibleTarget, match=r"keep\.") as caught:
        workshop.build("~tasks.cls.label", override)
    assert "absent" in str(caught.value)
    assert workshop.open().commit.number == 1


def test_kept_types_do_not_drift(workshop: Workshop) -> None:
    workshop.build("~tasks.cls.label", limit=20)
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [str(label) for label in made["label"]]
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    with pytest.raises(IncompatibleTarget, match=r"keep\.label: int64 -> string"):
        workshop.build("~tasks.cls.label")


def test_nulls_inside_kept_columns(workshop: Workshop) -> None:
    code = (
        (workshop.folder / "data.py")
        .read_text()
        .replace('"label"]}', '"label"], "boxes": [[1, None]] * len(made["id"])}')
    )
    workshop.write("data.py", code)
    with pytest.raises(TransferSetError, match="'boxes' lacks values for samples 0, 1"):
        workshop.build("transfer_set.keep=[label, boxes]")
