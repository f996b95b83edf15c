"""Which parts of a model an answer passes through: patching, direct logit attribution, attribution of inputs."""
