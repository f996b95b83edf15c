"""The tokenizer of a folder in the layout of the Hugging Face hub."""

import importlib.util
import json
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer, models

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, refuse_pointer
from jaxinterp.models.chat import quiet_transformers
from jaxinterp.models.tokenizers import Chat, TextTokenizer, byte_alphabet

PUBLISHED = "tokenizer.json"
# Any of these sets is enough to build the tokenizer of a known family. From a folder without one, transformers makes a
# tokenizer with no vocabulary at all.
SENTENCEPIECE = ("tokenizer.model",)
VOCABULARIES = (("vocab.txt",), ("vocab.json", "merges.txt"), SENTENCEPIECE)
CONFIG = "tokenizer_config.json"
MASKS = ("[MASK]", "<mask>")  # in vocabularies of published masked models
SAMPLES = ("a", "The 2 cats.")


def folder_tokenizer(folder: Path, *, masked: bool = False) -> TextTokenizer:
    """The tokenizer of a folder, with the tokens that its authors put around every text.

    A tokenizer.json is taken as it was published. AutoTokenizer, which would rebuild it for the class that
    tokenizer_config.json names, loses the steps that the class does not know (SmolLM2's splitting of digits, among
    them); it is asked only where a folder has the vocabulary alone. Where tokenizer_config.json says that texts are
    prepared in another way than tokenizer.json does, implementations follow one or the other, and neither is followed.

    Args:
      folder: of the model.
      masked: whether the model is a masked language model, whose tokenizer has to have a mask. Some causal families
        declare a mask token, too; it is not used.
    Raises:
      UserError: if the folder has no tokenizer, one that only Python code can run, one that cannot be read or that
        contradicts itself, or no mask for a masked model.
    """
    if not (folder / PUBLISHED).is_file() and not any(
        all((folder / name).is_file() for name in names) for names in VOCABULARIES
    ):
        accepted = ", ".join([PUBLISHED, *(" with ".join(names) for names in VOCABULARIES)])
        raise UserError(f"{folder} has no tokenizer; one of these files is needed: {accepted}")
    for name in (PUBLISHED, CONFIG, *(name for names in VOCABULARIES for name in names)):
        if (folder / name).is_file():
            refuse_pointer(folder / name)
    has_another = any(
        (folder / names[0]).is_file() for names in ((PUBLISHED,), *VOCABULARIES) if names != SENTENCEPIECE
    )
    if not has_another and not _has_sentencepiece():
        raise UserError(
            f"{folder} has its tokenizer as {SENTENCEPIECE[0]} alone, which sentencepiece reads; run "
            f"`python -m pip install sentencepiece`, or put the model's {PUBLISHED} beside it"
        )
    transformers = quiet_transformers()
    published = (folder / PUBLISHED).is_file()
    loader = transformers.PreTrainedTokenizerFast if published else transformers.AutoTokenizer
    try:
        loaded = loader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return _of_library(loaded, folder, masked, has_another)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the two libraries raise, also when they are used
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the tokenizer in {folder} cannot be read: {reason}") from None


def _of_library(loaded, folder: Path, masked: bool, has_another: bool) -> TextTokenizer:
    """The tokenizer that transformers has made of a folder, which `has_another` file of it than sentencepiece's."""
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"the tokenizer in {folder} has no fast version, only {type(loaded).__name__}; add a {PUBLISHED}"
        )
    if (folder / PUBLISHED).is_file():
        _refuse_contradictions(folder, backend)
    elif not has_another:
        _refuse_other_pieces(folder, backend)
    prefix, suffix = _frame(loaded, folder)
    if masked and not suffix and backend.token_to_id("[SEP]") is not None:
        raise UserError(
            f"{folder / PUBLISHED} puts no [CLS] and [SEP] around texts, which a masked model expects; add them"
        )
    stand_ins = (loaded.pad_token_id, backend.token_to_id("[PAD]"), loaded.eos_token_id, loaded.bos_token_id, 0)
    pad = next(id for id in stand_ins if id is not None)
    unk = _unknown(backend, loaded.unk_token_id, pad)
    return TextTokenizer(
        backend, prefix, suffix, pad, unk, _mask(backend, loaded, folder) if masked else None, _chat(loaded)
    )


def _chat(loaded) -> Chat | None:
    template = loaded.chat_template
    if isinstance(template, dict):  # several by name, for tools and the like
        template = template.get("default")
    names = {name: text for name, text in loaded.special_tokens_map.items() if isinstance(text, str)}
    return Chat(template, names) if isinstance(template, str) else None


