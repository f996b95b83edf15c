"""Dai et al.'s attribution by hooks on a PyTorch model: slow, and independent of everything in this project."""

import numpy as np
import published
import torch
from reference import arithmetic
from transformers import PreTrainedModel

# What the FFN's output matrix multiplies is the input of this module, by model type.
OUTPUT_PROJECTION = {
    "gpt2": lambda model: [block.mlp.c_proj for block in model.transformer.h],
    "bert": lambda model: [layer.output.dense for layer in model.bert.encoder.layer],
    "llama": lambda model: [layer.mlp.down_proj for layer in model.model.layers],
    "phi3": lambda model: [layer.mlp.down_proj for layer in model.model.layers],
    "olmo2": lambda model: [layer.mlp.down_proj for layer in model.model.layers],
    "opt": lambda model: [layer.fc2 for layer in model.model.decoder.layers],
    "gptj": lambda model: [block.mlp.fc_out for block in model.transformer.h],
    "modernbert": lambda model: [layer.mlp.Wo for layer in model.model.layers],
}


def attribution(model: PreTrainedModel, dtype: str, *, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Per-layer integrated gradients of P(target) at `published.ROWS`, a left sum of `points` points.

    Layer by layer, point by point: the neurons at the query are replaced by α = m / points of their values, m from 0,
    and the probability's gradient with respect to what replaced them is taken.

    Returns:
      Scores [L, R, F] = activation · mean gradient, and the untouched probabilities [R].
    """
    projections = OUTPUT_PROJECTION[model.config.model_type](model)
    scores, probabilities = [], []
    for sequence, position, target in published.ROWS:
        tokens = torch.from_numpy(published.tokens(model.config.vocab_size)[sequence, : published.LENGTHS[sequence]])
        query = (model, tokens.long()[None], position, target)
        of_row = []
        for projection in projections:
            with arithmetic(dtype):
                values, probability = _neurons(projection, *query)
                gradients = [_gradient(projection, values * m / points, *query) for m in range(points)]
            of_row.append((values * sum(gradients) / points).numpy())
        scores.append(of_row)
        probabilities.append(probability)
    return np.array(scores).swapaxes(0, 1), np.array(probabilities)


def _probability(model: PreTrainedModel, tokens: torch.Tensor, position: int, target: int) -> torch.Tensor:
    return model(input_ids=tokens).logits[0, position].softmax(-1)[target]


def _neurons(projection: torch.nn.Module, model, tokens, position: int, target: int) -> tuple[torch.Tensor, float]:
    seen = []
    hook = projection.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    try:
        with torch.no_grad():
            probability = float(_probability(model, tokens, position, target))
    finally:
        hook.remove()
    return seen[0][position].clone(), probability


def _gradient(projection: torch.nn.Module, values: torch.Tensor, model, tokens, position: int, target: int):
    values = values.detach().requires_grad_()

    def replace(module: torch.nn.Module, args: tuple) -> tuple:
        flat = args[0].reshape(-1, args[0].shape[-1])
        flat = torch.cat([flat[:position], values[None], flat[position + 1 :]])
        return (flat.reshape(args[0].shape), *args[1:])

    hook = projection.register_forward_pre_hook(replace)
    try:
        return torch.autograd.grad(_probability(model, tokens, position, target), values)[0]
    finally:
        hook.remove()
