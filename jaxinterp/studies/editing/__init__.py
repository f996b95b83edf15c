"""What ways to edit do to a model: single edits, a batch, and one after the other."""
