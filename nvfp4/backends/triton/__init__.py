"""The Triton backend: GPUs for which no kernel is compiled ahead of time."""

from nvfp4.backends.triton.backend import TritonBackend

__all__ = ["TritonBackend"]
