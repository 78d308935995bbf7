"""Shared fixtures. Every test is seeded by its own name, so that a failure repeats alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

from nvfp4 import backends


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on each backend that serves the CPU."""
    with backends.force(request.param):
        yield request.param


@pytest.fixture
def both() -> Iterator[None]:
    """Nothing forced: what a user gets."""
    with backends.force(None):
        yield