def _has_sentencepiece() -> bool:
    return importlib.util.find_spec("sentencepiece") is not None


def _refuse_other_pieces(folder: Path, backend: Tokenizer) -> None:
    """Raises if transformers has made something else of a vocabulary than sentencepiece does.

    Without the name of the right class in tokenizer_config.json it leaves out what stands before the first word.
    """
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE[0]))
    for text in (*SAMPLES, "One  or\n two"):
        if backend.encode(text, add_special_tokens=False).ids != reference.encode(text):
            raise UserError(
                f"{folder}: transformers splits {text!r} otherwise than sentencepiece does by {SENTENCEPIECE[0]}; name "
                f"the tokenizer_class in {CONFIG} (LlamaTokenizer), or put the model's {PUBLISHED} beside it"
            )


def _mask(backend: Tokenizer, loaded, folder: Path) -> int:
    """The mask that is declared or else, as published folders leave it to the class, the one of the vocabulary."""
    names = (loaded.mask_token, *MASKS)
    ids = [backend.token_to_id(name) for name in names if name is not None]
    mask = next((id for id in ids if id is not None), None)
    if mask is None:
        raise UserError(
            f"the model in {folder} is a masked language model, but its tokenizer has no mask: neither a mask_token in "
            f"{CONFIG} nor {' or '.join(MASKS)} in its vocabulary; name the token in {CONFIG}"
        )
    return mask


def _refuse_contradictions(folder: Path, backend: Tokenizer) -> None:
    """Raises if tokenizer_config.json says other things of how texts are prepared than tokenizer.json does."""
    if not (folder / CONFIG).is_file():
        return
    declared = read_json(folder / CONFIG)
    normalize = str if backend.normalizer is None else backend.normalizer.normalize_str
    done = {
        "do_lower_case": "A" not in normalize("A"),
        "strip_accents": "\u0301" not in unicodedata.normalize("NFD", normalize("é")),
        "tokenize_chinese_chars": "中中" not in normalize("中中"),
    }
    steps = [] if backend.pre_tokenizer is None else json.loads(backend.pre_tokenizer.__getstate__())
    steps = steps.get("pretokenizers", [steps]) if steps else []
    for step in steps:
        if step["type"] == "ByteLevel":
            done["add_prefix_space"] = step["add_prefix_space"]
    for name, value in done.items():
        if isinstance(declared.get(name), bool) and declared[name] != value:
            raise UserError(
                f"{folder / CONFIG}: {name} is {declared[name]}, but the steps of {PUBLISHED} do what {value} means; "
                "make the two agree with how the model was trained"
            )


def _frame(loaded, folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids before and after every text, read off two samples; the backend adds none afterwards."""
    whole = [loaded(text)["input_ids"] for text in SAMPLES]
    loaded.backend_tokenizer.post_processor = None
    frames = set()
    for text, framed in zip(SAMPLES, whole, strict=True):
        plain = loaded.backend_tokenizer.encode(text, add_special_tokens=False).ids
        starts = [start for start in range(len(framed)) if framed[start : start + len(plain)] == plain]
        if not plain or len(starts) != 1:
            raise UserError(f"the tokenizer in {folder} encodes {text!r} as {plain}, but within its frame as {framed}")
        frames.add((tuple(framed[: starts[0]]), tuple(framed[starts[0] + len(plain) :])))
    if len(frames) > 1:
        raise UserError(f"the tokenizer in {folder} puts different tokens around different texts")
    return frames.pop()


def _unknown(backend: Tokenizer, declared: int | None, stand_in: int) -> int | None:
    """The id for what the vocabulary lacks, None if it lacks nothing; without one BPE would leave things out."""
    if not isinstance(backend.model, models.BPE):
        # What the vocabulary lacks becomes the token that the model of the backend names, whatever is declared.
        named = getattr(backend.model, "unk_token", None)
        return declared if named is None else backend.token_to_id(named)
    vocabulary = backend.get_vocab()
    bytes_as_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if backend.model.byte_fallback else byte_alphabet()
    if all(token in vocabulary for token in bytes_as_tokens):
        return None
    unk = stand_in if declared is None else declared
    if backend.model.unk_token is None:
        backend.model.unk_token = backend.id_to_token(unk)
    return backend.token_to_id(backend.model.unk_token)
