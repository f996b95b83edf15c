"""Plain and suppressable models side by side."""
