"""Charts, tables and the offline report."""
