"""Attribution methods on models whose neurons are known."""
