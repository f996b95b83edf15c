"""Every reader of files that users bring or runs leave, with small real files for it."""

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mutations import Gguf

Files = Mapping[str, bytes | Gguf]  # content by the path in a folder


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader, and files that it reads whole."""

    opened: Callable[[Path], object]  # the folder with the files -> what is in them
    cases: Sequence[Files]
    damaged: tuple[str, ...]  # files that get damaged, one at a time; those of them that a case has


def readers() -> dict[str, Callable[[], Reader]]:
    """What makes each reader, by its name in tables."""
    return {
        "run config (--config)": _run_config,
        "own model config": lambda: Reader(_model, [_own()], ("config.json",)),
        "own model's other JSON": lambda: Reader(_model, [_own()], ("frame.json", "provenance.json", "digests.json")),
        "own tokenizer.json": lambda: Reader(_tokenizer, [_own()], ("tokenizer.json", "frame.json")),
        "HF config.json": lambda: Reader(_parameters, [_published(config) for config in HF], ("config.json",)),
        "HF tokenizer": lambda: Reader(_hf_tokenizer, [_hf_tokenizer_files()], tuple(_hf_tokenizer_files())),
        "safetensors": lambda: Reader(_parameters, [_published(HF[0])], ("model.safetensors",)),
        "safetensors index": lambda: Reader(_parameters, [_sharded()], ("model.safetensors.index.json",)),
        "GGUF": lambda: Reader(_gguf, [{"model.gguf": _gguf_file()}], ("model.gguf",)),
        "GGUF tokenizer": lambda: Reader(
            _gguf_tokenizer, [{"model.gguf": Gguf(tuple(pairs), (), b"")} for pairs in TOKENIZERS], ("model.gguf",)
        ),
        "facts .csv": lambda: _facts({"facts.csv": _csv()}, "facts.csv"),
        "facts .jsonl": lambda: _facts({"facts.jsonl": _jsonl(ROWS)}, "facts.jsonl"),
        "facts of ParaRel": lambda: _facts(_pararel(), "", *_pararel()),
        "facts of LAMA": lambda: _facts(_lama(), "", *_lama()),
        "facts of CounterFact": lambda: _facts({"facts.json": json.dumps(_counterfact()).encode()}, "facts.json"),
        "logs": lambda: Reader(_log, [{"metrics.jsonl": _sealed(STEPS)}], ("metrics.jsonl",)),
        "records": lambda: Reader(_record, [{"done.jsonl": _sealed(DONE)}], ("done.jsonl",)),
        "config.json of a run": lambda: Reader(_claim, [_claimed()], ("config.json",)),
        "list of runs": lambda: Reader(_listed, [_claimed()], ("config.json", "metrics.jsonl")),
        "published figures": lambda: Reader(_figures, [{"published.json": _published_figures()}], ("published.json",)),
    }


# ------------------------------------------------------------------------------------------------- configs, models

SIZES = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
SIZES |= {"vocab_size": 13, "max_position_embeddings": 16}
LLAMA = SIZES | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "head_dim": 16}
LLAMA |= {"rms_norm_eps": 1e-5, "rope_theta": 100.0, "tie_word_embeddings": True}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0}
HF: list[dict] = [
    LLAMA,
    LLAMA | {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}, "max_position_embeddings": 64},
    LLAMA | {"rope_scaling": YARN, "max_position_embeddings": 64},
    {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "n_positions": 16}
    | {"n_embd": 8, "n_head": 2, "n_layer": 2, "vocab_size": 13, "layer_norm_epsilon": 1e-5, "n_inner": None},
    SIZES | {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_act": "gelu", "type_vocab_size": 2},
    SIZES
    | {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 3}
    | {"rope_local_base_freq": 10.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "num_hidden_layers": 3}
    | {"num_key_value_heads": 1, "head_dim": 6, "query_pre_attn_scalar": 5, "rms_norm_eps": 1e-6}
    | {"hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1000.0, "sliding_window": 3},
    {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "activation_function": "gelu_new"}
    | {"num_layers": 3, "hidden_size": 8, "num_heads": 2, "vocab_size": 13, "max_position_embeddings": 16}
    | {"attention_types": [[["global", "local", "local"], 1]], "window_size": 3, "layer_norm_epsilon": 1e-5},
    SIZES
    | {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "hidden_activation": "gelu"}
    | {"global_attn_every_n_layers": 3, "local_attention": 2, "global_rope_theta": 1000.0, "norm_eps": 1e-5}
    | {"local_rope_theta": 10.0, "num_hidden_layers": 4, "pad_token_id": 0},
]
WORDS = ["a b c d e f g"]


def _run_config() -> Reader:
    from jaxinterp.cli.main import COMMANDS
    from jaxinterp.cli.options import Given, configured
    from jaxinterp.training.config import TrainConfig

    whole = json.loads(json.dumps(dataclasses.asdict(TrainConfig(model={"d_model": "16"})), default=str))
    yaml = b"steps: 500\nbatch-size: 8\nmodel:\n  d_model: 64\ndata: {split: {n_unseen_relations: 2}}\nout: x\n"

    def opened(folder: Path) -> object:
        return [configured(COMMANDS, Given(["train"], [file])) for file in sorted(folder.iterdir())]

    return Reader(opened, [{"a.json": json.dumps(whole).encode()}, {"a.yaml": yaml}], ("a.json", "a.yaml"))


def _saved(save: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that something writes into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        save(Path(scratch))
        found = [path for path in sorted(Path(scratch).rglob("*")) if path.is_file()]
        return {path.relative_to(scratch).as_posix(): path.read_bytes() for path in found}


def _own() -> Files:
    """A model of ours, with every kind of field, without digests: what they would find is let through."""
    import jax

    from jaxinterp.models.config import ModelConfig, RopeScaling
    from jaxinterp.models.language_model import LanguageModel
    from jaxinterp.models.loading.bundle import save_model
    from jaxinterp.models.model import Model, parameter_shapes
    from jaxinterp.models.tokenizer_training import train_tokenizer

    tokenizer = train_tokenizer(WORDS)
    sizes = {"d_vocab": tokenizer.n_tokens, "n_ctx": 8, "n_layers": 2, "d_model": 8, "d_mlp": 6, "n_heads": 2}
    rotary = {"position": "rotary", "rope_scaling": RopeScaling("llama3", 4.0, original_n_ctx=16), "n_kv_heads": 2}
    config = ModelConfig(**sizes, **rotary, d_head=4, window=2, local_layers=(0,))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), parameter_shapes(config))
    model = LanguageModel(Model(config, params), tokenizer, {"seed": 0})
    files = _saved(lambda folder: save_model(folder / "model", model))
    found = {name.removeprefix("model/"): content for name, content in files.items()}
    del found["digests.json"]
    return found


def _stored(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.full(shape, 0.5, np.float32) for name, shape in tensors.items()})


def _tensors(config: Mapping) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a published config asks for."""
    from jaxinterp.models import parameters
    from jaxinterp.models.families.family import TensorFile
    from jaxinterp.models.families.fields import Fields
    from jaxinterp.models.families.registry import hf_family

    file = TensorFile()
    file.path, file.shapes = Path("x"), {}
    layout = hf_family(config, "x").hf
    own = layout.config(Fields(config, "x", aliases=layout.aliases), file)
    shapes = {path: of.shape[path.startswith("layers.") :] for path, of in parameters.transformer(own).items()}
    return {
        layout.prefix + name.format(layer): shape
        for path, source in layout.sources(own, shapes).items()
        for layer in range(own.n_layers if path.startswith("layers.") else 1)
        for name, shape in source.of_layer(layer).tensors
    }


