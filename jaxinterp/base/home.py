"""The folder of what is kept between calls, for one user, whatever folder a command runs in."""

import os
from pathlib import Path


def home() -> Path:
    """JAXINTERP_HOME if it is set, else jaxinterp in the user's cache: $XDG_CACHE_HOME, or ~/.cache."""
    if own := os.environ.get("JAXINTERP_HOME"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxinterp"
