"""The tokenizer that a GGUF file describes in its metadata, without transformers and torch."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models.tokenizers import SPACE, Chat, TextTokenizer, byte_alphabet

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
DIGITS_BY_THREE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS_ONE_BY_ONE = DIGITS_BY_THREE.replace("{1,3}", "")


@dataclasses.dataclass(frozen=True)
class Splitting:
    """The steps of a byte-level tokenizer before its merges, as the authors of the vocabulary published it."""

    words: str | None  # regular expression of a word; None is that of GPT-2
    digits_first: bool = False  # each digit is cut out before words are looked for
    nfc: bool = False  # Unicode is composed
    whole_words: bool = False  # a word in the vocabulary is one token, whatever the merges say
    add_bos: bool = False  # unless the file says otherwise


GPT2 = Splitting(None)
LLAMA3 = Splitting(DIGITS_BY_THREE, whole_words=True, add_bos=True)
QWEN2 = Splitting(DIGITS_ONE_BY_ONE, nfc=True)
# By the name in tokenizer.ggml.pre.
SPLITTINGS = {
    "gpt-2": GPT2,
    "olmo": Splitting(None, nfc=True),  # also the vocabulary of GPT-NeoX and Pythia
    "smollm": Splitting(None, digits_first=True),
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}


def gguf_tokenizer(fields: Mapping[str, object], where: object = "the GGUF file") -> TextTokenizer:
    """The tokenizer of a GGUF file.

    Two kinds are known: "gpt2", byte-level BPE with merges, and "llama", the BPE of sentencepiece, whose merges follow
    from the scores of its pieces. User-defined tokens are found in texts, control tokens are not.

    Args:
      fields: the file's metadata, as `read_metadata` gives it; of the keys that do not begin with "tokenizer.ggml."
        only "tokenizer.chat_template" is looked at.
      where: the file's name, for messages.
    Raises:
      UserError: if the kind of tokenizer or its way to split words is unknown, or a field is missing or does not fit
        the others.
    """
    vocabulary = _Vocabulary(_Fields(fields, where))
    template = fields.get("tokenizer.chat_template")
    chat = Chat(template, vocabulary.control_names()) if isinstance(template, str) else None
    return dataclasses.replace(vocabulary.tokenizer(), chat=chat)


class _Fields:
    """Metadata with types checked; a mistake names the file and the key."""

    def __init__(self, fields: Mapping[str, object], where: object) -> None:
        self.fields, self.where = fields, where

    def get(self, name: str, kind: type, default: object = None) -> object:
        value = self.fields.get(f"tokenizer.ggml.{name}")
        if value is None:
            return default
        if type(value) is not kind:
            raise self.error(f"tokenizer.ggml.{name} is a {type(value).__name__}, not a {kind.__name__}")
        return value

    def require(self, name: str, kind: type) -> object:
        value = self.get(name, kind)
        if value is None:
            raise self.error(f"tokenizer.ggml.{name} is missing; this file has no tokenizer that can be used")
        return value

    def error(self, message: str) -> UserError:
        return UserError(f"{self.where}: {message}")


class _Vocabulary:
    """Tokens with their types, and what both kinds of tokenizer do with them."""

    def __init__(self, fields: _Fields) -> None:
        self.fields = fields
        self.kind = fields.require("model", str)
        if self.kind not in ("gpt2", "llama"):
            raise unknown(f"kind of tokenizer in {fields.where}:", self.kind, ("gpt2", "llama"))
        self.tokens: list[str] = fields.require("tokens", list)
        self.ids = {token: id for id, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = collections.Counter(self.tokens).most_common(1)[0][0]
            raise fields.error(f"the token {twice!r} stands in the vocabulary twice")
        types = fields.get("token_type", np.ndarray, np.full(len(self.tokens), NORMAL))
        if types.shape != (len(self.tokens),):
            raise fields.error(f"there are {len(types)} token types for {len(self.tokens)} tokens")
        self.types: list[int] = types.tolist()
        for type_ in set(self.types) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE}:
            raise fields.error(f"token {self.types.index(type_)} has the type {type_}, which GGUF does not know")
        names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        self.special = {name: self.special_id(f"{key}_token_id") for name, key in names.items()}
        self.space_prefix = fields.get("add_space_prefix", bool, True)  # of sentencepiece: "▁" before every text

    def special_id(self, key: str) -> int | None:
        id = self.fields.get(key, int)
        if id is not None and not 0 <= id < len(self.tokens):
            raise self.fields.error(f"tokenizer.ggml.{key} is {id}, the vocabulary has {len(self.tokens)} tokens")
        return id

    def control_names(self) -> dict[str, str]:
        """The tokens that chat templates have names for."""
        return {f"{name}_token": self.tokens[id] for name, id in self.special.items() if id is not None}

    def tokenizer(self) -> TextTokenizer:
        if self.kind == "gpt2":
            backend, unk, add_bos = self.byte_level()
        else:
            backend, unk = self.sentencepiece()
            add_bos = True
        of_type = {type_: [] for type_ in (CONTROL, UNKNOWN, USER_DEFINED)}
        for token, type_ in zip(self.tokens, self.types, strict=True):
            if type_ in of_type:
                of_type[type_].append(token)
        control = [AddedToken(token, normalized=False, special=True) for token in of_type[CONTROL] + of_type[UNKNOWN]]
        backend.add_special_tokens(control)
        # Sentencepiece looks for them after spaces have become SPACE. They are normalised like the text, so that a
        # prefix would come before them, too: with one, they are looked for in the text as it is.
        normalized = self.kind == "llama" and not self.space_prefix
        backend.add_tokens([AddedToken(token, normalized=normalized) for token in of_type[USER_DEFINED]])
        return TextTokenizer(
            backend,
            prefix=self.framing("bos", add_bos),
            suffix=self.framing("eos", False),
            pad=self.stand_in("pad", "eos", "bos"),
            unk=unk,
        )

    def framing(self, name: str, default: bool) -> tuple[int, ...]:
        if not self.fields.get(f"add_{name}_token", bool, default):
            return ()
        if self.special[name] is None:
            raise self.fields.error(
                f"{name} is to be added to every text, but tokenizer.ggml.{name}_token_id is missing"
            )
        return (self.special[name],)

    def stand_in(self, *names: str) -> int:
        """The id of the first special token that the file has, or else the first token."""
        return next((self.special[name] for name in names if self.special[name] is not None), 0)

    def byte_level(self) -> tuple[Tokenizer, int | None, bool]:
        pre = self.fields.get("pre", str, "default")
        if pre not in SPLITTINGS:
            hint = "How texts are split is unknown; convert the model anew, or load it from safetensors"
            raise unknown(f"tokenizer.ggml.pre in {self.fields.where}:", pre, SPLITTINGS, hint)
        splitting = SPLITTINGS[pre]
        # A vocabulary may lack bytes that its corpus lacked; without a token for them they would vanish from the text.
        complete = all(character in self.ids for character in byte_alphabet())
        unk = None if complete else self.stand_in("unk", "eos", "bos")
        model = self.bpe(
            [self.merge(line) for line in self.fields.require("merges", list)],
            unk_token=None if unk is None else self.tokens[unk],
            ignore_merges=splitting.whole_words,
        )
        backend = Tokenizer(model)
        if splitting.nfc:
            backend.normalizer = normalizers.NFC()
        steps = [pre_tokenizers.Digits(individual_digits=True)] if splitting.digits_first else []
        if splitting.words is not None:
            steps.append(pre_tokenizers.Split(Regex(splitting.words), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitting.words is None))
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
        backend.decoder = decoders.ByteLevel()
        return backend, unk, splitting.add_bos

    def merge(self, line: str) -> tuple[str, str]:
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise self.fields.error(f"the merge {line!r} is not two tokens with a space between")
        return left, right

    def sentencepiece(self) -> tuple[Tokenizer, int | None]:
        if self.fields.get("remove_extra_whitespaces", bool, False):
            raise self.fields.error("tokenizer.ggml.remove_extra_whitespaces is set, which is not supported")
        scores = self.fields.require("scores", np.ndarray)
        if scores.shape != (len(self.tokens),) or not np.isfinite(scores).all():
            raise self.fields.error(f"the scores are not {len(self.tokens)} finite numbers, one a token")
        unk = self.special["unk"]
        if unk is None:
            raise self.fields.error("tokenizer.ggml.unknown_token_id is missing")
        complete = all(f"<0x{byte:02X}>" in self.ids for byte in range(256))
        unk_token = self.tokens[unk]
        model = self.bpe(self.scored_merges(scores), unk_token=unk_token, byte_fallback=True, fuse_unk=True)
        backend = Tokenizer(model)
        prefix = [normalizers.Prepend(SPACE)] if self.space_prefix else []
        backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
        strip = [decoders.Strip(" ", left=1)] if prefix else []
        backend.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
        return backend, None if complete else unk

    def scored_merges(self, scores: np.ndarray) -> list[tuple[str, str]]:
        """All ways to put a piece together from two others, best score first.

        Sentencepiece joins the neighbours whose joint piece has the best score; ways to one piece are of equal score,
        and stand in the order of their parts' ids.
        """
        ids = {token: id for id, token in enumerate(self.tokens) if self.types[id] == NORMAL}
        merges = []
        for index in np.argsort(-scores, kind="stable").tolist():
            piece = self.tokens[index]
            if self.types[index] != NORMAL or len(piece) == 1:
                continue
            ways = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            ways = [(left, right) for left, right in ways if left in ids and right in ids]
            if len(ways) > 1:
                ways.sort(key=lambda way: (ids[way[0]], ids[way[1]]))
            merges += ways
        return merges

    def bpe(self, merges: Sequence[tuple[str, str]], **options: object) -> models.BPE:
        try:
            return models.BPE(self.ids, merges, **options)
        except Exception as error:  # the library raises bare Exception, for a merge of tokens that do not exist
            raise self.fields.error(f"its merges do not fit its vocabulary: {error}") from None
