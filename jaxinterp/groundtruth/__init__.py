"""Models whose responsible neurons are known, by construction or by training: what attribution methods are judged on."""
