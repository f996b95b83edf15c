"""The tokenizer of a folder in the layout of the Hugging Face hub."""

from pathlib import Path

from tokenizers import Tokenizer, models

from jaxinterp.errors import UserError
from jaxinterp.models.tokenizers import Chat, TextTokenizer, byte_alphabet, quiet_transformers

PUBLISHED = "tokenizer.json"
# Any of these sets is enough to build the tokenizer of a known family. From a folder without one, transformers makes a
# tokenizer with no vocabulary at all.
VOCABULARIES = (("vocab.txt",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
SAMPLES = ("a", "The 2 cats.")


def folder_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of a folder, with the tokens that its authors put around every text.

    A tokenizer.json is taken as it was published. AutoTokenizer, which would rebuild it for the class that
    tokenizer_config.json names, loses the steps that the class does not know (SmolLM2's splitting of digits, among
    them); it is asked only where a folder has the vocabulary alone.

    Raises:
      UserError: if the folder has no tokenizer, one that only Python code can run, or one that cannot be read.
    """
    if not (folder / PUBLISHED).is_file() and not any(
        all((folder / name).is_file() for name in names) for names in VOCABULARIES
    ):
        accepted = ", ".join([PUBLISHED, *(" with ".join(names) for names in VOCABULARIES)])
        raise UserError(f"{folder} has no tokenizer; one of these files is needed: {accepted}")
    transformers = quiet_transformers()
    published = (folder / PUBLISHED).is_file()
    loader = transformers.PreTrainedTokenizerFast if published else transformers.AutoTokenizer
    try:
        loaded = loader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes the two libraries raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the tokenizer in {folder} cannot be read: {reason[:300]}") from None
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"the tokenizer in {folder} has no fast version, only {type(loaded).__name__}; add a {PUBLISHED}"
        )
    prefix, suffix = _frame(loaded, folder)
    stand_ins = (loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id, 0)
    pad = next(id for id in stand_ins if id is not None)
    unk = _unknown(backend, loaded.unk_token_id, pad)
    # Some causal families declare a mask token, too, but only masked models close their texts with a token.
    return TextTokenizer(backend, prefix, suffix, pad, unk, loaded.mask_token_id if suffix else None, _chat(loaded))


def _chat(loaded) -> Chat | None:
    template = loaded.chat_template
    if isinstance(template, dict):  # several by name, for tools and the like
        template = template.get("default")
    names = {name: text for name, text in loaded.special_tokens_map.items() if isinstance(text, str)}
    return Chat(template, names) if isinstance(template, str) else None


def _frame(loaded, folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before and after every text, found on two samples; takes it out of the backend."""
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
        return declared
    vocabulary = backend.get_vocab()
    bytes_as_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if backend.model.byte_fallback else byte_alphabet()
    if all(token in vocabulary for token in bytes_as_tokens):
        return None
    unk = stand_in if declared is None else declared
    if backend.model.unk_token is None:
        backend.model.unk_token = backend.id_to_token(unk)
    return backend.token_to_id(backend.model.unk_token)
