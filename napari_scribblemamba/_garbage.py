"""Garbage: what stands is never any; collections of the oldest generation were the only long stalls of the window."""

import atexit
import gc


def spare() -> None:
    """Leave all that is there now out of collections, until python ends: then it goes like the rest, or libraries such
    as triton say that it leaked."""
    gc.freeze()
    atexit.register(gc.unfreeze)
