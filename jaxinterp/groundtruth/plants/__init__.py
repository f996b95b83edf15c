"""The plants; a new file here is found by itself."""
