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
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


MASKED = ("bert", "distilbert", "roberta", "modernbert")  # model types


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
    """The model of a published config with seeded weights, read from a file in the published format."""
    with tempfile.TemporaryDirectory() as folder:
        return opened(published.write_checkpoint(Path(folder), config, file_shapes(config)), dtype)


def opened(folder: Path, dtype: str) -> PreTrainedModel:
    """The model of a folder, whose tensors have to be all that it needs and no more."""
    masked = json.loads((folder / "config.json").read_text())["model_type"] in MASKED
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with arithmetic(dtype):
        model, report = auto.from_pretrained(
            folder, attn_implementation="eager", dtype=getattr(torch, dtype), output_loading_info=True
        )
    if any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise AssertionError(f"transformers did not load the file: {report}")
    return model.eval()


def file_shapes(config: Mapping) -> dict[str, tuple[int, ...]]:
    """What transformers writes for a model: names and shapes."""
    fields = {name: value for name, value in config.items() if name != "model_type"}
    # A copy: transformers changes what is nested in it.
    loaded = AutoConfig.for_model(config["model_type"], **json.loads(json.dumps(fields)))
    auto = AutoModelForMaskedLM if config["model_type"] in MASKED else AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        auto.from_config(loaded).save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def logits(model: PreTrainedModel, dtype: str) -> np.ndarray:
    """[2, T, V] on `published.tokens`; what stands on padding means nothing."""
    tokens = torch.from_numpy(published.tokens(model.config.get_text_config().vocab_size)).long()
    mask = torch.arange(tokens.shape[1])[None] < torch.tensor(published.LENGTHS)[:, None]
    with arithmetic(dtype), torch.no_grad():
        return model(input_ids=tokens, attention_mask=mask.long()).logits.numpy()
