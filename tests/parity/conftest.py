"""Comparisons with PyTorch run where it is installed; JAXINTERP_PARITY=1 makes its absence an error."""

import importlib.util
import os

# Without torch there is nothing to collect, unless somebody asked for just that.
collect_ignore_glob = []
if importlib.util.find_spec("torch") is None and not os.environ.get("JAXINTERP_PARITY"):
    collect_ignore_glob = ["test_*.py"]
