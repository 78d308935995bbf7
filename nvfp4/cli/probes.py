"""What `nvfp4 info` reports: each probe by itself, so that one that fails states its reason and spoils no other."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nvfp4 import _C, backends, env, functional, reference
from nvfp4.bench import machine, tuning
from nvfp4.tuning import Store

__all__ = ["collect", "openmp_runtimes", "self_check"]

_PACKAGES = ("torch", "transformers", "triton", "numpy", "safetensors", "compressed-tensors")
_FEATURES = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_int8", "amx_bf16", "asimd", "asimddp", "fphp", "i8mm", "bf16", "sve",
)  # fmt: skip

# The worked example of docs/format.md: every tie, a block of zeros, an exact block, a block that underflows.
_ROWS = (
    (6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -6),
    (0.0,) * 16,
    (3, -3) * 8,
    (1e-6,) * 16,
)
_PACKED = "07224466a8caecfe" + "00" * 8 + "f7" * 8 + "00" * 8
_SCALES = "7e207620"
_GLOBAL_SCALE = 448.0


def _guarded(probe: Callable[[], Any]) -> Any:
    """A probe's answer, or why there is none."""
    try:
        return probe()
    except Exception as error:
        return f"unknown: {type(error).__name__}: {error}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _versions() -> dict[str, str]:
    own = {"nvfp4": _C.build_info()["version"], "commit": machine.commit() or "not a checkout"}
    return own | {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES}


def _cpu() -> dict[str, Any]:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    found = set(flags.group(1).split()) if flags else set()
    return {
        "model": machine.cpu_model(),
        "last_level_cache_MiB": machine.last_level_cache() >> 20,
        "features": [name for name in _FEATURES if name in found],
        "threads_kernels": env.num_threads() or torch.get_num_threads(),
        "threads_torch": torch.get_num_threads(),
    }


def _isas() -> list[dict[str, Any]]:
    used = _C.cpu.isa()
    return [
        {"name": name, "compiled": compiled, "supported": supported, "in_use": name == used}
        for name, compiled, supported in _C.cpu.isas()
    ]


def _gpus() -> list[str] | str:
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU alone"
        return f"torch sees none (this torch is {built})"
    return [
        f"{torch.cuda.get_device_name(i)}, compute capability {'.'.join(map(str, torch.cuda.get_device_capability(i)))}"
        for i in range(torch.cuda.device_count())
    ]


def openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """Files of the OpenMP runtimes this process has loaded; two of them would keep two spinning thread pools."""
    paths = (line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "/" in line)
    return sorted({path for path in paths if re.match(r"lib(gomp|iomp5|omp)\b", Path(path).name)})


def _openmp() -> dict[str, Any]:
    loaded = openmp_runtimes()
    warning = "more than one: their threads spin against each other" if len(loaded) > 1 else ""
    return {"loaded": loaded, "warning": warning}


def _environment() -> list[dict[str, str]]:
    return [{"name": v.name, "value": env.get(v.name), "read": v.read, "doc": v.doc} for v in env.VARIABLES]


def _descs(device: str) -> list[backends.Desc]:
    """Every op as it is used there: weights in the layout that `nvfp4.prepare` brings them into."""
    descs = []
    for op in backends.OPS:
        for activations in ("row", "static", "none") if op in ("linear", "gated_mlp") else ("row",):
            layout = _prepared(device, activations) if op in ("linear", "gated_mlp", "matmul", "tiles") else "plain"
            descs.append(backends.Desc(op, device, layout=layout, activations=activations))
    return descs


def _prepared(device: str, activations: str) -> str:
    choice = backends.explain(backends.Desc("linear", device, activations=activations)).choice
    return "plain" if choice is None else backends.BACKENDS[choice].weight_layout(activations)


def _backends() -> list[dict[str, Any]]:
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    answers = [backends.explain(desc) for device in devices for desc in _descs(device)]
    return [
        {
            "problem": str(found.desc),
            "choice": found.choice,
            "forced": found.forced,
            "answers": [{"backend": a.backend, "supported": a.supported, "reason": a.reason} for a in found.answers],
        }
        for found in answers
    ]


def _tuned(store: Store) -> str:
    try:
        count = len(store.load())
    except (OSError, ValueError) as error:
        return f"ignored: {error}"
    return f"problems: {count}, in {store.key.path}" if count else f"none: `nvfp4 tune` makes {store.key.path}"


def _tuning() -> dict[str, str] | str:
    """The tuning file of every GPU that has one."""
    try:
        family = tuning.family()
    except RuntimeError as error:
        return f"none: {str(error).removeprefix('tune: ')}"
    return {f"cuda:{index}": _tuned(family.store(index)) for index in range(torch.cuda.device_count())}


def _compare() -> str:
    weight = torch.tensor(_ROWS)
    got = functional.quantize(weight)
    packed = bytes(got.packed.flatten().tolist()).hex()
    scales = bytes(got.scale.view(torch.uint8).flatten().tolist()).hex()
    if (packed, scales, got.global_scale.item()) != (_PACKED, _SCALES, _GLOBAL_SCALE):
        return (
            f"quantize: got codes {packed}, scales {scales}, global scale {got.global_scale.item()}; "
            f"wanted {_PACKED}, {_SCALES}, {_GLOBAL_SCALE}"
        )
    # With K = 16 a sum has one term, so kernel and reference agree to the bit on any input.
    result = functional.linear(weight, got)
    wanted = reference.matmul(reference.quantize(weight, None, "row"), got, None, torch.float32)
    return "" if torch.equal(result, wanted) else f"linear: got {result.tolist()}, wanted {wanted.tolist()}"


def self_check() -> dict[str, Any]:
    """Quantise the worked example of docs/format.md and multiply it, on the CPU, and compare with the known bytes."""
    backends.reset_kernel_calls()
    difference = _guarded(_compare)
    return {"passed": not difference, "difference": difference, "kernels": sorted(backends.kernel_calls())}


def collect() -> dict[str, Any]:
    """Everything, as what JSON can hold."""
    probes: dict[str, Callable[[], Any]] = {
        "versions": _versions,
        "cpu": _cpu,
        "instruction_sets": _isas,
        "gpus": _gpus,
        "build": _C.build_info,
        "openmp": _openmp,
        "environment": _environment,
        "backends": _backends,
        "tuning": _tuning,
        "self_check": self_check,
    }
    return {name: _guarded(probe) for name, probe in probes.items()}
