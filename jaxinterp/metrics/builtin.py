"""The metrics that come with the package; importing this module registers them."""

from jaxinterp.metrics import ability, suppression

__all__ = ["ability", "suppression"]
