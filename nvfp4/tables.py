"""Printing tables so that names in them can be copied."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.protocol import rich_cast
from rich.segment import Segments
from rich.table import Table

__all__ = ["show"]

_ANY_WIDTH = 1000


def show(console: Console, renderable: RenderableType) -> None:
    """Print as wide as the tables in it are, where the console is narrower than that.

    A console would break a module's name in two, and a pipe has no width but a console's default of 80 columns. Here a
    line that is too long is the terminal's to break, which copies it as one. Prose in a table has a column that folds.
    """
    cast = rich_cast(renderable)
    parts = cast.renderables if isinstance(cast, Group) else [cast]
    wide = console.options.update(max_width=_ANY_WIDTH)
    needed = [Measurement.get(console, wide, part).maximum for part in parts if isinstance(part, Table)]
    options = console.options.update(width=max([console.width, *needed]))
    console.print(Segments(console.render(cast, options)), crop=False, end="")