def _published(config: Mapping) -> Files:
    return {"config.json": json.dumps(config).encode(), "model.safetensors": _stored(_tensors(config))}


def _sharded() -> Files:
    tensors = list(_tensors(LLAMA).items())
    parts = {f"model-0000{n + 1}-of-00002.safetensors": dict(tensors[n::2]) for n in range(2)}
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, of in parts.items() for name in of}}
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors.index.json": json.dumps(index).encode()}
    return files | {file: _stored(of) for file, of in parts.items()}


def _hf_tokenizer_files() -> Files:
    """A tokenizer of bytes, with a frame, as transformers writes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: id for id, token in enumerate(["<s>", *letters, "he", "in"])}
    backend = Tokenizer(models.BPE(words, [("h", "e"), ("i", "n")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.add_special_tokens(["<s>"])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>"}
    config |= {"add_prefix_space": False, "chat_template": "{{ messages[0].content }}", "model_max_length": 16}
    texts = {"tokenizer.json": backend.to_str(), "tokenizer_config.json": json.dumps(config)}
    named = {"bos_token": "<s>", "eos_token": {"content": "<s>", "lstrip": False}}
    texts["special_tokens_map.json"] = json.dumps(named)
    return {name: text.encode() for name, text in texts.items()}


_BYTES = [chr(33 + n) for n in range(94)]
_TOKENS = ["<end>", *_BYTES, "he", "in"]
TOKENIZERS: list[list[tuple[str, int, object]]] = [
    [
        ("tokenizer.ggml.model", 8, "gpt2"),
        ("tokenizer.ggml.pre", 8, "gpt-2"),
        ("tokenizer.ggml.tokens", 9, (8, _TOKENS)),
        ("tokenizer.ggml.token_type", 9, (5, [3] + [1] * (len(_TOKENS) - 1))),
        ("tokenizer.ggml.merges", 9, (8, ["h e", "i n"])),
        ("tokenizer.ggml.eos_token_id", 4, 0),
        ("tokenizer.ggml.add_bos_token", 7, False),
        ("tokenizer.chat_template", 8, "{{ messages[0].content }}"),
    ],
    [
        ("tokenizer.ggml.model", 8, "llama"),
        ("tokenizer.ggml.tokens", 9, (8, ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a"])),
        ("tokenizer.ggml.token_type", 9, (5, [2, 3, 3, 1, 1, 1, 1, 1])),
        ("tokenizer.ggml.scores", 9, (6, [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0])),
        ("tokenizer.ggml.unknown_token_id", 4, 0),
        ("tokenizer.ggml.bos_token_id", 4, 1),
        ("tokenizer.ggml.add_space_prefix", 7, True),
    ],
]


def _gguf_file() -> Gguf:
    from jaxinterp.models.families.llama import GGUF_NAMES

    n_layers, d_model, d_mlp = 2, 8, 12
    of_layer = {"w_q": (d_model, d_model), "w_k": (d_model, d_model), "w_v": (d_model, d_model)}
    of_layer |= {"w_o": (d_model, d_model), "w_gate": (d_mlp, d_model), "w_in": (d_mlp, d_model)}
    of_layer |= {"w_out": (d_model, d_mlp), "norm_attn.scale": (d_model,), "norm_mlp.scale": (d_model,)}
    shapes = {GGUF_NAMES["embedding"]: (len(_TOKENS), d_model), GGUF_NAMES["norm_final.scale"]: (d_model,)}
    shapes |= {
        GGUF_NAMES[f"layers.{name}"].format(layer): shape
        for layer in range(n_layers)
        for name, shape in of_layer.items()
    }
    tensors, offset = [], 0
    for name, shape in shapes.items():
        tensors.append((name, shape[::-1], 0, offset))
        offset += -(-4 * math.prod(shape) // 32) * 32
    pairs = [("general.architecture", 8, "llama"), ("general.alignment", 4, 32), ("llama.context_length", 4, 16)]
    pairs += [("llama.embedding_length", 4, d_model), ("llama.block_count", 4, n_layers), ("llama.vocab_size", 4, 97)]
    pairs += [("llama.feed_forward_length", 4, d_mlp), ("llama.attention.head_count", 4, 2)]
    pairs += [("llama.attention.layer_norm_rms_epsilon", 6, 1e-5), ("llama.rope.freq_base", 6, 100.0)]
    return Gguf((*pairs, *TOKENIZERS[0]), tuple(tensors), bytes(offset))


def _model(folder: Path) -> object:
    from jaxinterp.models.loading.bundle import load_model

    model = load_model(folder)
    return model.tokenizer.encode("a b")


def _parameters(folder: Path) -> object:
    from jaxinterp.models.loading.load import pretrained_parameters

    return pretrained_parameters(folder)


def _gguf(folder: Path) -> object:
    from jaxinterp.models.loading.load import load_pretrained

    return load_pretrained(folder / "model.gguf").tokenizer.encode("he")


def _tokenizer(folder: Path) -> object:
    from jaxinterp.models.loading.tokenizer_files import load_tokenizer

    return _used(load_tokenizer(folder / "tokenizer.json"))


def _hf_tokenizer(folder: Path) -> object:
    from jaxinterp.models.loading.hf_tokenizer import folder_tokenizer

    return _used(folder_tokenizer(folder))


def _gguf_tokenizer(folder: Path) -> object:
    from jaxinterp.models.loading.gguf_metadata import read_metadata
    from jaxinterp.models.loading.gguf_tokenizer import gguf_tokenizer

    path = folder / "model.gguf"
    return _used(gguf_tokenizer(read_metadata(path), path))


def _used(tokenizer) -> object:
    ids = tokenizer.encode("a he 東")
    return tokenizer.n_tokens, [tokenizer.token(id) for id in ids]


# ------------------------------------------------------------------------------------------------------------ facts

ROWS = [
    {"relation": name, "subject": f"s{n}", "answer": f"{name}{n % 3}", "prompt": f"the {name} of {{subject}} is"}
    for name in ("capital", "colour")
    for n in range(4)
]


def _facts(files: Files, place: str, *damaged: str) -> Reader:
    from jaxinterp.facts.source import load_facts

    def opened(folder: Path) -> object:
        facts = load_facts(str(folder / place))
        return facts.digest()

    return Reader(opened, [files], damaged or tuple(files))


def _csv() -> bytes:
    return "\n".join([",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]).encode()


def _jsonl(rows: Sequence[Mapping]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _pararel() -> Files:
    patterns = [{"pattern": "[X] is in [Y]."}, {"pattern": "The place of [X] is [Y]."}]
    facts = [{"sub_label": f"s{n}", "obj_label": f"o{n % 2}"} for n in range(4)]
    return {f"templates/{name}.jsonl": _jsonl(patterns) for name in ("P17", "P36")} | {
        f"facts/{name}.jsonl": _jsonl(facts) for name in ("P17", "P36")
    }


def _lama() -> Files:
    trex = [{"obj_label": f"o{n % 2}", "sub_label": f"s{n}", "predicate_id": "P36"} for n in range(4)]
    concept = [
        {"obj_label": "fly", "sub": f"bird{n}", "masked_sentences": [f"a bird{n} can [MASK] ."], "pred": "CapableOf"}
        for n in range(3)
    ]
    templates = [{"relation": "P36", "template": "The capital of [X] is [Y] ."}]
    return {"P36.jsonl": _jsonl(trex), "test.jsonl": _jsonl(concept), "relations.jsonl": _jsonl(templates)}


def _counterfact() -> list[dict]:
    return [
        {
            "case_id": n,
            "requested_rewrite": {
                "prompt": "The mother tongue of {} is",
                "relation_id": "P103",
                "subject": f"s{n}",
                "target_true": {"str": f"o{n % 2}", "id": "Q1"},
                "target_new": {"str": "x", "id": "Q2"},
            },
        }
        for n in range(3)
    ]


# ------------------------------------------------------------------------------------------------------------- runs

STEPS = [{"step": step, "lm": 2.5 / step, "begun": 1.0} for step in range(1, 6)]
DONE = [{"fact": fact, "scores": [0.25, 0.5]} for fact in range(4)]
CONFIG = {"steps": 4, "model": {"d_model": "16"}, "seed": 0}


def _sealed(lines: Sequence[Mapping]) -> bytes:
    from jaxinterp.base.lines import sealed

    return "".join(f"{sealed(line)}\n" for line in lines).encode()


def _claimed() -> Files:
    from jaxinterp.base.run_folder import claim

    return _saved(lambda folder: claim(CONFIG, folder, False, data={"facts": "x"})) | {"metrics.jsonl": _sealed(STEPS)}


def _published_figures() -> bytes:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "from": 0.3, "to": 0.7, "seeds": 4}
    models = {name: {"objective": {"suppressability": figure}} for name in ("plain", "suppressable")}
    return json.dumps({"seeds": 4, "models": models, "provenance": {"config": {"arm": "x"}}}).encode()


def _log(folder: Path) -> object:
    from jaxinterp.base.run_folder import truncate

    return truncate(folder / "metrics.jsonl", 4, complete=True)


def _record(folder: Path) -> object:
    from jaxinterp.base.records import Record

    return len(Record(folder / "done.jsonl"))


def _claim(folder: Path) -> object:
    from jaxinterp.base.records import claim_recorded
    from jaxinterp.base.run_folder import claim

    claim(CONFIG, folder, True, data={"facts": "x"})
    return claim_recorded(CONFIG, folder)


def _listed(folder: Path) -> object:
    from jaxinterp.training.runs import runs_in

    return [(run.state, run.done, run.last, run.begun, run.steps, run.faults()) for run in runs_in(folder)]


def _figures(folder: Path) -> object:
    from jaxinterp.base.files import read_json
    from jaxinterp.studies.suppressability.compare import single_seeds
    from jaxinterp.studies.suppressability.presets import PLAIN, SUPPRESSABLE

    return single_seeds(read_json(folder / "published.json"), {"plain": PLAIN, "suppressable": SUPPRESSABLE})


def laid_out(files: Files, folder: Path) -> None:
    """Writes the files anew into a folder that is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.written() if isinstance(content, Gguf) else content)
