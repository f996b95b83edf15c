"""Other people's ways to do the same: PyTorch by hand, captum, and the package knowledge-neurons.

PyTorch and the packages are imported inside functions, so that command lines answer without them.
"""

import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from jaxinterp.base.errors import UserError

# What the FFN's output matrix multiplies is the input of this module.
OUTPUT_PROJECTION = {
    "gpt2": lambda model: [block.mlp.c_proj for block in model.transformer.h],
    "bert": lambda model: [layer.output.dense for layer in model.bert.encoder.layer],
}


class Query(NamedTuple):
    """One prompt and what is read there."""

    tokens: np.ndarray  # [T]
    position: int
    target: int
    length: int  # tokens before padding


def require(*names: str) -> list[ModuleType]:
    """The modules of these names.

    Raises:
      UserError: if one is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(f"{error.name or names} is missing; pip install -e .[peers]") from None


def published_model(kind: str, **sizes: int) -> Any:
    """A GPT-2 or BERT with random weights, in transformers' PyTorch implementation, without dropout."""
    torch, transformers = require("torch", "transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    make = {
        "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
        "bert": (transformers.BertConfig, transformers.BertForMaskedLM),
    }
    config, model = make[kind]
    return model(config(**sizes)).eval()


def ours(model: Any) -> tuple[Any, dict]:
    """The same model in this project: config and parameters, through a file in the published format."""
    from jaxinterp.models.loading.load import pretrained_parameters

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return pretrained_parameters(Path(folder))[:2]


def torch_flops(run: Callable[[], object]) -> float:
    """FLOPs of the matrix products in a run."""
    counter = require("torch.utils.flop_counter")[0].FlopCounterMode(display=False)
    with counter:
        run()
    return float(counter.get_total_flops())


def _inputs(query: Query, rows: int) -> dict:
    (torch,) = require("torch")
    tokens = torch.from_numpy(query.tokens).long()[None].expand(rows, -1)
    inputs = {"input_ids": tokens}
    if query.length < len(query.tokens):
        inputs["attention_mask"] = (torch.arange(tokens.shape[1]) < query.length).long()[None].expand(rows, -1)
    return inputs


def _logits(model: Any, query: Query, rows: int) -> Any:
    """[rows, V] at the query. GPT-2 can leave out the logits of the other positions, BERT cannot."""
    inputs = _inputs(query, rows)
    last = model.config.model_type == "gpt2" and query.position == len(query.tokens) - 1
    logits = model(**inputs, **({"logits_to_keep": 1} if last else {})).logits
    return logits[:, -1 if last else query.position]


def _with_neurons(projection: Any, position: int, change: Callable[[Any], Any], run: Callable[[], Any]) -> Any:
    """What `run` gives while the neurons [rows, F] at the position become `change(neurons)`."""
    (torch,) = require("torch")

    def replace(module: Any, args: tuple) -> tuple:
        values = args[0]
        new = change(values[:, position])
        if new is None:
            return args
        before, after = values[:, :position], values[:, position + 1 :]
        return (torch.cat([before, new[:, None], after], 1), *args[1:])

    hook = projection.register_forward_pre_hook(replace)
    try:
        return run()
    finally:
        hook.remove()


def _neurons(model: Any, projection: Any, query: Query) -> Any:
    """The untouched neurons [1, F]."""
    (torch,) = require("torch")
    seen = []
    with torch.no_grad():
        _with_neurons(projection, query.position, lambda x: seen.append(x.clone()), lambda: _logits(model, query, 1))
    return seen[0]


def probabilities(model: Any, query: Query) -> np.ndarray:
    """[V] at the query."""
    (torch,) = require("torch")
    with torch.no_grad():
        return _logits(model, query, 1)[0].softmax(-1).numpy()


