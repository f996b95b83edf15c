"""Tokenizers: the one class through which the code sees them; imports no JAX."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tokenizers import Tokenizer

from jaxinterp.base.errors import UserError

SPACE = "▁"  # how sentencepiece writes a space


@dataclasses.dataclass(frozen=True)
class Chat:
    """The form in which a model was taught to hold a conversation; see `jaxinterp.models.chat`."""

    template: str  # Jinja, as its authors published it
    tokens: Mapping[str, str]  # the control tokens that templates have names for, e.g. "bos_token": "<|im_start|>"


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and the frame that its model expects around a text: prefix + encode(text) + suffix, then padding.

    The backend belongs to this object: its truncation and padding are switched off, and special tokens that are spelled
    out in a text, as "<|im_end|>", are plain text to it unless they are asked for.
    """

    backend: Tokenizer  # encodes the text; its post-processor adds nothing
    prefix: tuple[int, ...]  # ids before every text: <bos>, [CLS] or nothing
    suffix: tuple[int, ...]  # ids after every text: [SEP]; none in causal models
    pad: int  # fills the right of shorter sequences; any token where the model has none for it
    unk: int | None  # stands for what the vocabulary lacks; None if any text can be encoded
    mask: int | None = None  # of a masked language model
    chat: Chat | None = None  # of a model that was taught to converse

    def __post_init__(self) -> None:
        frame = {"prefix": self.prefix, "suffix": self.suffix, "pad": (self.pad,)}
        frame |= {name: () if (id := getattr(self, name)) is None else (id,) for name in ("unk", "mask")}
        for name, ids in frame.items():
            for id in ids:
                if not 0 <= id < 1 << 32 or self.backend.id_to_token(id) is None:
                    raise UserError(f"the tokenizer's {name} is id {id}, which its vocabulary does not have")
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True

    @functools.cached_property
    def n_tokens(self) -> int:
        """The highest id plus one, added tokens included; a model's d_vocab may be larger, as many are padded."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    @functools.cached_property
    def special(self) -> frozenset[int]:
        """Ids of control tokens, which no text gives: <bos>, [SEP], <|im_end|>; not the one for unknown words.

        A single character is an ordinary token that is also used for something else, as "!" is for padding.
        """
        return frozenset(self._control) - {self.unk}

    def encode(self, text: str, *, control_tokens: bool = False) -> list[int]:
        """The ids of a text, without prefix and suffix.

        Args:
          text: plain, whatever it looks like.
          control_tokens: whether names of control tokens in it, as "<|im_end|>", mean those tokens.
        Raises:
          UserError: if the text is no valid Unicode, or gives a control token though none is asked for: a vocabulary of
            words has no other way to write "<bos>".
        """
        return self.encode_batch([text], control_tokens=control_tokens)[0]

    def encode_batch(self, texts: Sequence[str], *, control_tokens: bool = False) -> list[list[int]]:
        """`encode` of many texts, in parallel."""
        try:
            self.backend.encode_special_tokens = not control_tokens
            encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        except TypeError:
            bad = next(text for text in texts if not _is_unicode(text))
            raise UserError(f"{bad!r} has lone surrogates, which no tokenizer can encode; give valid Unicode") from None
        except Exception as error:  # the library raises bare Exception where a vocabulary lacks its own tokens
            raise UserError(f"the tokenizer cannot encode a text: {error}; its vocabulary may be damaged") from None
        finally:
            self.backend.encode_special_tokens = True
        ids = [encoding.ids for encoding in encodings]
        for text, ids_of_text in zip(texts, ids, strict=True):
            for id in () if control_tokens else self.special.intersection(ids_of_text):
                token = self.backend.id_to_token(id)
                raise UserError(f"{text!r} holds {token!r}, a control token of this tokenizer; reword the text")
        return ids

    def spelled_control_token(self, text: str) -> str | None:
        """The first control token that a text spells out, which it would not be: "<|im_end|>" is six tokens of text."""
        match = self._control_names.search(text)
        return match[0] if match else None

    @functools.cached_property
    def _control(self) -> dict[int, str]:
        added = self.backend.get_added_tokens_decoder()
        return {id: token.content for id, token in added.items() if token.special and len(token.content) > 1}

    @functools.cached_property
    def _control_names(self) -> re.Pattern:
        names = sorted(self._control.values(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")

    def token(self, id: int) -> str:
        """One token as a person reads it: " Paris" with its space, "##ing" as it stands.

        Bytes that are no character alone are written as "<0xE2>", and an id that only the model's padded vocabulary has
        as "<id 50300>".
        """
        piece = self.backend.id_to_token(id) if id >= 0 else None
        if piece is None:
            return f"<id {id}>"
        if self._spelling == "sentencepiece":
            byte = re.fullmatch("<0x([0-7][0-9A-F])>", piece)
            return chr(int(byte[1], 16)) if byte else piece.replace(SPACE, " ")
        if self._spelling == "bytes" and id not in self._added and all(letter in _BYTES for letter in piece):
            text = bytes(_BYTES[letter] for letter in piece).decode("utf-8", "surrogateescape")
            return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)
        return piece

    def text(self, ids: Iterable[int]) -> str:
        """The text of ids, control tokens included; the inverse of `encode`, up to what the tokenizer normalises.

        Raises:
          UserError: if the vocabulary lacks an id.
        """
        ids = [int(id) for id in ids]
        for id in ids:
            if id < 0 or self.backend.id_to_token(id) is None:
                raise UserError(f"id {id} is not in the tokenizer's vocabulary of {self.n_tokens} tokens")
        return self.backend.decode(ids, skip_special_tokens=False)

    def unknown_word(self, text: str) -> str | None:
        """The first piece of the text that the vocabulary lacks, None if it has all of it."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        if self.unk is None or self.unk not in encoding.ids:
            return None
        start, end = encoding.offsets[encoding.ids.index(self.unk)]
        return text[start:end]

    @functools.cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self.backend.get_added_tokens_decoder())

    @functools.cached_property
    def _spelling(self) -> Literal["bytes", "sentencepiece", "plain"]:
        """The spelling of pieces, which the decoder knows; a decoder shows its settings in its state alone."""
        decoder = self.backend.decoder
        settings = json.loads(decoder.__getstate__()) if decoder is not None else {}
        kinds = {part["type"] for part in settings.get("decoders", [settings]) if part}
        if "ByteLevel" in kinds:
            return "bytes"
        return "sentencepiece" if kinds & {"ByteFallback", "Metaspace"} else "plain"


def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes: printable ones as they are, others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = byte_alphabet()


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
