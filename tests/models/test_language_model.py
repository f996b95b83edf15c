"""What a language model is known by."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from small import small_model

from jaxinterp.models import language_model
from jaxinterp.models.model import Model


def test_digest_is_of_the_parameters_and_nothing_is_read_twice(monkeypatch):
    model = small_model("gpt")

    def with_embedding(value):
        return dataclasses.replace(model, model=Model(model.config, {**model.params, "embedding": value}))

    embedding = np.array(model.params["embedding"])
    first = with_embedding(jnp.asarray(embedding)).digest()
    read = []
    original = language_model.array_digest
    monkeypatch.setattr(language_model, "array_digest", lambda array: read.append(array.shape) or original(array))
    changed = with_embedding(jnp.asarray(embedding).at[0, 0].add(1))
    assert changed.digest() != first == with_embedding(jnp.asarray(embedding)).digest()
    assert len(read) == 2  # the two embeddings; other parameters were seen before
    # Arrays of numpy may change.
    mutable = with_embedding(embedding)
    assert mutable.digest() == first
    embedding[0, 0] += 1
    assert mutable.digest() == changed.digest()
