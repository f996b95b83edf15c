"""Small real files of models: ours, published ones, tokenizers, and GGUF."""

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from mutations import Gguf

Files = Mapping[str, bytes | Gguf]  # content by the path in a folder
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


def files_of(save: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that something writes into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        save(Path(scratch))
        found = [path for path in sorted(Path(scratch).rglob("*")) if path.is_file()]
        return {path.relative_to(scratch).as_posix(): path.read_bytes() for path in found}


def own_model(*, pinned: bool = False) -> Files:
    """A model of ours, with every kind of field; unless it is pinned, without digests, which would find all else."""
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
    files = files_of(lambda folder: save_model(folder / "model", model))
    found = {name.removeprefix("model/"): content for name, content in files.items()}
    return found if pinned else {name: content for name, content in found.items() if name != "digests.json"}


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


def published_model(config: Mapping) -> Files:
    """A folder as of the hub, without a tokenizer."""
    return {"config.json": json.dumps(config).encode(), "model.safetensors": _stored(_tensors(config))}


def sharded_model() -> Files:
    """The same with its weights in two files."""
    tensors = list(_tensors(LLAMA).items())
    parts = {f"model-0000{n + 1}-of-00002.safetensors": dict(tensors[n::2]) for n in range(2)}
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, of in parts.items() for name in of}}
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors.index.json": json.dumps(index).encode()}
    return files | {file: _stored(of) for file, of in parts.items()}


def hf_tokenizer_files() -> Files:
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


def gguf_file() -> Gguf:
    """A Llama with a tokenizer of bytes."""
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
