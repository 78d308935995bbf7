"""`nvfp4 tune`: the kernels' candidates timed on this GPU, and the times kept for later runs."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["tune"]


def tune(
    shape: Annotated[
        list[str] | None, typer.Option(help="N,K of a weight; may be repeated. Default: Gemma-4-31B's MLP.")
    ] = None,
    tokens: Annotated[
        str, typer.Option(help="M values, such as 1,16,256. Default: 512 to 8192 for SM120, 1 to 8192 for Triton.")
    ] = "",
    show: Annotated[bool, typer.Option("--show", help="Only show what is stored for this GPU, or for any.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Only remove what is stored for this GPU.")] = False,
) -> None:
    """Time the candidates of SM120's or Triton's products on this GPU; processes that start later take the fastest."""
    import torch
    from rich.console import Console

    from nvfp4 import env
    from nvfp4.bench import cases, tuning
    from nvfp4.tables import show as show_table
    from nvfp4.tuning import stored_files

    if show and clear:
        raise ValueError("tune: got --show and --clear, wanted one of them")
    shapes = [cases.parse_shape(text) for text in shape or ()] or tuning.SHAPES
    sizes = cases.parse_tokens(tokens, "--tokens") if tokens else ()
    console, errors = Console(), Console(stderr=True)
    if (show or clear) and not torch.cuda.is_available():
        files = stored_files()
        for path, text in files.items():
            typer.echo(f"{path}: {text}")
        if clear and files:
            raise ValueError(
                "tune: --clear removes what is stored for the GPU here, and there is none; the files above are of "
                "others: remove them by hand"
            )
        if not files:
            errors.print(f"nothing is stored: no tuning file in {env.cache_dir()}", soft_wrap=True)
        return
    family = tuning.family()
    store = family.store(torch.cuda.current_device())
    path = store.key.path
    if clear:
        errors.print(f"removed {path}" if store.clear() else f"nothing to remove: there is no {path}", soft_wrap=True)
        return
    if show:
        measured = store.load()
        show_table(console, tuning.render(family, tuning.stored(family, measured)))
    else:
        with errors.status("") as status:
            results = tuning.run(family, shapes, sizes or family.tokens, progress=status.update)
        show_table(console, tuning.render(family, results))
        measured = tuning.measurements(results)
        if measured:
            store.add(measured)
    errors.print(f"problems stored: {len(measured)}, in {path}" if measured else "nothing is stored", soft_wrap=True)
