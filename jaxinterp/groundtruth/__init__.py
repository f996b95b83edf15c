"""Models whose responsible neurons are known, by construction or by training: attribution methods are judged on them."""
