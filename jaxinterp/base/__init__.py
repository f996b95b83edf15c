"""Ground: what knows no model."""
