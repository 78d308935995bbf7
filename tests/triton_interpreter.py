"""Where Triton's kernels are tested: on a GPU as they are, elsewhere by Triton's interpreter.

The interpreter has to be asked for before anything imports Triton, so without a GPU these tests run in a process of
their own (`test_triton_interpreted.py`).
"""

from __future__ import annotations

import os

import pytest
import torch

__all__ = ["DEVICE", "INTERPRETED", "MARKS", "numbers_as_bounds"]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

MARKS = [
    pytest.mark.skipif(
        DEVICE == "cpu" and not INTERPRETED,
        reason="no GPU; test_triton_interpreted.py runs this by Triton's interpreter",
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter's numpy divides by zero aloud
]


@pytest.fixture(autouse=True)
def numbers_as_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy 2 refuses an array of one number as a loop's bound, which is what Triton 3.6's interpreter makes of one."""
    if INTERPRETED:
        from triton.runtime import interpreter

        patch = interpreter._patch_lang_tensor

        def patched(tensor, scope):
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
