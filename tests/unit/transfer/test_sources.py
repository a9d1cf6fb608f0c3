"""Transfer sets of every kind give the same samples, ids and content hashes."""

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softcache.builder.prepare.transfer_set import open_transfer_set
from softcache.errors import TransferSetError
from softcache.recipe import load_recipe
from softcache.teachers import find_adapter
from softcache.transfer import TransferSet, from_object
from softcache.transfer.python import recipe_modules

RECIPE = """
transfer_set:
  source: {source}
  id: {id}
  keep: [label]
teachers: {{t: {{model: "m:m", preprocess: "m:m", reads: [{reads}]}}}}
tasks: {{c: {{kind: classification, classes: 2, value_kind: logits, teachers: [t]}}}}
"""
TABLE = pa.table(
    {"id": [3, 1, 2], "x": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64())), "label": [0, 1, 0]}
)


def opened(folder: Path, source: str, *, id: str = "id", reads: str = "x") -> TransferSet:
    (folder / "recipe.yaml").write_text(RECIPE.format(source=source, id=id, reads=reads), encoding="utf-8")
    with recipe_modules(folder):
        return open_transfer_set(load_recipe(folder / "recipe.yaml", (), find_adapter))


@pytest.mark.parametrize(
    "kind", ["parquet", "arrow", "jsonl", "saved", "python table", "python dataset", "python columns"]
)
def test_same_samples(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    if kind == "parquet":
        pq.write_table(TABLE.slice(0, 2), tmp_path / "a-0.parquet")
        pq.write_table(TABLE.slice(2), tmp_path / "a-1.parquet")
        transfer_set = opened(tmp_path, '{type: files, paths: ["a-*.parquet"]}')
    elif kind == "arrow":
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as f, pa.ipc.new_stream(f, TABLE.schema) as writer:
            writer.write_table(TABLE)
        transfer_set = opened(tmp_path, "{type: files, paths: [a.arrow]}")
    elif kind == "jsonl":
        TABLE.to_pandas().to_json(tmp_path / "a.jsonl", orient="records", lines=True)
        transfer_set = opened(tmp_path, "{type: files, paths: [a.jsonl]}")
    elif kind == "saved":
        datasets.Dataset(TABLE).save_to_disk(tmp_path / "saved")
        transfer_set = opened(tmp_path, "{type: dataset, path: saved}")
    else:
        made = {
            "python table": "pa.table(D)",
            "python dataset": "datasets.Dataset.from_dict(D)",
            "python columns": "D",
        }[kind]
        code = f"import datasets, pyarrow as pa\nD = {TABLE.to_pydict()!r}\ndef make():\n    return {made}\n"
        (tmp_path / "mine.py").write_text(code)
        transfer_set = opened(tmp_path, '{type: python, callable: "mine:make"}')
    scan = transfer_set.scan()
    assert scan.sample_ids.to_pylist() == [3, 1, 2]
    expected = TransferSet(from_object(TABLE), "id", ("label",), ("x",)).scan()
    assert np.array_equal(scan.contents, expected.contents)
    assert np.array_equal(scan.kept, expected.kept)
    (sample,) = transfer_set.samples(np.array([2]), ["x", "label"])
    assert np.array_equal(sample["x"], [5.0, 6.0])
    assert sample["label"] == 0
    assert [s["x"][0] for s in transfer_set.samples(np.array([2, 0]), ["x"])] == [5.0, 1.0]


def test_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    (tmp_path / "a.csv").write_text("id,x,label\nü,1.5,0\nb,2.5,1\n", encoding="utf-8")
    transfer_set = opened(tmp_path, "{type: files, paths: [a.csv]}")
    assert transfer_set.scan().sample_ids.to_pylist() == ["ü", "b"]
    assert transfer_set.samples(np.array([1]), ["x"]) == [{"x": 2.5}]


def picture(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (4, 3), shade).save(data, "PNG")
    return data.getvalue()


def test_images(tmp_path: Path) -> None:
    for name, shade in (("cat/1.png", 10), ("dog/ü 2.PNG", 20), ("dog/note.txt", 0)):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(picture(shade))
    transfer_set = opened(tmp_path, "{type: images, folder: photos}", id="path", reads="image")
    scan = transfer_set.scan()
    assert scan.sample_ids.to_pylist() == ["cat/1.png", "dog/ü 2.PNG"]
    assert transfer_set.table(np.arange(2), ["label"])["label"].to_pylist() == ["cat", "dog"]
    image = transfer_set.samples(np.array([1]), ["image"])[0]["image"]
    assert image.size == (4, 3)
    assert image.getpixel((0, 0)) == 20
    same = datasets.Dataset.from_dict(
        {"image": [{"bytes": picture(10), "path": None}]}, features=datasets.Features(image=datasets.Image())
    )
    again = TransferSet(from_object(same), "content-hash", (), ("image",)).scan()
    assert np.array_equal(again.contents[0], scan.contents[0]), "the files' bytes count, not where they lie"


def test_image_datasets_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(7))
    data = datasets.Dataset.from_dict({"id": [1], "image": [str(tmp_path / "a.png")]}).cast_column(
        "image", datasets.Image()
    )
    transfer_set = TransferSet(from_object(data), "id", (), ("image",))
    assert transfer_set.samples(np.array([0]), ["image"])[0]["image"].getpixel((0, 0)) == 7


def test_limit() -> None:
    transfer_set = TransferSet(from_object(TABLE), "id", (), ("x",), limit=2)
    assert len(transfer_set) == 2
    assert transfer_set.scan().sample_ids.to_pylist() == [3, 1]


@pytest.mark.parametrize(
    "source",
    [
        "{type: files, paths: [absent.parquet]}",
        "{type: files, paths: [recipe.yaml]}",
        "{type: dataset, path: ./absent}",
        "{type: images, folder: absent}",
    ],
)
def test_absent(tmp_path: Path, source: str) -> None:
    with pytest.raises(TransferSetError):
        opened(tmp_path, source)


@pytest.mark.parametrize("made", [5, [1, 2], {"a": [1], "b": [1, 2]}, {"a": object()}])
def test_not_samples(made: object) -> None:
    with pytest.raises(TransferSetError):
        from_object(made)
