"""A tiny causal model of any architecture with requests for it, shared by the tests of editing."""

import dataclasses
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
from small import WORDS, small_model

from jaxinterp.editing.answers import answer_tokens, old_answer
from jaxinterp.editing.covariance import key_covariances
from jaxinterp.editing.request import Request, request

PROMPT = "c {subject}"  # the subject is read last, where an edit of a random model can do most
TEXTS = [" ".join(random.Random(number).choices(WORDS.split(), k=7)) for number in range(60)]


def editable(name="gpt", **changes):
    """A model with more dimensions than tokens, so that there is a residual stream for which any of them wins, and that
    says nothing but words.
    """
    model = small_model(name, **{"d_model": 16, "d_mlp": 12, "size": 1.2, "seed": 1, **changes})
    table = "embedding" if model.config.tied else "unembedding"
    is_word = np.isin(np.arange(model.config.d_vocab), [model.tokenizer.encode(word)[0] for word in WORDS.split()])
    params = {**model.params, table: jnp.where(is_word[:, None], model.params[table], 0)}
    return dataclasses.replace(model, model=model.model.replace(params=params))


def requests_for(model, n=2, prompt=PROMPT) -> list[Request]:
    """Requests about the first subjects, each for an answer that the model does not give."""
    found = []
    for subject in WORDS.split()[:n]:
        asked = request(prompt, subject, " a")
        old = model.tokenizer.token(answer_tokens(old_answer(model, asked))[0])
        new = next(word for word in itertools.islice(itertools.cycle(WORDS.split()), n, None) if word != old)
        found.append(request(prompt, subject, f" {new}", f" {old}"))
    return found


def covariances(model, layers=(0, 1, 2), **more):
    return key_covariances(model, TEXTS, layers, **more)


def bits(model) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model.params)]
