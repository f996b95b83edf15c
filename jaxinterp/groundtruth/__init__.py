"""Models whose responsible neurons are known, by construction or by training, to judge attribution methods on."""
