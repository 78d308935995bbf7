"""`nvfp4 info`: what is installed, what the machine has, which backend serves what, and whether kernels are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["info"]


def _lines(title: str, value: Any) -> list[str]:
    """One section: a mapping as `name value` lines, a list as its items, anything else as it is."""
    if isinstance(value, dict):
        width = max(map(len, value), default=0)
        body = [f"  {name:<{width}}  {_text(item)}" for name, item in value.items() if item != ""]
    elif isinstance(value, list):
        body = [f"  {_text(item)}" for item in value]
    else:
        body = [f"  {value}"]
    return ["", title, *body]


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _isa_text(isa: dict[str, Any]) -> str:
    state = "in use" if isa["in_use"] else "available" if isa["supported"] else "not supported by this CPU"
    return f"{isa['name']:<11} {state if isa['compiled'] else 'not compiled in'}"


def _variable_text(variable: dict[str, str]) -> str:
    return f"{variable['name']:<18} {variable['value'] or '(unset)':<16} {variable['doc']} Read {variable['read']}."


def _build_text(build: Any) -> Any:
    if not isinstance(build, dict):
        return build
    absent = {"cuda": "none: a library for the CPU alone"}
    return {name: value or absent.get(name, "none") for name, value in build.items()}


def _backend_lines(backends: list[dict[str, Any]]) -> list[str]:
    """Problems with the same answers follow each other, and the answers come once, after the last."""
    lines = []
    for found, following in zip(backends, [*backends[1:], None], strict=True):
        forced = "  (forced)" if found["forced"] else ""
        lines.append(f"  {found['problem']}: {found['choice'] or 'served by nobody'}{forced}")
        if following is not None and found["answers"] == following["answers"]:
            continue
        for answer in found["answers"]:
            mark = "->" if answer["backend"] == found["choice"] else "  "
            reply = "yes" if answer["supported"] else "no"
            lines.append(f"   {mark} {answer['backend']:<10} {reply:<4} {answer['reason']}")
    return lines


def _print(console: Console, report: dict[str, Any]) -> None:
    def each(name: str, text: Any) -> Any:
        """A list with every item as text; a probe that failed holds its reason, a string, instead of a list."""
        return [text(item) for item in report[name]] if isinstance(report[name], list) else report[name]

    lines = _lines("versions", report["versions"])
    lines += _lines("CPU", report["cpu"])
    lines += _lines("instruction sets of the CPU kernels", each("instruction_sets", _isa_text))
    lines += _lines("GPUs", report["gpus"])
    lines += _lines("compiled", _build_text(report["build"]))
    lines += _lines("OpenMP runtimes", report["openmp"])
    lines += _lines("environment", each("environment", _variable_text))
    lines += ["", "who serves what"]
    if isinstance(report["backends"], list):
        lines += _backend_lines(report["backends"])
    else:
        lines.append(f"  {report['backends']}")
    lines += _lines("tuned on this machine", report["tuning"])
    check = report["self_check"]
    verdict = "passed" if check["passed"] else f"FAILED: {check['difference']}"
    lines += ["", f"self-check ({', '.join(check['kernels']) or 'no kernel ran'}): {verdict}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def info(json: Annotated[bool, typer.Option("--json", help="As JSON, for a bug report.")] = False) -> None:
    """Show versions, CPU, GPUs, what was compiled, which backend serves what; exit code 1 if the self-check fails."""
    from rich.console import Console

    from nvfp4.cli.probes import collect

    report = collect()
    if json:
        import json as json_module

        typer.echo(json_module.dumps(report, indent=2))
    else:
        _print(Console(), report)
    if not report["self_check"]["passed"]:
        raise typer.Exit(1)
