"""Tokenizers of our own: a vocabulary made from a corpus."""

from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models.tokenizers import TextTokenizer

BOS, PAD, UNK = "<bos>", "<pad>", "<unk>"
Kind = Literal["word", "bpe"]
KINDS = ("word", "bpe")


def train_tokenizer(corpus: Iterable[str], *, kind: Kind = "word", vocab_size: int = 32_768) -> TextTokenizer:
    """A tokenizer for the corpus.

    Args:
      corpus: texts.
      kind: "word" splits at spaces and before a word's closing punctuation and 's, and knows the words of the corpus
        alone; "bpe" is byte-level byte-pair encoding, which can encode any text and splits rare words into several
        tokens.
      vocab_size: most tokens that are kept; a word tokenizer whose corpus has more words is an error.
    Raises:
      UserError: if the kind is unknown, or `vocab_size` does not hold the corpus's words.
    """
    special = [PAD, BOS, UNK]
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"'s(?=[.,:;?!]?$)|[.,:;?!]$"), "isolated")]
        )
        trainer = trainers.WordLevelTrainer(vocab_size=2**31 - 1, special_tokens=special, show_progress=False)
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        # Every word is preceded by a space, the first one too, so that a word is the same tokens wherever it stands.
        tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Prepend(" ")])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        raise unknown("tokenizer", kind, KINDS)
    tokenizer.train_from_iterator(corpus, trainer)
    if tokenizer.get_vocab_size() > vocab_size:
        hint = "raise it or use bpe" if kind == "word" else "raise it: bytes and special tokens alone take that many"
        raise UserError(f"{tokenizer.get_vocab_size()} tokens are needed, above vocab_size = {vocab_size}; {hint}")
    return framed(tokenizer)


def framed(backend: Tokenizer) -> TextTokenizer:
    """The frame of tokenizers that `train_tokenizer` makes, from the names of their tokens."""
    pad, bos, unk = (backend.token_to_id(token) for token in (PAD, BOS, UNK))
    if None in (pad, bos, unk):
        raise UserError(f"it has no frame.json beside it and lacks one of {PAD}, {BOS}, {UNK}")
    # Bytes can spell any word, so that <unk> stands for nothing in a byte-level vocabulary.
    return TextTokenizer(backend, (bos,), (), pad, unk if isinstance(backend.model, models.WordLevel) else None)
