"""The demo from end to end on a tiny random Gemma-3, and the commands in front of it."""

import json
import struct
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import nvfp4
from nvfp4.demo import run as run_module
from nvfp4.demo.files import DemoError
from nvfp4.demo.model import load
from nvfp4.demo.run import run_demo
from nvfp4.demo.variants import as_bfloat16, nvfp4_modules, quantized_copy


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the lighthouse in the sea. a light in a house. " * 40, encoding="utf-8")
    return path


def _run(tiny_folder: Path, text: Path | None, out: Path, **options: int) -> dict:
    settings = {"windows": 2, "window_tokens": 40, "generate_tokens": 5} | options
    return run_demo(text, tiny_folder, out, console=Console(quiet=True), **settings)


def test_everything_promised_is_written(tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    results = _run(tiny_folder, text, out)
    assert sorted(path.name for path in out.iterdir()) == ["demo.json", "demo.png"]
    stored = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(results))
    for name in ("ppl_reference", "ppl_quantized", "kl_mean", "top1_agreement", "backend", "kernel_calls"):
        assert stored[name] is not None, name
    assert stored["positions"] == 80
    assert 0.0 < stored["kl_mean"] < 10.0
    assert stored["kernel_calls"] == stored["kernel_calls_expected"] == 2 * 3 * 2
    assert stored["backend"] in nvfp4.backends.BACKENDS
    assert stored["mlp_weight_bytes"]["float32"] == 2 * stored["mlp_weight_bytes"]["bfloat16"] == 2 * 3 * 64 * 96 * 4
    assert stored["mlp_weight_bytes"]["nvfp4"] < stored["mlp_weight_bytes"]["bfloat16"] / 2
    assert all(speed > 0 for speed in stored["decode_tokens_per_second"].values())
    assert set(stored["continuations"]) == set(stored["decode_tokens_per_second"])
    assert stored["layer_us"]["nvfp4"] > 0
    png = (out / "demo.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 1000
    assert height > 400


def test_the_reference_backend_gives_the_same_quality(tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    fast = _run(tiny_folder, text, tmp_path / "fast")
    with nvfp4.backends.force("reference"):
        slow = _run(tiny_folder, text, tmp_path / "slow")
    assert slow["backend"] == "reference"
    assert slow["kernel_calls"] == fast["kernel_calls"]
    assert slow["layer_us"]["nvfp4_kernel"] is None
    assert slow["kl_mean"] == pytest.approx(fast["kl_mean"], abs=1e-3)


def test_the_model_itself_is_not_touched(tiny_folder: Path) -> None:
    model = load(tiny_folder, print).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    candidate, report = quantized_copy(model, "gemma-mlp")
    half = as_bfloat16(model)
    quantized_half = as_bfloat16(candidate, half)
    assert not nvfp4_modules(model)
    assert len(nvfp4_modules(candidate)) == len(report.quantized) == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    embeddings = [m.get_input_embeddings().weight for m in (model, candidate, half, quantized_half)]
    assert embeddings[0] is embeddings[1], "what is not quantised is shared"
    assert embeddings[2] is embeddings[3]
    assert half.lm_head.weight is half.get_input_embeddings().weight
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    for name, module in nvfp4_modules(quantized_half).items():
        for tensor, other in zip(module.parameters(), candidate.get_submodule(name).parameters(), strict=True):
            assert tensor is other
    with torch.no_grad():
        assert quantized_half(torch.tensor([[2, 270, 271]])).logits.dtype == torch.bfloat16


def test_layers_that_are_bypassed_are_an_error(
    tiny_folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module.backends, "kernel_calls", lambda: {"cpu/avx2/linear/w4a4": 5})
    with pytest.raises(DemoError, match=r"ran 5 times .*wanted 12 = 6 layers x 2 forwards"):
        _run(tiny_folder, text, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupted_run_keeps_the_last_results(
    tiny_folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    out = tmp_path / "out"
    out.mkdir()
    for name in ("demo.json", "demo.png"):
        (out / name).write_text(f"last {name}")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupted(figure: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(tiny_folder, text, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_bad_arguments_end_before_any_work(tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="wanted at least 1"):
        _run(tiny_folder, text, tmp_path / "out", generate_tokens=0)
    with pytest.raises(DemoError, match="the results folder"):
        _run(tiny_folder, text, text / "out")
    with pytest.raises(DemoError, match="No such file"):
        _run(tiny_folder, tmp_path / "absent.txt", tmp_path / "out")
    with pytest.raises(DemoError, match=r"no config\.json"):
        _run(tmp_path, text, tmp_path / "out")


def test_the_demo_command(tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    from nvfp4.cli import app

    arguments = ["demo", "--text", str(text), "--model", str(tiny_folder), "--out", str(tmp_path / "out")]
    arguments += ["--windows", "1", "--window-tokens", "20", "--generate-tokens", "3"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})
    assert done.exit_code == 0, done.output
    assert "same top token" in done.output
    assert "6 = 6 layers x 1" in done.output
    assert (tmp_path / "out" / "demo.png").is_file()


def test_the_evaluate_command(tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    from nvfp4.cli import app

    arguments = ["evaluate", str(tiny_folder), str(tiny_folder), "--text", str(text)]
    arguments += ["--windows", "1", "--window-tokens", "20"]
    done = CliRunner().invoke(app, [*arguments, "--json", "--out", str(tmp_path / "figures.json")])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["kl_max"] == 0.0
    assert json.loads((tmp_path / "figures.json").read_text()) == figures

    done = CliRunner().invoke(app, [*arguments, "--recipe", "gemma-mlp"])
    assert done.exit_code == 0, done.output
    assert "kl_mean" in done.stdout
