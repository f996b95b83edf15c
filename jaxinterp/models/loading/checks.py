"""Refusals of a published model before anything as large as its weights is allocated."""

import math
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.family import TensorFile
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.sources.huggingface import ADAPTER

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "block_count")  # config fields of the depth


def refuse_adapter(folder: Path) -> None:
    """Raises if the folder has an adapter, alone or beside weights: what it adds to them is not computed."""
    if not (folder / ADAPTER).is_file():
        return
    base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    raise UserError(
        f"{folder} has an adapter ({ADAPTER}) to {base!r}, which is not applied; merge it into that model with peft's "
        "merge_and_unload and save_pretrained, and give the merged folder"
    )


def refuse_absurd_depth(fields: Fields, file: TensorFile) -> None:
    """Raises if the config has more layers than the file has tensors; a family may make a list of all layers."""
    for part in (fields, fields.part("text_config")):
        for name in LAYERS:
            n_layers = part.values.get(part.prefix + name)
            if isinstance(n_layers, int) and n_layers > len(file.shapes):
                raise UserError(
                    f"{part.where}: {part.prefix}{name} is {n_layers}, but there are only {len(file.shapes)} tensors "
                    f"in {file.path}"
                )


def refuse_absurd_widths(fields: Fields, config: ModelConfig, file: TensorFile) -> None:
    """Raises if an axis of a parameter would be longer than the largest tensor has numbers."""
    largest = max((math.prod(shape) for shape in file.shapes.values()), default=0)
    widths = {"vocabulary": config.d_vocab, "residual width": config.d_model, "FFN width": config.d_mlp}
    widths |= {"width of all heads": config.n_heads * config.d_head}
    widths |= {"context": config.n_ctx} if config.position == "learned" else {}
    for name, width in widths.items():
        if width > largest:
            raise UserError(
                f"{fields.where}: it says that the {name} is {width}, but the largest tensor in {file.path} has only "
                f"{largest} numbers"
            )
