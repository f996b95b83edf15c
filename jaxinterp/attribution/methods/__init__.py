"""The ways to score neurons; a new file here is found by itself."""
