"""`nvfp4 tune`: the kernels' candidates timed on this GPU, and the times kept for later runs."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["tune"]


def tune(
    shape: Annotated[
        list[str] | None, typer.Option(help="N,K of a weight; may be repeated. Default: Gemma-4-31B's MLP.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Numbers of tokens. Default: 512,1024,2048,4096,8192.")] = "",
    show: Annotated[bool, typer.Option("--show", help="Only show what is stored for this GPU, and where.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Only remove what is stored for this GPU.")] = False,
) -> None:
    """Time the candidates of SM120's matrix products on this GPU; processes that start later take the fastest ones."""
    import torch
    from rich.console import Console

    from nvfp4.backends import sm120_tuning
    from nvfp4.bench import cases, tuning

    if show and clear:
        raise ValueError("tune: got --show and --clear, wanted one of them")
    shapes = [cases.parse_shape(text) for text in shape or ()] or tuning.SHAPES
    sizes = cases.parse_tokens(tokens, "--tokens") if tokens else tuning.TOKENS
    if not (show or clear) or not torch.cuda.is_available():
        tuning.check_tunable()
    console, errors = Console(), Console(stderr=True)
    store = sm120_tuning.store(torch.cuda.current_device())
    path = store.key.path
    if clear:
        errors.print(f"removed {path}" if store.clear() else f"nothing to remove: there is no {path}", soft_wrap=True)
        return
    if show:
        measured = store.load()
        console.print(tuning.render(tuning.stored(measured)))
    else:
        with errors.status("") as status:
            results = tuning.run(shapes, sizes, progress=status.update)
        console.print(tuning.render(results))
        measured = tuning.measurements(results)
        if measured:
            store.add(measured)
    errors.print(f"problems stored: {len(measured)}, in {path}" if measured else "nothing is stored", soft_wrap=True)
