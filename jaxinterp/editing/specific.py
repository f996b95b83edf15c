"""Neurons by which an answer can be changed at the least cost to what other prompts get."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.editing.keys import prompt_keys, request_keys
from jaxinterp.editing.registry import Neurons
from jaxinterp.editing.request import Request
from jaxinterp.editing.solutions import second_moment
from jaxinterp.models.language_model import LanguageModel


def specific_neurons(
    model: LanguageModel,
    asked: Request,
    kept: Sequence[Sequence[str]],
    layer: int,
    k: int = 8,
    ridge: float = 1e-2,
    rephrased: Sequence[Request] = (),
) -> Neurons:
    """The k neurons S of a layer with the largest leverage a_Sᵀ (C_SS + λI)⁻¹ a_S, one after the other.

    Changing the value rows of S so that the request's activations a_S write R more costs kept prompts the inverse of
    the leverage, times ‖R‖² (see `jaxinterp.editing.solutions`). Activations are those where the answer's first token
    is read. Attribution asks another question: who carries the old answer.

    Args:
      model: a causal one.
      asked: the request.
      kept: kinds of prompts, as those of the same relation; C is the mean of their second moments.
      layer: whose neurons.
      k: how many, or fewer if fewer are active.
      ridge: λ, in units of the mean diagonal of C.
      rephrased: the request in other words; leverages are then summed over all prompts.
    Raises:
      UserError: if no prompt is kept, or no neuron is active.
    """
    kinds = [prompts for prompts in kept if len(prompts)]
    if not kinds:
        raise UserError("there is no prompt to keep, by which neurons could be specific; give some")
    key_PF = request_keys(model, [asked, *rephrased], layer, (), "prompt")
    cost_FF = np.mean([second_moment(prompt_keys(model, prompts, layer)) for prompts in kinds], 0)
    cost_FF += ridge * np.diagonal(cost_FF).mean() * np.eye(len(cost_FF))
    chosen = leverage_greedy(key_PF, cost_FF, k)
    if not len(chosen):
        raise UserError(f"no neuron of layer {layer} is active where {asked.prompt!r} is answered; take another layer")
    return Neurons(np.full(len(chosen), layer), chosen)


def leverage_greedy(
    key_PF: Float[np.ndarray, "P F"], cost_FF: Float[np.ndarray, "F F"], k: int
) -> Int[np.ndarray, " k"]:
    """Indices that make Σ_p k_pSᵀ (A_SS)⁻¹ k_pS large, each the best one beside those before, of those with a key.

    The gain of one more, j, is Σ_p (k_pj − A_jS A_SS⁻¹ k_pS)² / (A_jj − A_jS A_SS⁻¹ A_Sj), by Schur's complement.
    """
    chosen: list[int] = []
    usable_F = (key_PF != 0).any(0)
    for _ in range(min(k, int(usable_F.sum()))):
        if chosen:
            solved_SF = np.linalg.solve(cost_FF[np.ix_(chosen, chosen)], cost_FF[chosen])
            rest_PF = key_PF - key_PF[:, chosen] @ solved_SF
            left_F = np.diagonal(cost_FF) - (cost_FF[chosen] * solved_SF).sum(0)
        else:
            rest_PF, left_F = key_PF, np.diagonal(cost_FF)
        gain_F = np.where(usable_F, np.square(rest_PF).sum(0) / np.maximum(left_F, np.finfo(float).tiny), -1.0)
        gain_F[chosen] = -1.0
        chosen.append(int(gain_F.argmax()))
    return np.array(chosen, int)
