"""What `quantize_model` did: every Linear, counted by name pattern, with sizes and reasons. Prints through rich."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from nvfp4.ptq.plan import name_patterns
from nvfp4.tables import show

__all__ = ["QuantizationReport", "QuantizedModule", "human_bytes"]


_PROSE = 60  # columns of a terminal, at which reasons are folded; names never are


def human_bytes(n: int) -> str:
    """A size with three digits and its unit, in powers of 1000."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if n >= 1000**power:
            return f"{n / 1000**power:.3g} {unit}"
    return f"{n} B"


@dataclass(frozen=True)
class QuantizedModule:
    """One Linear that became an `NVFP4Linear`.

    Attributes:
        name: in the model.
        shape: (out_features, in_features).
        mode: ``W4A4 per token``, ``W4A4 static`` or ``W4A16``.
        target: the recipe's entry that took it.
        bytes_before: of weight and bias.
        bytes_after: of all its parameters, in the plain layout.
        note: why it differs from what was asked, or empty.
    """

    name: str
    shape: tuple[int, int]
    mode: str
    target: str
    bytes_before: int
    bytes_after: int
    note: str = ""


@dataclass(frozen=True)
class QuantizationReport:
    """The result of `quantize_model`.

    Attributes:
        quantized: in the model's order.
        skipped: reason by name, of every other Linear.
        idle_targets: targets of the recipe that matched no module.
        model_bytes_before: of all parameters and buffers, shared ones once.
        model_bytes_after: the same afterwards.
        fused: names of the MLPs that became a `GatedMLP`.
        unfused: reason by name, of the MLPs that were to be fused and could not.
    """

    quantized: tuple[QuantizedModule, ...]
    skipped: dict[str, str]
    idle_targets: tuple[str, ...]
    model_bytes_before: int
    model_bytes_after: int
    fused: tuple[str, ...] = ()
    unfused: dict[str, str] = field(default_factory=dict)

    @property
    def bytes_before(self) -> int:
        """Of the quantised Linears."""
        return sum(m.bytes_before for m in self.quantized)

    @property
    def bytes_after(self) -> int:
        """Of the modules that replaced them."""
        return sum(m.bytes_after for m in self.quantized)

    def __rich__(self) -> Group:
        """Two tables and a line of totals."""
        done = Table(
            title=f"NVFP4: {len(self.quantized)} Linears quantised",
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for header in ("module", "count", "shape", "format", "before", "after"):
            justify: JustifyMethod = "left" if header in ("module", "format") else "right"
            done.add_column(header, justify=justify, overflow="fold", max_width=_PROSE if header == "format" else None)
        rows: dict[tuple[str, str, str, str], list[QuantizedModule]] = {}
        for m in self.quantized:
            (pattern,) = name_patterns([m.name])
            rows.setdefault((pattern, f"{m.shape[0]} x {m.shape[1]}", m.mode, m.note), []).append(m)
        for (pattern, shape, mode, note), members in rows.items():
            before, after = sum(m.bytes_before for m in members), sum(m.bytes_after for m in members)
            label = f"{mode} ({note})" if note else mode
            done.add_row(Text(pattern), str(len(members)), shape, label, human_bytes(before), human_bytes(after))
        parts: list[Table | Text] = [done]
        if self.skipped:
            left = Table(
                title=f"{len(self.skipped)} Linears left as they were",
                title_justify="left",
                box=SIMPLE_HEAD,
                pad_edge=False,
                collapse_padding=True,
            )
            for header in ("module", "count", "why"):
                justify = "right" if header == "count" else "left"
                left.add_column(header, justify=justify, overflow="fold", max_width=_PROSE if header == "why" else None)
            counts = Counter((*name_patterns([name]), reason) for name, reason in self.skipped.items())
            for (pattern, reason), count in counts.items():
                left.add_row(Text(pattern), str(count), Text(reason))
            parts.append(left)
        if self.idle_targets:
            parts.append(Text(f"Targets that matched nothing: {', '.join(self.idle_targets)}"))
        for pattern, count in name_patterns(self.fused).items():
            parts.append(Text(f"Fused: {count} MLPs, {pattern}"))
        reasons = Counter((*name_patterns([name]), reason) for name, reason in self.unfused.items())
        for (pattern, reason), count in reasons.items():
            parts.append(Text(f"Not fused: {count} MLPs, {pattern}: {reason}"))
        parts.append(
            Text(
                f"Quantised Linears: {human_bytes(self.bytes_before)} -> {human_bytes(self.bytes_after)}; "
                f"model: {human_bytes(self.model_bytes_before)} -> {human_bytes(self.model_bytes_after)}"
            )
        )
        return Group(*parts)

    def __str__(self) -> str:
        """The same tables as plain text."""
        console = Console(width=120, color_system=None, force_terminal=False, no_color=True)
        with console.capture() as capture:
            show(console, self)
        return capture.get()
