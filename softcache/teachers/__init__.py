"""Teachers: the protocol, fingerprints, and one adapter a module."""

from softcache.teachers.protocol import Fingerprint, Sequences, Teacher
from softcache.teachers.torch_module import TorchTeacher

__all__ = ["Fingerprint", "Sequences", "Teacher", "TorchTeacher"]
