"""What adapters find in a model's folder: weights, settings, the kind of problem."""

import shutil
from pathlib import Path

import pytest

from softcache.errors import TeacherError
from softcache.teachers.onnx_model import _files
from softcache.teachers.pretrained import ModelSource, model_files


def test_external_weights_of_onnx(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("m.data", "deep/weights.bin", "other.bin"):
        (tmp_path / name).write_bytes(b"w")
    named = b"".join(b"\x0a\x08location\x12" + bytes([len(n)]) + n.encode() for n in ("m.data", "deep/weights.bin"))
    (tmp_path / "m[1].onnx").write_bytes(b"a graph that says other.bin" + named + b"and so on")
    found = [path.relative_to(tmp_path).as_posix() for path in _files(tmp_path / "m[1].onnx")]
    assert found == ["m[1].onnx", "deep/weights.bin", "m.data"]
    with pytest.raises(TeacherError, match=r"none\.onnx: No such file"):
        _files(tmp_path / "none.onnx")


def test_files_of_a_model_in_nested_folders(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "pooling/config.json", "training_args.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    source = ModelSource(str(tmp_path))
    assert len(model_files(source)[0]) == 1
    assert set(model_files(source)[1]) == {"config.json"}
    before = model_files(source, nested=True)
    (tmp_path / "pooling/config.json").write_text("{1}")
    assert model_files(source, nested=True)[1] != before[1]


def test_problem_types_of_transformers(tmp_path: Path) -> None:
    from transformers import BertConfig

    from softcache.teachers.transformers_model import TransformersAdapter

    adapter = TransformersAdapter(model="m", task="sequence_classification", column="x")
    problems = [
        ("regression", 1, "regression"),
        (None, 1, "regression"),
        ("multi_label_classification", 3, "multilabel"),
        (None, 3, None),
    ]
    for problem, labels, kind in problems:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        BertConfig(num_labels=labels, problem_type=problem).save_pretrained(tmp_path / "m")
        (tmp_path / "m/model.safetensors").write_bytes(b"")
        answer = adapter.describe(tmp_path).outputs["logits"]
        assert answer.kind == kind
        assert answer.classes == (None if kind == "regression" else labels)
    assert adapter.output_for("regression", "dense") == "logits"
