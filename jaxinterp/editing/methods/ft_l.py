"""Fine-tuning of one layer's value rows, none of whose numbers may move far."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.descent import descended
from jaxinterp.editing.likelihood import answer_nll
from jaxinterp.editing.places import VALUE_ROWS, Texts, check_layers, texts_of, value_rows, with_value_rows
from jaxinterp.editing.registry import Given, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model


@dataclasses.dataclass(frozen=True)
class FtlConfig:
    """Settings of FT-L; defaults are those of Meng et al. 2022 for GPT-2 XL."""

    layer: int  # whose value rows change
    most: float = 5e-4  # largest |ΔW|, element by element
    steps: int = 25  # of Adam, at most
    step_size: float = 5e-4  # of Adam
    enough: float = 0.01  # mean −log P of the new answers, a token, at which the search ends

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("most", "step_size", "enough"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} of FT-L must be above 0, got {getattr(self, name)}")
        if self.steps < 0:
            raise UserError(f"steps of FT-L must be at least 0, got {self.steps}")


@editing_method(
    "ft_l",
    title="FT-L",
    source="Zhu et al. 2020, as in Meng et al. 2022",
    settings=FtlConfig,
)
def ft_l(model: LanguageModel, requests: Sequence[Request], config: FtlConfig, given: Given) -> list[Rows]:
    """Adam on the mean of −log P(new) over requests, with ΔW clipped to [−most, most] after each step."""
    check_layers(model, (config.layer,))
    texts = texts_of(model, [request.text(request.new) for request in requests])
    settings = (config.most, config.steps, config.step_size, config.enough)
    delta_FD = np.asarray(_search(model.model, texts, jnp.asarray(config.layer), settings)).astype(np.float64)
    return [Rows(VALUE_ROWS, config.layer, np.arange(len(delta_FD)), delta_FD)] if delta_FD.any() else []


@functools.partial(jax.jit, static_argnums=3)
def _search(model: Model, texts: Texts, layer: Array, settings: tuple) -> Float[Array, "F D"]:
    most, steps, step_size, enough = settings
    texts = jax.tree.map(jnp.asarray, texts)
    own_FD = value_rows(model, layer)
    # In float32 at least: small steps are lost in 16 bits.
    own_FD = own_FD.astype(jnp.promote_types(own_FD.dtype, jnp.float32))

    def nll(delta_FD: Array) -> Float[Array, ""]:
        return answer_nll(with_value_rows(model, layer, own_FD + delta_FD), texts)

    def within(delta_FD: Array) -> Float[Array, "F D"]:
        return jnp.clip(delta_FD, -most, most)

    return descended(nll, jnp.zeros_like(own_FD), optax.adam(step_size), within, steps=steps, enough=enough)[0]
