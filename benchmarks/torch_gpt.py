"""The project's GPT (pre-norm, learned positions, GELU, tied embeddings) and its training steps, written in PyTorch.

Eager, with fused AdamW. The meta step is the objective written plainly: M full forwards, whose gradients with respect
to gates are taken with `create_graph=True`. Logits of the M forwards and of the edited ones are computed at the query
alone. PyTorch is imported inside functions, so that command lines answer without it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from peers import require

from jaxinterp.models.config import ModelConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig


class TorchGPT:
    """A model as a dictionary of leaf tensors, one for each parameter of each layer."""

    def __init__(self, config: ModelConfig, params: Mapping) -> None:
        (torch,) = require("torch")
        expected = {"attention": "causal", "norm": "layernorm", "norm_placement": "pre", "ffn": "gelu", "tied": True}
        assert all(getattr(config, field) == value for field, value in expected.items())

        def leaf(x: Any) -> Any:
            return torch.tensor(np.asarray(x), requires_grad=True)

        stacked = params["layers"]
        named = {name: value for name, value in stacked.items() if not isinstance(value, Mapping)}
        named |= {f"{norm}.{part}": stacked[norm][part] for norm in ("norm_attn", "norm_mlp") for part in stacked[norm]}
        d = config.d_model
        flat = {"w_q": (d, d), "w_k": (d, d), "w_v": (d, d), "w_o": (d, d), "b_q": (d,), "b_k": (d,), "b_v": (d,)}
        self.config = config
        self.layers = [
            {name: leaf(np.reshape(value[i], flat.get(name, value[i].shape))) for name, value in named.items()}
            for i in range(config.n_layers)
        ]
        self.embedding, self.positions = leaf(params["embedding"]), leaf(params["positions"])
        self.final = leaf(params["norm_final"]["scale"]), leaf(params["norm_final"]["bias"])

    def parameters(self) -> tuple[list, list]:
        """Those that weight decay acts on, and the others."""
        names = [(name, value) for layer in self.layers for name, value in layer.items()]
        decayed = [value for name, value in names if name.startswith("w_")] + [self.embedding]
        return decayed, [v for name, v in names if not name.startswith("w_")] + [self.positions, *self.final]

    def resid_final(self, tokens: Any, gates: Any = None, query: Any = None, *, fused_attention: bool = True) -> Any:
        """[B, T, D] after the last norm; gates [L, B, F] act at the positions `query` [B, T] (a mask)."""
        (torch,) = require("torch")
        functional, config = torch.nn.functional, self.config
        batch, length = tokens.shape
        x = self.embedding[tokens] + self.positions[:length]
        causal = torch.ones(length, length, dtype=torch.bool).tril()

        def norm(x: Any, scale: Any, bias: Any) -> Any:
            return functional.layer_norm(x, (config.d_model,), scale, bias, config.norm_eps)

        def heads(x: Any) -> Any:
            return x.view(batch, length, config.n_heads, config.d_head).transpose(1, 2)

        for i, w in enumerate(self.layers):
            y = norm(x, w["norm_attn.scale"], w["norm_attn.bias"])
            q, k, v = (heads(torch.addmm(w[f"b_{n}"], y.flatten(0, 1), w[f"w_{n}"])) for n in "qkv")
            if fused_attention:
                mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                # The fused kernel has no second derivative.
                scores = (q @ k.transpose(-1, -2)) * config.d_head**-0.5
                mixed = scores.masked_fill(~causal, -torch.inf).softmax(-1) @ v
            x = x + mixed.transpose(1, 2).reshape(batch, length, -1) @ w["w_o"] + w["b_o"]
            y = norm(x, w["norm_mlp.scale"], w["norm_mlp.bias"])
            neurons = functional.gelu(y @ w["w_in"] + w["b_in"], approximate="tanh")
            if gates is not None:
                neurons = torch.where(query[..., None], neurons * gates[i][:, None], neurons)
            x = x + neurons @ w["w_out"] + w["b_out"]
        return norm(x, *self.final)

    def lm_loss(self, resid: Any, tokens: Any) -> Any:
        """Mean cross-entropy of the next tokens."""
        (torch,) = require("torch")
        logits = resid[:, :-1].flatten(0, 1) @ self.embedding.T
        return torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())

    def log_probability(self, resid: Any, position: Any, target: Any) -> Any:
        """[B] of the targets, read at one position of each sequence."""
        logits = resid[range(len(position)), position] @ self.embedding.T
        return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]


def straight_through(scores: Any, k: int, temperature: float) -> Any:
    """The k best scores [L, B, F] of each row as a 0/1 mask, whose backward is that of a sigmoid mask summing to k."""
    (torch,) = require("torch")
    rows = scores.transpose(0, 1).flatten(1)
    with torch.no_grad():
        kth, largest = rows.topk(k, 1).values[:, -1:].abs(), rows.abs().amax(1, keepdim=True)
        scale = temperature * torch.maximum(kth, 1e-3 * largest)
    x = rows / scale
    with torch.no_grad():
        low, high = x.min(1, keepdim=True).values - 30, x.max(1, keepdim=True).values + 30
        for _ in range(40):
            middle = (low + high) / 2
            above = (x - middle).sigmoid().sum(1, keepdim=True) > k
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        s = (x - middle).sigmoid()
        slope = s * (1 - s)
        hard = torch.zeros_like(x).scatter_(1, x.topk(k, 1).indices, 1.0)
    # The threshold's derivative, implicitly: Σ slope (dx − dt) = 0.
    threshold = middle + (slope * (x - x.detach())).sum(1, keepdim=True) / slope.sum(1, keepdim=True)
    soft = (x - threshold).sigmoid()
    mask = soft + (hard - soft).detach()
    return mask.unflatten(1, (scores.shape[0], -1)).transpose(0, 1)


class TorchTraining:
    """Training steps of a model on one batch; `step` is what is timed, `values` what the last step found.

    The quadrature's offsets, one for each row, are the same at every step.
    """

    def __init__(
        self,
        model: TorchGPT,
        batch: Any,
        optimiser: OptimiserConfig,
        objective: ObjectiveConfig | None = None,
        offset: np.ndarray | float = 0.5,
    ) -> None:
        (torch,) = require("torch")
        decayed, others = model.parameters()
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        betas = (optimiser.beta1, optimiser.beta2)
        decay = optimiser.weight_decay
        self.adamw = torch.optim.AdamW(groups, optimiser.learning_rate, betas, weight_decay=decay, fused=True)
        self.model, self.parameters, self.clip = model, decayed + others, optimiser.clip_norm
        self.objective, self.values = objective, {}
        self.offset = torch.tensor(np.broadcast_to(np.float32(offset), batch.rows.position_R.shape))
        arrays = (batch.tokens_BT, batch.rows.position_R, batch.rows.target_R, batch.answers.control_XR)
        self.tokens, self.position, self.target, self.controls = (torch.tensor(np.array(x)).long() for x in arrays)

    def step(self) -> None:
        """One step."""
        (torch,) = require("torch")
        self.adamw.zero_grad()
        values = self._plain() if self.objective is None else self._meta(self.objective)
        values["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.adamw.step()
        self.values = {name: float(value.detach()) for name, value in (values | {"gradient_norm": norm}).items()}

    def _plain(self) -> dict:
        lm = self.model.lm_loss(self.model.resid_final(self.tokens), self.tokens)
        return {"loss": lm, "lm": lm}

    def _meta(self, objective: ObjectiveConfig) -> dict:
        (torch,) = require("torch")
        model, config = self.model, self.model.config
        query = torch.arange(self.tokens.shape[1])[None] == self.position[:, None]

        def log_p(gates: Any) -> Any:
            resid = model.resid_final(self.tokens, gates, query, fused_attention=False)
            return model.log_probability(resid, self.position, self.target)

        resid = model.resid_final(self.tokens)
        lm = model.lm_loss(resid, self.tokens)
        untouched = model.log_probability(resid, self.position, self.target).detach()
        scores = 0
        for point in range(objective.points):
            alpha = (point + self.offset) / objective.points
            gates = alpha[None, :, None].repeat(config.n_layers, 1, config.d_mlp).requires_grad_()
            (gradient,) = torch.autograd.grad(log_p(gates).exp().sum(), gates, create_graph=True)
            scores = scores + gradient / objective.points
        mask = straight_through(scores, objective.k, objective.temperature)
        # An answer is one row here. Terms are weighed by P.
        weight = untouched.exp() / untouched.exp().sum()
        suppression = (weight * (log_p(1 - mask) - untouched).exp()).sum()
        others = straight_through(scores, objective.control_k or objective.k, objective.temperature).detach()
        drops = [(1 - (log_p(1 - others[:, control]) - untouched).exp()).relu() for control in self.controls]
        control = sum((weight * drop).sum() for drop in drops) / len(drops)
        loss = lm + suppression + control
        return {"loss": loss, "lm": lm, "suppression": suppression, "control": control}
