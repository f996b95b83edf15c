"""Tokenizers trained on a corpus of facts, through the `tokenizers` library; imports no JAX."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jaxinterp.errors import UserError, unknown

BOS, PAD, UNK = "<bos>", "<pad>", "<unk>"
Kind = Literal["word", "bpe"]
KINDS = ("word", "bpe")


def train_tokenizer(corpus: Iterable[str], *, kind: Kind = "word", vocab_size: int = 32_768) -> Tokenizer:
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
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer saved at `path` (a tokenizer.json).

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no tokenizer at {path}; is this the folder of a model?") from None
    except Exception as error:  # the library raises bare Exception for anything it cannot parse
        raise UserError(f"the tokenizer at {path} cannot be read: {error}") from None
