"""The reference: transformers' PyTorch models, in float32 as they are and in float64 with their casts removed.

Whatever the dtype of a model, transformers computes norms, rotary angles and softmax in float32. For comparisons in
float64 `arithmetic` replaces `torch`, as the modeling modules see it, by one whose float32 is float64, and
`Tensor.float` by `Tensor.double`; models are built inside it too, as rotary frequencies are.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import published
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel


class _Wider(ModuleType):
    """`torch`, whose float32 is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextlib.contextmanager
def arithmetic(dtype: str) -> Iterator[None]:
    """The dtype of everything that is computed inside."""
    if dtype == "float32":
        yield
        return
    prefixes = ("transformers.models.", "transformers.modeling_rope_utils", "transformers.integrations")
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(prefixes)]
    replaced = [module for module in modules if module.__dict__.get("torch") is torch]
    cast, default = torch.Tensor.float, torch.get_default_dtype()
    for module in replaced:
        module.torch = _Wider("torch")
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        torch.Tensor.float = cast
        for module in replaced:
            module.torch = torch


def build(config: Mapping, dtype: str) -> PreTrainedModel:
    """The model of a published config with seeded weights; to be used inside `arithmetic(dtype)`."""
    fields = {name: value for name, value in config.items() if name != "model_type"}
    loaded = AutoConfig.for_model(config["model_type"], **json.loads(json.dumps(fields)))
    auto = AutoModelForMaskedLM if config["model_type"] == "bert" else AutoModelForCausalLM
    auto.from_config(loaded, attn_implementation="eager")  # imports the modeling module, so that it can be patched
    with arithmetic(dtype):
        model = auto.from_config(loaded, attn_implementation="eager").eval()
        state = {name: torch.from_numpy(published.seeded(name, shape)) for name, shape in file_shapes(model).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        tied = set(model.all_tied_weights_keys)
        if unexpected or set(missing) - tied:
            raise AssertionError(f"not loaded: {missing}, {unexpected}")
        model.tie_weights()
    return model


def file_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """What `save_pretrained` writes: names and shapes."""
    tied = set(model.all_tied_weights_keys)
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def logits(model: PreTrainedModel, dtype: str) -> np.ndarray:
    """[2, T, V] on `published.tokens`; what stands on padding means nothing."""
    tokens = torch.from_numpy(published.tokens(model.config.vocab_size)).long()
    mask = torch.arange(tokens.shape[1])[None] < torch.tensor(published.LENGTHS)[:, None]
    with arithmetic(dtype), torch.no_grad():
        return model(input_ids=tokens, attention_mask=mask.long()).logits.numpy()


def published_again(model: PreTrainedModel) -> dict:
    """The config as this version of transformers writes it."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        return json.loads((Path(folder) / "config.json").read_text())
