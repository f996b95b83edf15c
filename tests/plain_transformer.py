"""A transformer as a textbook writes it, in numpy, to hold the fast one to."""

import dataclasses
import itertools
import math

import jax
import numpy as np

from jaxinterp.models.places import PLACES


def plain_norm(config, weights, x):
    if config.norm == "layernorm":
        x = x - np.mean(x)
    y = x / math.sqrt(np.mean(x**2) + config.norm_eps) * weights["scale"]
    return y + weights.get("bias", 0.0)


def plain_rotate(config, x, position):
    """A head's vector, as complex numbers turned by position · θ^(−2i/K)."""
    half = len(x) // 2
    turned = [
        complex(x[i], x[i + half]) * np.exp(1j * position * config.rope_theta ** (-2 * i / len(x))) for i in range(half)
    ]
    return np.array([z.real for z in turned] + [z.imag for z in turned])


def plain_shares(config, w, x):
    """What each neuron's expert is multiplied by."""
    size, logits = config.d_mlp // config.experts, x @ w["w_router"]
    largest = sorted(range(config.experts), key=lambda e: -logits[e])[: config.experts_active]
    among = range(config.experts) if config.experts_active == 1 else largest
    total = sum(math.exp(logits[e]) for e in among)
    share = [math.exp(logits[e]) / total if e in largest else 0.0 for e in range(config.experts)]
    return np.array([share[neuron // size] for neuron in range(config.d_mlp)])


def plain_neurons(config, w, x, pre=None, gate=1.0):
    """The activation's argument, and the neurons of it or of another one, times all that multiplies them."""
    pre, neurons = _ungated_neurons(config, w, x, pre)
    return pre, neurons * gate * (plain_shares(config, w, x) if config.experts > 1 else 1.0)


def _ungated_neurons(config, w, x, pre):
    if config.ffn_units > 1:
        one = dataclasses.replace(config, ffn_units=1)
        if pre is None:
            units = [{"w_in": w["w_in"][:, :, u], "b_in": w["b_in"][:, u]} for u in range(config.ffn_units)]
            inside = [_ungated_neurons(one, unit, x, None)[1] for unit in units]
            pre = sum(w["w_unit"][:, u] * inside[u] for u in range(config.ffn_units)) + w["b_unit"]
        return _ungated_neurons(one, {"w_in": w["w_in"][:, :, 0]}, x, pre)
    up = x @ w["w_in"] + w.get("b_in", 0.0)
    if config.ffn == "swiglu":
        gate = x @ w["w_gate"] + w.get("b_gate", 0.0) if pre is None else pre
        return gate, gate / (1 + np.exp(-gate)) * up
    if config.ffn == "bilinear":
        gate = x @ w["w_gate"] + w.get("b_gate", 0.0) if pre is None else pre
        return gate, gate * up
    pre = up if pre is None else pre
    if config.ffn == "relu":
        return pre, np.maximum(pre, 0)
    if config.ffn == "relu2":
        return pre, np.array([max(number, 0) ** 2 for number in pre])
    if config.ffn == "solu":
        soft = [number * math.exp(number) / sum(math.exp(other) for other in pre) for number in pre]
        deviation = math.sqrt(sum((number - np.mean(soft)) ** 2 for number in soft) / len(soft) + config.norm_eps)
        return pre, np.array([(number - np.mean(soft)) / deviation for number in soft])
    if config.ffn == "topk":
        place = {index: place for place, index in enumerate(np.argsort(-pre))}
        least = max(next(pre[index] for index in place if place[index] == config.ffn_k), 0)
        kept = [place[index] < config.ffn_k and pre[index] > least for index in range(len(pre))]
        return pre, np.array([number - least if keep else 0.0 for number, keep in zip(pre, kept, strict=True)])
    return pre, 0.5 * pre * (1 + np.tanh(math.sqrt(2 / math.pi) * (pre + 0.044715 * pre**3)))


def plain_forward(config, params, tokens, change=lambda place, layer, x: x):
    """One sequence, position by position and head by head. Returns logits [T, V] and activations [L, T, …].

    `change` is what is done at a place, where all positions are computed; layer is None at "embed".
    """
    p = jax.tree.map(np.asarray, params)
    n, group = len(tokens), config.n_heads // config.n_kv_heads
    resid = [p["embedding"][token] for token in tokens]
    if config.position == "learned":
        resid = [x + p["positions"][t] for t, x in enumerate(resid)]
    resid = list(change("embed", None, np.stack(resid)))
    found = {name: [] for name in PLACES if name != "embed"}
    embedded = np.stack(resid)
    for layer in range(config.n_layers):
        w = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["layers"])

        def note(name, x, layer=layer):
            found[name].append(change(name, layer, np.stack(x)))
            return found[name][-1]

        resid = note("resid_pre", resid)
        x = [plain_norm(config, w["norm_attn"], r) for r in resid]
        pattern = np.zeros((config.n_heads, n, n))
        queries, mixed = np.zeros((2, n, config.n_heads, config.d_head))
        keys, values = np.zeros((2, n, config.n_kv_heads, config.d_head))
        for head in range(config.n_heads):
            shared = head // group

            def projected(kind, h, x=x, w=w):
                bias = w[f"b_{kind}"][h] if config.qkv_bias else 0.0
                return [vector @ w[f"w_{kind}"][:, h] + bias for vector in x]

            q, k, v = projected("q", head), projected("k", shared), projected("v", shared)
            if config.position == "rotary":
                q = [plain_rotate(config, vector, t) for t, vector in enumerate(q)]
                k = [plain_rotate(config, vector, t) for t, vector in enumerate(k)]
            queries[:, head], keys[:, shared], values[:, shared] = q, k, v
        queries, keys, values = note("attn_q", queries), note("attn_k", keys), note("attn_v", values)
        for head, t in itertools.product(range(config.n_heads), range(n)):
            size = math.sqrt(config.d_head)
            weights = [math.exp(queries[t, head] @ keys[s, head // group] / size) for s in range(t + 1)]
            pattern[head, t, : t + 1] = np.array(weights) / sum(weights)
        pattern = note("attn_pattern", pattern)
        for head, t, s in itertools.product(range(config.n_heads), range(n), range(n)):
            mixed[t, head] += pattern[head, t, s] * values[s, head // group]
        gate = [1.0] * n
        if config.depth_gates:
            weight, bias = w["depth_gate"]["weight"], w["depth_gate"]["bias"]
            gate = [1 / (1 + math.exp(-(vector @ weight + bias))) for vector in x]
            mixed = np.stack([gate[t] * mixed[t] for t in range(n)])
        mixed = note("attn_z", mixed)
        attn_out = [sum(z[h] @ w["w_o"][h] for h in range(config.n_heads)) + w.get("b_o", 0.0) for z in mixed]
        attn_out = note("attn_out", attn_out)
        middle = note("resid_mid", [r + a for r, a in zip(resid, attn_out, strict=True)])
        read = [plain_norm(config, w["norm_mlp"], m) for m in middle]
        mlp_pre = note("mlp_pre", [plain_neurons(config, w, x)[0] for x in read])
        mlp_post = [plain_neurons(config, w, *of)[1] for of in zip(read, mlp_pre, gate, strict=True)]
        mlp_post = note("mlp_post", mlp_post)
        mlp_out = note("mlp_out", [post @ w["w_out"] + w.get("b_out", 0.0) for post in mlp_post])
        resid = note("resid_post", [m + o for m, o in zip(middle, mlp_out, strict=True)])
    unembedding = p["embedding" if config.tied else "unembedding"]
    logits = np.stack([unembedding @ plain_norm(config, p["norm_final"], r) for r in resid])
    return logits, {"embed": embedded, **{name: np.stack(value) for name, value in found.items()}}
