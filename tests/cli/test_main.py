"""The program as a whole."""

import subprocess
import sys

from typer.testing import CliRunner

from nvfp4.cli import app


def test_help_lists_the_commands():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("info", "bench", "demo", "evaluate", "selftest", "tune"):
        assert command in result.output


def test_python_m_nvfp4():
    result = subprocess.run([sys.executable, "-m", "nvfp4", "--help"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert "bench" in result.stdout


def test_no_command_shows_the_help():
    assert "info" in CliRunner().invoke(app, []).output


def test_the_commands_import_nothing_heavy():
    code = "import sys, nvfp4.cli; print([m for m in ('matplotlib', 'gguf', 'peft') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"
