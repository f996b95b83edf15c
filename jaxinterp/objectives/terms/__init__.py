"""The terms of an objective, a file for each."""
