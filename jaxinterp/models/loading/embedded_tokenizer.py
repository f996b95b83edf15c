"""A tokenizer whose vocabulary is larger than the model's embedding."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.models.tokenizers import TextTokenizer


@dataclasses.dataclass(frozen=True)
class EmbeddedTokenizer(TextTokenizer):
    """A tokenizer that refuses texts whose tokens the model has no embedding for; others are encoded as ever."""

    n_rows: int = 0  # of the embedding

    def encode_batch(self, texts: Sequence[str], *, control_tokens: bool = False) -> list[list[int]]:
        """The ids of texts, as `TextTokenizer` gives them.

        Raises:
          UserError: as there, or if a text needs a token beyond the embedding.
        """
        ids = super().encode_batch(texts, control_tokens=control_tokens)
        for text, ids_of_text in zip(texts, ids, strict=True):
            for id in ids_of_text:
                if id >= self.n_rows:
                    raise UserError(
                        f"{text!r} needs the token {self.backend.id_to_token(id)!r} with id {id}, but the model's "
                        f"embedding has {self.n_rows} rows only; reword the text"
                    )
        return ids


def embedded(tokenizer: TextTokenizer, n_rows: int, where: Path) -> TextTokenizer:
    """The tokenizer of a model whose embedding has `n_rows` rows.

    Published vocabularies may have a token or two more than the embedding, as Gemma 3's have one for images. Padding is
    never looked at, so that another token may stand in for it.

    Raises:
      UserError: if a token that the tokenizer puts around every text, or the mask or the one for unknown words, has no
        row.
    """
    if tokenizer.n_tokens <= n_rows:
        return tokenizer
    frame = {"prefix": tokenizer.prefix, "suffix": tokenizer.suffix, "unk": (tokenizer.unk,), "mask": (tokenizer.mask,)}
    for name, ids in frame.items():
        for id in ids:
            if id is not None and id >= n_rows:
                raise UserError(f"{where}: the tokenizer's {name} is id {id}, but the embedding has {n_rows} rows only")
    fields = {field.name: getattr(tokenizer, field.name) for field in dataclasses.fields(TextTokenizer)}
    if tokenizer.pad >= n_rows:
        fields["pad"] = next((id for id in (*tokenizer.suffix, *tokenizer.prefix)), 0)
    return EmbeddedTokenizer(**fields, n_rows=n_rows)
