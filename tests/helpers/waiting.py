"""Wait for what happens in another process or thread."""

import time
from collections.abc import Callable
from typing import Any


def eventually(find: Callable[[], Any], *, patience: float) -> Any:
    """Return the first thing found that is true. Fails after so many seconds."""
    deadline = time.monotonic() + patience
    while not (found := find()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found
