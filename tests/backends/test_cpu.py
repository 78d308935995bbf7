"""The CPU backend's own side: the memory that a call leaves behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The rows are one and the same, so that only the quantised activations are large: 172 MB.
LARGE_CALL = """
import torch, nvfp4

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

weight = nvfp4.quantize(torch.randn(16, 1024))
x = torch.randn(1, 1024)
with nvfp4.backends.force("cpu"):
    want = nvfp4.linear(x, weight)
    before = resident()
    got = nvfp4.linear(x.expand(300_000, 1024), weight)
    assert torch.equal(got, want.expand(300_000, 16))
    del got
print((resident() - before) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_call_gives_its_memory_back() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_CALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64
