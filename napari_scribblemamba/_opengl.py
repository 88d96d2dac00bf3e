"""Keeps two LLVMs apart: Mesa's OpenGL brings one, Triton another, and loading Triton after Mesa crashes the process.

Torch loads Triton by itself, with the first optimiser. Where a window is open on Mesa (a laptop, a remote desktop),
torch is told that there is none; then its compiler and our Triton kernel are not available, and nothing else changes.
"""

import logging
import sys
from pathlib import Path

log = logging.getLogger(__name__)
LIBRARIES = Path("/proc/self/maps")  # Linux lists what a process has loaded; Triton exists only there


def keep_triton_out() -> None:
    """Call before torch is used in a process that may have a window."""
    if "triton" in sys.modules or not LIBRARIES.exists() or "libLLVM" not in LIBRARIES.read_text():
        return
    sys.modules["triton"] = None  # from now on `import triton` is an ImportError
    log.info("Triton stays out: the window draws with Mesa, and the two cannot share a process")
