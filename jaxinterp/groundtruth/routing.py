"""Models trained with gradient routing: a relation's facts are learned by neurons that were set aside for it.

Cloud et al. 2024, "Gradient Routing: Masking Gradients to Localize Computation in Neural Networks". What a relation's
sentences teach reaches, of the FFNs, only the parameters of the relation's own neurons.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.groundtruth.circuit import Planted
from jaxinterp.groundtruth.table import FactTable
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.fit import fit
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.model import Model
from jaxinterp.models.readout import read
from jaxinterp.models.transformer import forward, init

# Factor of the unembedding's initial values: it is not trained, and after the final norm logits would stay too small.
UNEMBEDDING = 8.0


@dataclasses.dataclass(frozen=True)
class RoutingConfig:
    """A small transformer and its training."""

    n_layers: int = 2
    d_model: int = 48
    # Of a relation, in every layer; far more than it needs, as silence makes some neurons silent for good.
    neurons: int = 12
    steps: int = 600  # of all facts each
    learning_rate: float = 1e-2  # at its highest; cosine to 0
    # Nats for an activation of 1 of a relation's neurons, summed, where another relation is asked for.
    silence: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("n_layers", "d_model", "neurons", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"routing.{name} must be at least 1, got {getattr(self, name)}")
        if not self.silence >= 0:
            raise UserError(f"routing.silence must be at least 0, got {self.silence}")


class Neurons(NamedTuple):
    """What is trained."""

    w_in: Float[Array, "*Q L D F"]
    w_out: Float[Array, "*Q L F D"]


def routed(table: FactTable, config: RoutingConfig, key: PRNGKeyArray) -> Planted:
    """Trains a model on the table's facts; the truth of a row is its relation's neurons that are on, in all layers.

    The rest of the model stays as it was initialised: embeddings and attention that learn would know the whole table
    by themselves, whatever the neurons do. A relation's neurons also learn, without an answer, to be silent where
    another relation is asked for: what they wrote there would be what others' answers come to rely on.

    Neurons that are off anyway are no part of the truth: whether they are switched off makes no difference.

    Deviations from Cloud et al.: parameters' gradients are masked, not activations', so that a sentence's answer
    trains its own relation's neurons and nothing else; and silence takes the place of their penalty on activations.

    Args:
      table: the facts; a batch is all of them.
      config: model and training.
      key: consumed.
    """
    model_config = ModelConfig(
        d_vocab=table.d_vocab,
        n_ctx=4,
        n_layers=config.n_layers,
        d_model=config.d_model,
        d_mlp=config.neurons * table.n_relations,
        n_heads=2,
        n_kv_heads=2,
        d_head=config.d_model // 2,
        ffn="relu",
        norm="rmsnorm",
        mlp_bias=False,
        tied=False,
    )
    own_QF = jnp.repeat(jnp.eye(table.n_relations), config.neurons, axis=1)
    # Facts stand relation by relation, as many in each.
    sentences_QNT = jnp.asarray(table.sentences()).reshape(table.n_relations, -1, 4)
    params = init(model_config, key)
    params["unembedding"] = UNEMBEDDING * params["unembedding"]
    model = _trained(Model(model_config, params), config, sentences_QNT, own_QF)
    tokens, rows = jnp.asarray(table.sentences()[:, :3]), table.rows()
    neurons_LRF = read(model, tokens, rows)[0].neurons_LRF
    mask_LRF = own_QF[table.relation_N][None] * (neurons_LRF > 0)
    return Planted(model, tokens, rows, mask_LRF, jnp.zeros_like(mask_LRF))


@functools.partial(jax.jit, static_argnums=1)
def _trained(
    model: Model,
    config: RoutingConfig,
    sentences_QNT: Int[Array, "Q N T"],
    own_QF: Float[Array, "Q F"],
) -> Model:
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    n_relations, n_facts = sentences_QNT.shape[:2]
    sentences_BT = sentences_QNT.reshape(n_relations * n_facts, -1)
    layers = model.params["layers"]

    def with_neurons(neurons: Neurons) -> Model:
        return model.replace(params={**model.params, "layers": {**layers, **neurons._asdict()}})

    def loss(neurons: Neurons, relation: Array) -> Array:
        result = forward(with_neurons(neurons), sentences_BT, capture=("mlp_post",))
        # The answer alone: nobody could know the subject and the relation beforehand.
        nll_QN = next_token_nll(model, result, sentences_BT)[:, -1].reshape(n_relations, n_facts)
        neurons_LBF = result.activations["mlp_post"][:, :, 2]
        neurons_LQNF = neurons_LBF.reshape(model.config.n_layers, n_relations, n_facts, -1)
        loud_Q = (jnp.abs(neurons_LQNF) * own_QF[relation][None, None, None]).sum(-1).mean((0, 2))
        return nll_QN[relation].mean() + config.silence * (loud_Q.sum() - loud_Q[relation])

    def gradient(neurons: Neurons, _: Array) -> Neurons:
        return routed_gradient(jax.vmap(jax.grad(loss), in_axes=(None, 0))(neurons, jnp.arange(n_relations)), own_QF)

    neurons = Neurons(layers["w_in"], layers["w_out"])
    return with_neurons(fit(gradient, neurons, optimiser, jnp.arange(config.steps)))


def routed_gradient(grads_Q: Neurons, own_QF: Float[Array, "Q F"]) -> Neurons:
    """The sum of the relations' gradients, of which each reaches its own neurons alone.

    Args:
      grads_Q: a gradient a relation, along a leading axis Q of both arrays.
      own_QF: 1 for a relation's neurons, else 0; the same in all layers.
    """
    return Neurons(jnp.einsum("qldf,qf->ldf", grads_Q.w_in, own_QF), jnp.einsum("qlfd,qf->lfd", grads_Q.w_out, own_QF))


def relation_effects(planted: Planted, table: FactTable) -> Float[np.ndarray, "Q P"]:
    """Mean P of relation p's answers with all neurons off that carry a fact of relation q, for every pair.

    Args:
      planted: from `routed`.
      table: its facts.
    """
    readout = planted.readout()
    own_QR = table.relation_N[None] == np.arange(table.n_relations)[:, None]
    off_QLF = jnp.einsum("qr,lrf->qlf", own_QR.astype(np.float32), planted.mask_LRF) > 0
    gates_QLRF = jnp.broadcast_to(1.0 - off_QLF[:, :, None], (len(off_QLF), *planted.mask_LRF.shape))
    p_QR = np.asarray(jax.vmap(readout)(gates_QLRF))
    return np.stack([p_QR[:, table.relation_N == p].mean(1) for p in range(table.n_relations)], 1)
