"""What is asked of a model, and by which number its answer is judged."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.run import Tokens
from jaxinterp.models.running import read_position


class Answer(NamedTuple):
    """The tokens that tell a right answer from a wrong one."""

    right: int
    wrong: int | None

    def score(self, logits: Float[Array, "*B V"]) -> Float[Array, "*B"]:
        """logit(right) − logit(wrong); log P(right), in nats, if there is no wrong answer."""
        if self.wrong is None:
            return jax.nn.log_softmax(logits)[..., self.right]
        return logits[..., self.right] - logits[..., self.wrong]

    @property
    def unit(self) -> str:
        """What a score is, for people."""
        return "log P" if self.wrong is None else "logit difference"


def answer_of(model: LanguageModel, right: str, wrong: str | None) -> Answer:
    """Answers as tokens, each of one.

    Raises:
      UserError: if an answer has no token, or several, or both are the same.
    """
    tokens = [_token(model, text) for text in (right, *([] if wrong is None else [wrong]))]
    if len(set(tokens)) < len(tokens):
        raise UserError(f"right and wrong answer are the same token: {right!r} and {wrong!r}")
    return Answer(tokens[0], tokens[1] if wrong is not None else None)


def _token(model: LanguageModel, text: str) -> int:
    tokenizer = model.tokenizer
    ids = tokenizer.encode(text)
    if len(ids) > 1 and text.startswith(" "):
        # Some tokenizers put a space before every text, which is then the answer's own.
        bare = tokenizer.encode(text[1:])
        ids = bare if len(bare) == 1 and tokenizer.token(bare[0]) == text else ids
    if len(ids) != 1 or ids[0] == tokenizer.unk:
        pieces = ", ".join(repr(tokenizer.token(id)) for id in ids) or "none"
        raise UserError(f"an answer must be one token that the model knows; {text!r} has {len(ids)}: {pieces}")
    return int(ids[0])


def asked_position(model: LanguageModel, text: str, tokens: Tokens) -> int:
    """Where a text is read: at its last token, in a masked model at its mask.

    Raises:
      UserError: if a masked model's text has no mask, or several.
    """
    mask = model.tokenizer.mask
    if mask is not None and (n := tokens.ids.count(mask)) != 1:
        raise UserError(f"{text!r} must have {model.tokenizer.token(mask)} once, where it is read; it has it {n} times")
    return read_position(model.tokenizer, tokens.ids)


def two_texts(
    model: LanguageModel, one: str, other: str
) -> tuple[Int[np.ndarray, "2 T"], int, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Two texts of as many tokens, the position where both are read, and their tokens for people.

    Raises:
      UserError: if the texts cannot be encoded, have other numbers of tokens or masks, or are read at other positions.
    """
    read = [model.tokens(text, control_tokens=model.tokenizer.mask is not None) for text in (one, other)]
    if len(read[0]) != len(read[1]):
        raise UserError(
            f"both texts must have as many tokens, so that positions match; {one!r} has {len(read[0])}, and {other!r} "
            f"{len(read[1])}"
        )
    at = {asked_position(model, text, tokens) for text, tokens in zip((one, other), read, strict=True)}
    if len(at) > 1:
        raise UserError("both texts must have their mask at the same position")
    return np.array([tokens.ids for tokens in read], np.int32), at.pop(), (read[0].texts, read[1].texts)
