"""Where published models come from."""