def torch_attribution(model: Any, query: Query, points: Sequence[float], weights: Sequence[float]) -> np.ndarray:
    """Per-layer integrated gradients [L, F] by hooks: for each layer, one forward and backward of all points."""
    (torch,) = require("torch")
    points, weights = torch.tensor(points).float()[:, None], torch.tensor(weights).float()
    scores = []
    for projection in OUTPUT_PROJECTION[model.config.model_type](model):
        values = _neurons(model, projection, query)
        scaled = (points * values).requires_grad_()
        logits = _with_neurons(
            projection, query.position, lambda _, new=scaled: new, lambda: _logits(model, query, len(points))
        )
        (gradient,) = torch.autograd.grad(logits.softmax(-1)[:, query.target].sum(), scaled)
        scores.append((values[0] * (weights[:, None] * gradient).sum(0)).numpy())
    return np.stack(scores)


def captum_attribution(model: Any, query: Query, n_points: int, internal_batch: int) -> np.ndarray:
    """The same with captum's IntegratedGradients (left sum) of a function of the neurons at the query, [L, F].

    Its LayerIntegratedGradients would scale the neurons of all positions, which is another quantity.
    """
    _, attr = require("torch", "captum.attr")
    scores = []
    for projection in OUTPUT_PROJECTION[model.config.model_type](model):

        def probability(values: Any, projection: Any = projection) -> Any:
            rows = values.shape[0]
            logits = _with_neurons(projection, query.position, lambda _: values, lambda: _logits(model, query, rows))
            return logits.softmax(-1)[:, query.target]

        found = attr.IntegratedGradients(probability).attribute(
            _neurons(model, projection, query),
            n_steps=n_points,
            method="riemann_left",
            internal_batch_size=internal_batch,
        )
        scores.append(found[0].detach().numpy())
    return np.stack(scores)


class _Tokens:
    """In place of a tokenizer: prompts and targets are token ids already."""

    unk_token_id = None

    def __init__(self, mask: int | None) -> None:
        self.mask_token_id = mask

    def __call__(self, prompt: Query, return_tensors: str) -> Mapping:
        torch, transformers = require("torch", "transformers")
        tokens = torch.from_numpy(prompt.tokens).long()[None]
        visible = (torch.arange(tokens.shape[1]) < prompt.length).long()[None]
        arrays = {"input_ids": tokens, "attention_mask": visible, "token_type_ids": torch.zeros_like(tokens)}
        if self.mask_token_id is None:
            del arrays["token_type_ids"]
        return transformers.BatchEncoding(arrays)

    def encode(self, target: int) -> list[int]:
        return [target]

    def convert_tokens_to_ids(self, target: int) -> int:
        return target


class KnowledgeNeuronsPackage:
    """knowledge-neurons 0.0.2: `get_scores_for_layer` of every layer, as it ships.

    Its points are linspace(0, 1, steps) and its weights 1 / steps: both ends are points, and the weights of the 19
    intervals add up to 20/19, so that the sum is neither the left nor the right one, see `rule`. In GPT-2 it attributes
    to the output of `mlp.c_fc`, the pre-activation; `neurons=True` points it at the activation function's output.
    """

    def __init__(self, model: Any, *, mask: int | None = None, batch: int = 10, neurons: bool = False) -> None:
        (package,) = require("knowledge_neurons")
        kind = model.config.model_type
        self.package = package.KnowledgeNeurons(model, _Tokens(mask), model_type=kind, device="cpu")
        self.batch = batch
        if neurons and kind == "gpt2":
            self.package.input_ff_attr = "mlp.act"

    @staticmethod
    def rule(steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Its points and weights."""
        return np.linspace(0, 1, steps), np.full(steps, 1 / steps)

    def __call__(self, query: Query, steps: int) -> np.ndarray:
        """[L, F]."""
        encoded = self.package.tokenizer(query, return_tensors="pt")
        arguments = {"encoded_input": encoded, "batch_size": self.batch, "steps": steps}
        layers = range(self.package.n_layers())
        found = [self.package.get_scores_for_layer(query, query.target, layer_idx=i, **arguments) for i in layers]
        return np.stack([scores.detach().numpy() for scores in found])
