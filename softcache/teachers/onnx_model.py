"""Teachers that are ONNX models, run with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from softcache.errors import MissingExtra, TeacherError
from softcache.teachers.adapter import Description
from softcache.teachers.files import file_sha256
from softcache.teachers.inputs import Inputs, Prepared, Preprocessing
from softcache.teachers.protocol import Fingerprint, NoOutputLayer
from softcache.transfer.python import resolve

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxAdapter(Preprocessing):
    """An `.onnx` file. If it has external weights, they lie beside or below it.

    If the model has several inputs, `preprocess` returns a mapping by their names. The answers are the model's outputs
    by name, or what `postprocess` makes of them. `threads` is how many threads ONNX Runtime uses; with 0, the default,
    it decides.
    """

    adapter: Literal["onnx"] = "onnx"
    model: str
    threads: int = Field(default=0, ge=0)

    def describe(self, folder: Path) -> Description:
        _runtime()
        weights = tuple(file_sha256(file) for file in _files(resolve(folder, self.model)))
        return Description(
            Fingerprint("onnx", self.config(), weights, self.sources(folder)), libraries=("onnxruntime",)
        )

    def load(self, folder: Path, device: str) -> OnnxTeacher:
        runtime, path = _runtime(), resolve(folder, self.model)
        provider = PROVIDERS.get(torch.device(device).type)
        if provider not in runtime.get_available_providers():
            raise TeacherError(
                f"device {device!r} cannot be used: this ONNX Runtime has {runtime.get_available_providers()}"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        try:
            session = runtime.InferenceSession(str(path), options, providers=[provider])
        except Exception as e:
            raise TeacherError(f"{self.model}: ONNX Runtime cannot load it: {e}") from e
        return OnnxTeacher(session, self.prepared())


class OnnxTeacher(NoOutputLayer):
    """An ONNX Runtime session."""

    def __init__(self, session: Any, prepared: Prepared) -> None:
        self._session, self._prepared = session, prepared
        self._inputs = [given.name for given in session.get_inputs()]
        self._outputs = [output.name for output in session.get_outputs()]

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Inputs:
        """Return the preprocessed samples, stacked to [B, ...]."""
        return self._prepared.collate(samples)

    def predict(self, batch: Inputs) -> dict[str, Any]:
        """Return the model's outputs. Raises TeacherError unless `preprocess` gives exactly the model's inputs."""
        given = {self._inputs[0]: batch} if isinstance(batch, torch.Tensor) else batch
        if set(given) != set(self._inputs):
            raise TeacherError(f"preprocess gives {', '.join(given)}; the model takes {', '.join(self._inputs)}")
        found = self._session.run(self._outputs, {name: tensor.numpy() for name, tensor in given.items()})
        tensors = {name: torch.from_numpy(array) for name, array in zip(self._outputs, found, strict=True)}
        return self._prepared.answers(next(iter(tensors.values())) if len(tensors) == 1 else tensors)


def _files(model: Path) -> list[Path]:
    """Return a model's file and the files of its external weights. Raises TeacherError if the model cannot be read.

    The model names each of the weights files in an entry `location` of its protocol buffer.
    """
    try:
        data = model.read_bytes()
        beside = {path.relative_to(model.parent).as_posix(): path for path in model.parent.rglob("*") if path.is_file()}
    except OSError as e:
        raise TeacherError(f"{model}: {e.strerror}") from e
    return [model, *(path for name, path in sorted(beside.items()) if path != model and _location(name) in data)]


def _location(name: str) -> bytes:
    """Return the bytes that name a weights file in a model: a key (field 1), then the length and a value (field 2)."""
    value, size = name.encode(), b""
    left = len(value)
    while left > 127:
        size, left = size + bytes([left & 127 | 128]), left >> 7
    return b"\x0a\x08location\x12" + size + bytes([left]) + value


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingExtra("this teacher needs ONNX Runtime: pip install 'softcache[onnx]'") from e
    return onnxruntime
