"""A tokenizer as transformers reads it: tokenizer.json with what stands around texts, and tokenizer_config.json."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, processors

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import write_json, write_text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.embedded_tokenizer import embedded
from jaxinterp.models.loading.hf_tokenizer import CONFIG, PUBLISHED, VOCABULARIES, folder_tokenizer
from jaxinterp.models.tokenizers import TextTokenizer

# All files of a published tokenizer.
FILES = (PUBLISHED, CONFIG, *dict.fromkeys(name for names in VOCABULARIES for name in names))
FILES += ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


def copied_tokenizer(model: LanguageModel, source: Path, folder: Path) -> bool:
    """Copies the files of a published tokenizer if they still are the model's, and says whether they are.

    They have names that a `TextTokenizer` does not keep, as that of the token that ends a text.
    """
    mine = model.tokenizer
    try:
        published = embedded(folder_tokenizer(source, masked=mine.mask is not None), model.config.d_vocab, source)
    except UserError:
        return False
    if (
        published.backend.to_str() != mine.backend.to_str()
        or dataclasses.replace(published, backend=mine.backend) != mine
    ):
        return False
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return True


def write_tokenizer(tokenizer: TextTokenizer, folder: Path, n_ctx: int) -> None:
    """Writes the two files; what transformers makes of a text by them is prefix + `encode(text)` + suffix.

    Args:
      tokenizer: any of ours, as all have a backend of the `tokenizers` library.
      folder: to write to.
      n_ctx: the model's context.
    Raises:
      UserError: if a file cannot be written.
    """
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    if tokenizer.prefix or tokenizer.suffix:
        frame = {"prefix": tokenizer.prefix, "suffix": tokenizer.suffix}
        pieces = [name if name != "text" else "$A" for name in ("prefix", "text", "suffix") if frame.get(name, True)]
        backend.post_processor = processors.TemplateProcessing(
            single=pieces,
            pair=[*pieces, *(("$B:1" if piece == "$A" else f"{piece}:1") for piece in pieces if piece != "prefix")],
            special_tokens=[_special(backend, name, ids) for name, ids in frame.items() if ids],
        )
    write_text(folder / PUBLISHED, backend.to_str(pretty=False))
    settings: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": n_ctx}
    settings |= {"clean_up_tokenization_spaces": False, **special_tokens(tokenizer)}
    if tokenizer.chat is not None:
        settings["chat_template"] = tokenizer.chat.template
    write_json(folder / CONFIG, settings)


def special_tokens(tokenizer: TextTokenizer) -> dict[str, str]:
    """Control tokens by the names that transformers has for them, as "bos_token".

    Only tokens that are control tokens already are named: a name would make one of an ordinary token.
    """
    masked = tokenizer.mask is not None
    ids: dict[str, int | None] = {"pad_token": tokenizer.pad, "unk_token": tokenizer.unk, "mask_token": tokenizer.mask}
    for name, frame, place in (("cls" if masked else "bos", tokenizer.prefix, 0), ("sep", tokenizer.suffix, -1)):
        ids[f"{name}_token"] = frame[place] if frame else None
    added = tokenizer.backend.get_added_tokens_decoder()
    found = {} if tokenizer.chat is None else dict(tokenizer.chat.tokens)
    return found | {name: added[id].content for name, id in ids.items() if id in added}


def _special(backend: Tokenizer, name: str, ids: Sequence[int]) -> dict[str, object]:
    return {"id": name, "ids": list(ids), "tokens": [backend.id_to_token(id) for id in ids]}
