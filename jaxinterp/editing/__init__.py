"""Editing: changes of a model's weights after which it gives other answers to some prompts."""
