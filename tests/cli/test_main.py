"""The program as a whole."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import nvfp4
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


COMMANDS = [["-m", "nvfp4"], ["-mnvfp4"], ["-X", "utf8", "-m", "nvfp4"], ["{script}"]]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((command, "NVFP4_LOG") for command in COMMANDS),
        *((COMMANDS[0], name) for name in ("NVFP4_BACKEND", "NVFP4_NUM_THREADS", "NVFP4_CPU_ISA")),
    ],
)
def test_a_bad_variable_is_one_line_and_exit_code_2(command, name, tmp_path):
    """What pip makes of the console script is this file."""
    script = tmp_path / "nvfp4"
    script.write_text("from nvfp4.cli import main\nmain()\n")
    words = [sys.executable, *(word.format(script=script) for word in command), "info"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120, env={**os.environ, name: "unheard-of"})
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"nvfp4: error: {name}: ")
    assert result.stderr.count("\n") == 1


def test_a_program_of_the_same_name_keeps_its_exception(tmp_path):
    script = tmp_path / "nvfp4.py"
    script.write_text("try:\n    import nvfp4\nexcept ValueError as error:\n    print('caught', error)\n")
    result = subprocess.run(
        [sys.executable, "-P", script], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NVFP4_LOG": "unheard-of"},
    )  # fmt: skip
    assert result.returncode == 0
    assert result.stdout.startswith("caught NVFP4_LOG: ")


def test_the_version():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"nvfp4 {nvfp4.__version__}\n"


def test_no_command_shows_the_help():
    assert "info" in CliRunner().invoke(app, []).output


def test_the_commands_import_nothing_heavy():
    code = "import sys, nvfp4.cli; print([m for m in ('matplotlib', 'gguf', 'peft') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"
