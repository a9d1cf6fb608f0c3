"""Teachers: the protocol, fingerprints, and one adapter per module."""

from softcache.teachers.adapter import Adapter, Description, OutputSpec
from softcache.teachers.causal_lm import CausalLMAdapter
from softcache.teachers.files import file_sha256
from softcache.teachers.protocol import Fingerprint, Sequences, Teacher
from softcache.teachers.registry import ADAPTERS, find_adapter
from softcache.teachers.torch_module import TorchAdapter

__all__ = [
    "ADAPTERS",
    "Adapter",
    "CausalLMAdapter",
    "Description",
    "Fingerprint",
    "OutputSpec",
    "Sequences",
    "Teacher",
    "TorchAdapter",
    "file_sha256",
    "find_adapter",
]
