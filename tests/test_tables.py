"""Tables keep the names in them whole, however narrow the console."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from nvfp4.tables import show

NAME = "model.language_model.layers.*.pre_feedforward_block.mlp.gate_proj"


def shown(renderable: object, width: int) -> str:
    file = io.StringIO()
    show(Console(file=file, width=width), renderable)
    return file.getvalue()


def table(**prose: object) -> Table:
    result = Table("module", "count")
    result.add_column("why", **prose)
    result.add_row(NAME, "48", "because " * 20)
    return result


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_name_is_never_broken(width: int) -> None:
    text = shown(table(max_width=30), width)
    assert NAME in text
    assert text.count("because") == 20
    assert all(len(line) == len(text.splitlines()[0]) for line in text.splitlines())


def test_what_is_no_table_is_wrapped_as_wide_as_the_tables_are() -> None:
    lines = shown(Group(table(max_width=30), Text("word " * 60)), 80).splitlines()
    assert sum(line.count("word") for line in lines) == 60
    assert max(map(len, lines)) > 100
    assert max(map(len, shown(Text("word " * 60), 80).splitlines())) <= 80


def test_whatever_casts_itself_is_shown() -> None:
    class Report:
        def __rich__(self) -> Table:
            return table(max_width=30)

    assert NAME in shown(Report(), 40)
    assert shown(Report(), 40).endswith("\n")
    assert not shown(Report(), 40).endswith("\n\n")
