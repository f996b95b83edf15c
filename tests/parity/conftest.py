"""Comparisons with PyTorch take torch and minutes: collected where JAXINTERP_PARITY is set, as `make parity` does."""

import os

collect_ignore_glob = [] if os.environ.get("JAXINTERP_PARITY") else ["test_*.py"]
