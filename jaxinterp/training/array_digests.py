"""Digests of the arrays of a state, and one over all of them."""

import hashlib
from typing import Any

import jax
import numpy as np

from jaxinterp.base.digests import array_digest

CHECK = "check"  # name of the digest over all digests


class Damaged(Exception):
    """A checkpoint that is not what was saved."""


def named(tree: dict) -> dict[str, Any]:
    """The leaves of a tree by the words of their path."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def digests_of(tree: dict) -> dict[str, str]:
    """The digest of each array, with its dtype and shape."""
    return {name: array_digest(np.asarray(leaf)) for name, leaf in named(tree).items()}


def sealed(digests: dict[str, str]) -> dict[str, str]:
    """Digests with one over all of them."""
    whole = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return {**digests, CHECK: hashlib.sha256(whole.encode()).hexdigest()}


def opened(kept: dict[str, str]) -> dict[str, str]:
    """What was sealed; those of earlier versions have no digest over all of them."""
    digests = {name: digest for name, digest in kept.items() if name != CHECK}
    if CHECK in kept and kept != sealed(digests):
        raise Damaged("its digests are not what was saved")
    return digests


def first_bad(kept: dict[str, str], digests: dict[str, str]) -> str:
    """The first name whose digest is another one, or is on one side alone; "" if there is none."""
    return min((name for name in kept.keys() | digests.keys() if kept.get(name) != digests.get(name)), default="")
