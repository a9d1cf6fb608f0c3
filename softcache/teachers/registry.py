"""The adapters, by name."""

from __future__ import annotations

import inspect

from softcache.errors import RecipeError
from softcache.teachers.adapter import Adapter
from softcache.teachers.causal_lm import CausalLMAdapter
from softcache.teachers.completions import CompletionsAdapter
from softcache.teachers.onnx_model import OnnxAdapter
from softcache.teachers.sentence_embedding import SentenceTransformersAdapter
from softcache.teachers.timm_model import TimmAdapter
from softcache.teachers.torch_export import TorchExportAdapter
from softcache.teachers.torch_module import TorchAdapter
from softcache.teachers.transformers_model import TransformersAdapter
from softcache.teachers.vllm_model import VllmAdapter
from softcache.transfer.python import load_callable

ADAPTERS: dict[str, type[Adapter]] = {
    "torch": TorchAdapter,
    "torch_export": TorchExportAdapter,
    "onnx": OnnxAdapter,
    "transformers": TransformersAdapter,
    "causal_lm": CausalLMAdapter,
    "completions": CompletionsAdapter,
    "sentence_transformers": SentenceTransformersAdapter,
    "timm": TimmAdapter,
    "vllm": VllmAdapter,
}


def find_adapter(name: str) -> type[Adapter]:
    """Return the adapter with this name, or for `module:Class` one of the user's own.

    Raises RecipeError if there is none, or if the class is not a complete adapter.
    """
    if name in ADAPTERS:
        return ADAPTERS[name]
    if ":" not in name:
        raise RecipeError(f"{name!r} is not an adapter; expected one of {', '.join(ADAPTERS)}, or module:Class")
    found = load_callable(name)
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise RecipeError(f"{name!r} is not a subclass of softcache.teachers.Adapter")
    if inspect.isabstract(found):
        raise RecipeError(f"{name!r} does not define {' and '.join(sorted(found.__abstractmethods__))}")
    return found
