"""Tokenizers as transformers reads them: the same ids for the same texts, and the same tokenizer when read again."""

import dataclasses
import json

import pytest
from tiny import ARCHITECTURES, masked_tokenizer, tiny_config, tiny_params
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.export import export_model
from jaxinterp.models.loading.hf_tokenizer import folder_tokenizer
from jaxinterp.models.loading.hf_tokenizer_files import write_tokenizer
from jaxinterp.models.loading.load import load_pretrained
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.tokenizers import Chat, TextTokenizer, byte_alphabet

CORPUS = ["The capital of France is Paris.", "What's the city's name? É 東 x-y, ok!"]
TEXTS = [*CORPUS, " Paris  is  city's.", "wörds that no corpus has 東", "", "a"]
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{{ eos_token }}{% endfor %}"


def bytes_alone():
    """A published vocabulary in which no token has a role; that of padding falls to the first, an ordinary one."""
    backend = Tokenizer(models.BPE({token: id for id, token in enumerate(sorted(byte_alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return TextTokenizer(backend, (), (), 0, None)


BPE = train_tokenizer(CORPUS, kind="bpe", vocab_size=400)
TOKENIZERS = {
    "word": train_tokenizer(CORPUS),
    "bpe": BPE,
    "masked": masked_tokenizer(CORPUS),
    "bytes": bytes_alone(),
    "longer frame": dataclasses.replace(BPE, prefix=(1, 2), suffix=(2,)),
    "chat": dataclasses.replace(
        BPE, chat=Chat(TEMPLATE, {"bos_token": "<bos>", "eos_token": "<unk>", "pad_token": "<pad>"})
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_transformers_gives_the_same_ids(name, tmp_path):
    tokenizer = TOKENIZERS[name]
    before = tokenizer.backend.to_str()
    write_tokenizer(tokenizer, tmp_path, 64)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    peer = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert peer(text)["input_ids"] == [*tokenizer.prefix, *ids, *tokenizer.suffix]
        assert peer.decode(ids) == tokenizer.text(ids)
    again = folder_tokenizer(tmp_path, masked=tokenizer.mask is not None)
    assert again.backend.to_str() == tokenizer.backend.to_str() == before
    fields = {field.name: getattr(tokenizer, field.name) for field in dataclasses.fields(tokenizer)}
    names = [field for field in fields if field not in ("backend", "suffix" if name == "longer frame" else "")]
    assert {field: getattr(again, field) for field in names} == {field: fields[field] for field in names}
    assert peer.model_max_length == 64


def test_transformers_renders_the_same_conversation(tmp_path):
    write_tokenizer(TOKENIZERS["chat"], tmp_path, 64)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    assert peer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<bos>hi<unk>"


def test_two_texts_of_a_masked_model_have_a_frame_each(tmp_path):
    tokenizer = TOKENIZERS["masked"]
    write_tokenizer(tokenizer, tmp_path, 64)
    (start,), (end,), a, b = tokenizer.prefix, tokenizer.suffix, *tokenizer.encode("capital of")
    assert AutoTokenizer.from_pretrained(tmp_path)("capital", "of")["input_ids"] == [start, a, end, b, end]


def published(folder, backend):
    """A folder whose tokenizer names the token that ends a text, which a `TextTokenizer` does not keep."""
    config = tiny_config(d_vocab=backend.get_vocab_size())
    export_model(folder, LanguageModel(Model(config, tiny_params(config)), TOKENIZERS["word"], {}))
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<unk>", "pad_token": "<pad>"}')
    fields = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_files_of_a_published_tokenizer_are_copied_as_long_as_it_is_the_model_s(tmp_path):
    backend = Tokenizer.from_str(TOKENIZERS["word"].backend.to_str())
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    folder = published(tmp_path / "published", backend)
    model = load_pretrained(folder)
    export_model(tmp_path / "exported", model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "exported" / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["eos_token_id"] == 2
    other = dataclasses.replace(model, tokenizer=dataclasses.replace(model.tokenizer, prefix=()))
    export_model(tmp_path / "other", other)
    assert AutoTokenizer.from_pretrained(tmp_path / "other")("capital")["input_ids"] == model.tokenizer.encode(
        "capital"
    )
    assert json.loads((tmp_path / "other" / "config.json").read_text())["eos_token_id"] is None


def test_a_model_with_its_tokenizer_comes_back(tmp_path):
    tokenizer = TOKENIZERS["masked"]
    config = tiny_config(d_vocab=tokenizer.n_tokens, **ARCHITECTURES["bert"])
    model = LanguageModel(Model(config, tiny_params(config)), tokenizer, {})
    export_model(tmp_path / "exported", model)
    again = load_pretrained(tmp_path / "exported")
    assert again.digest() == model.digest()
    assert dataclasses.replace(again.tokenizer, backend=tokenizer.backend) == tokenizer
