"""Devices as their makers' data sheets have them, for predictions of what nobody has run."""

from typing import NamedTuple


class Device(NamedTuple):
    """One device and its links to others of its kind."""

    name: str
    flops: float  # dense 16-bit operations a second, at most
    memory: float  # bytes
    bandwidth: float  # bytes a second between the device and its memory
    link: float  # bytes a second that a device sends, at most, to others of its island
    island: int  # devices that reach each other over such links
    network: float  # bytes a second that a device sends to other islands


# h100, h200: NVIDIA's data sheets of the H100 SXM and H200 SXM (dense bfloat16; NVLink 900 GB/s both ways together;
# 8 in a DGX or HGX, each with a 400 Gb/s adapter). v5p, v5e: Google Cloud's pages "TPU v5p" and "TPU v5e" (95 and
# 16 GB; links between chips of 1,200 and 400 GB/s both ways together, all of a pod's; data-centre network of 50 Gb/s
# a v5p chip and of 2 · 100 Gb/s a host of 8 v5e chips).
DEVICES = {
    "h100": Device("H100 SXM", 989e12, 80e9, 3.35e12, 450e9, 8, 50e9),
    "h200": Device("H200 SXM", 989e12, 141e9, 4.8e12, 450e9, 8, 50e9),
    "v5p": Device("TPU v5p", 459e12, 95e9, 2.765e12, 600e9, 8960, 6.25e9),
    "v5e": Device("TPU v5e", 197e12, 16e9, 0.8e12, 200e9, 256, 3.125e9),
}
# Of which nothing is known: round numbers, whose ratios are like those of the others.
OTHER = Device("unknown device", 100e12, 16e9, 1e12, 100e9, 8, 10e9)
# What `jax.Device.device_kind` calls them.
KINDS = {"H100": "h100", "H200": "h200", "TPU v5p": "v5p", "TPU v5": "v5p", "TPU v5 lite": "v5e", "TPU v5e": "v5e"}


def device_of(kind: str) -> Device | None:
    """The device that JAX names so; None if it is none of `DEVICES`."""
    for name in sorted(KINDS, key=len, reverse=True):
        if name in kind:
            return DEVICES[KINDS[name]]
    return None
