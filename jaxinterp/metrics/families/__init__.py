"""The metrics, a file for each family."""
