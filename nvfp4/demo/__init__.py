"""The demo: a real Gemma-3 model with its MLP in NVFP4, what that costs in quality and gains in size and time.

Importing this room needs nothing but the package's own dependencies; `run_demo` needs the extra `demo`.
"""

from nvfp4.demo.files import DemoError
from nvfp4.demo.run import run_demo

__all__ = ["DemoError", "run_demo"]
