"""Chat templates: from published files, kept when saved, rendered around a message."""

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_json
from jaxinterp.models.chat import chat_prompt
from jaxinterp.models.loading.gguf_tokenizer import gguf_tokenizer
from jaxinterp.models.loading.hf_tokenizer import folder_tokenizer
from jaxinterp.models.loading.tokenizer_files import load_tokenizer, save_tokenizer
from jaxinterp.models.tokenizers import Chat, byte_alphabet

BYTES = sorted(byte_alphabet())
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = Chat(TEMPLATE, {"bos_token": "<a>", "eos_token": "<end>"})


def published(folder, **config):
    backend = Tokenizer(models.BPE({piece: id for id, piece in enumerate(["<end>", "<a>", *BYTES])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>", "<a>"])
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<a>", "eos_token": "<end>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def metadata(template):
    fields = {"model": "gpt2", "pre": "gpt-2", "tokens": ["<end>", "<a>", *BYTES], "merges": []}
    fields |= {"bos_token_id": 1, "eos_token_id": 0, "token_type": np.array([3, 3, *[1] * len(BYTES)])}
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()} | {"tokenizer.chat_template": template}


def test_from_a_published_folder(tmp_path):
    assert folder_tokenizer(published(tmp_path)).chat is None
    assert folder_tokenizer(published(tmp_path, chat_template=TEMPLATE)).chat == CHAT
    several = [{"name": "tools", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    assert folder_tokenizer(published(tmp_path, chat_template=several)).chat == CHAT
    published(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    assert folder_tokenizer(tmp_path).chat == CHAT


def test_from_gguf_metadata():
    assert gguf_tokenizer(metadata(TEMPLATE)).chat == CHAT
    assert gguf_tokenizer(metadata(None)).chat is None


def test_kept_when_saved(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = gguf_tokenizer(metadata(TEMPLATE))
    save_tokenizer(tokenizer, path)
    assert load_tokenizer(path).chat == CHAT
    frame = read_json(tmp_path / "frame.json")
    for chat in ("x", {"template": 3, "tokens": {}}, {"template": "x", "tokens": {"a": 1}}, {"template": "x"}):
        write_json(tmp_path / "frame.json", {**frame, "chat": chat})
        with pytest.raises(UserError, match="chat must be an object of a template and its tokens"):
            load_tokenizer(path)
    save_tokenizer(dataclasses.replace(tokenizer, chat=None), path)
    assert "chat" not in read_json(tmp_path / "frame.json") and load_tokenizer(path).chat is None


def test_a_message_in_its_template():
    tokenizer = gguf_tokenizer(metadata(TEMPLATE))
    assert chat_prompt(tokenizer, " Hello? ") == "<a>[user]Hello?<end>[assistant]"
    with pytest.raises(UserError, match="spells out '<a>', a control token"):
        chat_prompt(tokenizer, "<a>")
    for template, words in (("{{ messages[", "cannot be rendered"), ("{{ raise_exception('no user') }}", "no user")):
        with pytest.raises(UserError, match=words):
            chat_prompt(gguf_tokenizer(metadata(template)), "x")
    # Templates are text from a file that anybody may have written: they run in a sandbox.
    with pytest.raises(UserError, match="cannot be rendered"):
        chat_prompt(gguf_tokenizer(metadata("{{ ''.__class__.__mro__[1].__subclasses__() }}")), "x")
    with pytest.raises(UserError, match="has no chat template"):
        chat_prompt(dataclasses.replace(tokenizer, chat=None), "x")
