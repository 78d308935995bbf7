"""The report: what it counts, and that it prints in words a user needs."""

from __future__ import annotations

import pytest
from torch import nn

from nvfp4 import quantize_model
from nvfp4.ptq import QuantizationReport, QuantizedModule
from nvfp4.ptq.report import human_bytes
from ptq.models import gemma3


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (20_800, "20.8 kB"), (5_460_000, "5.46 MB"),
     (41_600_000_000, "41.6 GB"), (2_000_000_000_000, "2 TB")],
)  # fmt: skip
def test_human_bytes(n, text) -> None:
    assert human_bytes(n) == text


def test_sizes(both) -> None:
    model = gemma3()
    before = sum(p.nbytes for p in model.parameters())
    report = quantize_model(model, progress=False)
    values = 2 * 3 * 64 * 96
    assert report.bytes_before == 2 * values
    assert report.bytes_after == values * 9 // 16 + 6 * 4
    assert report.model_bytes_before >= before
    saved = report.model_bytes_before - report.model_bytes_after
    # Tiles of 16 by 64 pad K = 96 to 128 in two down projections of 64 rows.
    assert saved == report.bytes_before - report.bytes_after - 2 * 64 * 32 * 9 // 16
    assert all(m.shape in ((96, 64), (64, 96)) for m in report.quantized)


def test_text() -> None:
    rows = tuple(
        QuantizedModule(f"layers.{i}.mlp.up_proj", (96, 64), "W4A4 static", "re:.*", 12288, 3460, "late" if i else "")
        for i in range(3)
    )
    report = QuantizationReport(rows, {"lm_head": "ignored by '[x]'", "a.0.q": "no target"}, ("re:.*w1",), 10**6, 10**5)
    text = str(report)
    for wanted in (
        "3 Linears quantised", "layers.*.mlp.up_proj", "96 x 64", "W4A4 static (late)", "12.3 kB", "3.46 kB",
        "2 Linears left as they were", "ignored by '[x]'", "a.*.q", "Targets that matched nothing: re:.*w1",
        "36.9 kB -> 10.4 kB", "1 MB -> 100 kB",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "\x1b" not in text


def test_names_are_whole_and_reasons_fold(monkeypatch, capsys) -> None:
    name = "language_model.a_module_with_a_name_that_is_far_too_long_for_eighty_columns.gate_proj"
    rows = (QuantizedModule(name, (96, 64), "W4A4 static", "re:.*", 12288, 3460, "no token reached it, " * 9),)
    report = QuantizationReport(rows, {f"{name}.other": "a reason in many words, " * 9}, (), 10**6, 10**5)
    lines = str(report).splitlines()
    assert any(f" {name} " in line for line in lines)
    assert any(f" {name}.other " in line for line in lines)
    assert max(map(len, lines)) < 200
    monkeypatch.setenv("COLUMNS", "80")
    quantize_model(nn.ModuleDict({name.replace(".", "_"): nn.Linear(16, 16)}), "all-linear")
    assert f" {name.replace('.', '_')} " in capsys.readouterr().out


def test_nothing_left_over() -> None:
    text = str(QuantizationReport((), {}, (), 0, 0))
    assert "left as they were" not in text
    assert "matched nothing" not in text
