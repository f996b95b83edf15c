"""Ways to edit, one per file."""
