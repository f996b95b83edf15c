"""The lenses, one file for each kind; see `jaxinterp.memories.lens`."""
