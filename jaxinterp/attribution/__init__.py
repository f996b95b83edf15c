"""From any readout to its neurons."""
