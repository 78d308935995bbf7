"""The README's Python runs, and its table of environment variables is the one in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nvfp4 import env

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_examples_run(index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # The README writes files.
    exec(compile(BLOCKS[index], f"README.md, Python block {index}", "exec"), {})


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 2


def test_environment_table() -> None:
    for v in env.VARIABLES:
        assert f"| `{v.name}` | {f'`{v.default}`' if v.default else 'unset'} | {v.read} | {v.doc} |" in README
