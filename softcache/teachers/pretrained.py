"""Models of the transformers library: their locations, files and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softcache.errors import MissingExtra, TeacherError
from softcache.teachers.files import file_sha256
from softcache.transfer.python import resolve

WEIGHTS = (".safetensors", ".bin", ".gguf")
CODE = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class ModelSource:
    """Where a model and its tokenizer are: a folder or a name on the Hub, and optionally a GGUF file in it."""

    model: str
    gguf: str | None = None
    revision: str | None = None

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for `from_pretrained`."""
        given = {"gguf_file": self.gguf, "revision": self.revision}
        return {name: value for name, value in given.items() if value is not None}


def model_source(folder: Path, model: str, gguf: str | None = None, revision: str | None = None) -> ModelSource:
    """Return the source of a model that a recipe in `folder` names: a folder, `package:NAME`, or a name on the Hub."""
    local = resolve(folder, model)
    return ModelSource(str(local) if local.is_dir() else model, gguf, revision)


def model_files(
    source: ModelSource, *, nested: bool = False, weightless: bool = False
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the SHA-256 of each of a model's weights files, and of its other files by name.

    With `nested`, files in inner folders count too. Raises TeacherError if the model has no weights, unless it may be
    `weightless`, as a folder with only a tokenizer is.
    """
    folder = _folder(source)
    if source.gguf:
        digest = file_sha256(folder / source.gguf)
        return (digest,), {source.gguf: digest} if weightless else {}
    found = sorted(path for path in (folder.rglob("*") if nested else folder.iterdir()) if path.is_file())
    weights = [path for path in found if path.suffix in WEIGHTS and not (path.suffix == ".bin" and _is_state(path))]
    if not weights and not weightless:
        raise TeacherError(f"{source.model}: no weights in it; expected a file that ends in {', '.join(WEIGHTS)}")
    others = {path.relative_to(folder).as_posix(): path for path in found if path.suffix in CODE}
    return tuple(map(file_sha256, weights)), {name: file_sha256(path) for name, path in others.items()}


def _is_state(path: Path) -> bool:
    """Return whether a `.bin` file is state that a trainer saved beside the weights."""
    return path.stem in ("training_args", "optimizer", "scheduler")


def load_tokenizer(source: ModelSource) -> Any:
    """Return a model's tokenizer. Raises MissingExtra without transformers, TeacherError if it cannot be loaded."""
    with loading(source, "its tokenizer"):
        return transformers().AutoTokenizer.from_pretrained(source.model, **source.options())


@contextmanager
def loading(source: ModelSource, what: str) -> Iterator[None]:
    """Raise TeacherError for what a library raises while it loads `what`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, AssertionError, KeyError) as e:
        raise TeacherError(f"{source.model}: cannot load {what}: {e}") from e


def transformers() -> Any:
    """Return the transformers library, without its progress bars and messages. Raises MissingExtra without it."""
    try:
        import transformers
    except ImportError as e:
        raise MissingExtra("this teacher needs transformers: pip install 'softcache[transformers]'") from e
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return transformers


def _folder(source: ModelSource) -> Path:
    """Return the folder with a model's files, downloaded if the model is a name on the Hub. Raises TeacherError."""
    if Path(source.model).is_dir():
        return Path(source.model)
    transformers()
    from huggingface_hub import snapshot_download

    patterns = [source.gguf] if source.gguf else [f"*{suffix}" for suffix in (*WEIGHTS, *CODE)]
    try:
        return Path(snapshot_download(source.model, revision=source.revision, allow_patterns=patterns))
    except Exception as e:
        raise TeacherError(f"{source.model}: not a local folder, and cannot be fetched from the Hub: {e}") from e
