"""The version of the code that decides a run's numbers, and the key of a run."""

import functools
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.digests import file_digest
from jaxinterp.base.plugins import plugins
from jaxinterp.base.provenance import DATA_PACKAGES
from jaxinterp.base.run_folder import CODE

# Of the package; the others only show numbers, and may change while a study runs.
FOLDERS = ("base", "attribution", "models", "facts", "objectives", "metrics", "training")
FILES = ("__init__.py", "studies/run_data.py")
FILES += tuple(f"studies/engine/{name}.py" for name in ("along", "together", "trained"))
MEASURING = ("scipy", "scikit-learn")  # packages that metrics are computed with
DIGITS = 16  # hexadecimal ones of a key and a version
X64 = "-x64"  # ending of the version where JAX computes in 64 bits, and all numbers are others
ROOT = Path(__file__).parents[2]


def code_version() -> str:
    """A digest of the source files that decide a run's numbers, plug-ins included, and of the versions of packages; and
    `X64` where JAX computes in 64 bits.
    """
    digest = _code_digest()  # first: a plug-in may import JAX, and set it
    return digest + X64 if _in_64_bits() else digest


def _in_64_bits() -> bool:
    """By JAX's config, or by the variable that JAX takes it from, where nothing has imported JAX."""
    if "jax" in sys.modules:
        return bool(sys.modules["jax"].config.jax_enable_x64)
    return os.environ.get("JAX_ENABLE_X64", "").lower() in ("1", "y", "yes", "t", "true", "on")


@functools.cache
def _code_digest() -> str:
    own = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    own += [ROOT / name for name in FILES]
    files = {path.relative_to(ROOT).as_posix(): file_digest(path) for path in own}
    files |= {module.__name__: file_digest(Path(module.__file__)) for module in plugins() if module.__file__}
    versions = {name: importlib.metadata.version(name) for name in (*CODE, *MEASURING, *DATA_PACKAGES)}
    return digest_of({"files": files, "versions": versions})


def digest_of(value: Mapping) -> str:
    """A short SHA-256 of JSON, whatever the order of its names."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
