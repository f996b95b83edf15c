"""Which mesh of devices is asked for: `--mesh data=2,fsdp=4` on a command line, or JAXINTERP_MESH; imports no JAX.

See `jaxinterp.models.mesh` for what the axes are.
"""

import os

from jaxinterp.base.errors import UserError, unknown

VARIABLE = "JAXINTERP_MESH"
AXES = ("data", "fsdp", "tensor")
AUTO, ONE = "auto", "one"


def asked_mesh() -> str:
    """What the command line or the environment asks for, else all devices."""
    return os.environ.get(VARIABLE) or AUTO


def parse_mesh(text: str) -> dict[str, int] | None:
    """ "data=2,fsdp=4" as sizes by axis, 1 where none is named; "one" is one device, and "auto" is None: all devices.

    Raises:
      UserError: if an axis is unknown or named twice, or a size is no whole number above 0.
    """
    if text == AUTO:
        return None
    sizes: dict[str, int] = {}
    for part in () if text == ONE else text.split(","):
        name, _, number = part.partition("=")
        if name not in AXES:
            raise unknown("axis of a mesh", name, (*AXES, AUTO, ONE))
        if name in sizes:
            raise UserError(f"the mesh {text!r} names {name} twice")
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise UserError(f"the mesh {text!r} must give whole numbers above 0, as in data=2,fsdp=4")
        sizes[name] = int(number)
    return {name: sizes.get(name, 1) for name in AXES}
