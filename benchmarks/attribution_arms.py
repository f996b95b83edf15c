"""The arms that `attribution_gpt2.py` and `attribution_bert.py` share: per-layer integrated gradients of prompts."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from harness import Arm, compiled, unrolled_flops
from peers import KnowledgeNeuronsPackage, Query, captum_attribution, probabilities, torch_attribution, torch_flops

from jaxinterp.attribution.quadrature import Quadrature
from jaxinterp.models.model import Model


def prompts(model: Any, n: int, length: int, position: int, *, mask: int | None = None) -> list[Query]:
    """Random tokens; what is read is the most probable token, so that probabilities are not all near zero."""
    rng = np.random.default_rng(0)
    queries = []
    for _ in range(n):
        tokens = rng.integers(5, model.config.vocab_size, length, dtype=np.int32)
        if mask is not None:
            tokens[position] = mask
        query = Query(tokens, position, 0, length)
        queries.append(query._replace(target=int(probabilities(model, query).argmax())))
    return queries


def padded(query: Query, length: int) -> Query:
    """The query in a longer sequence, padded on the right."""
    return query._replace(tokens=np.pad(query.tokens, (0, length - len(query.tokens))))


class Ours:
    """`integrated_gradients` of fixed arrays, compiled for them."""

    def __init__(self, config: Any, params: dict, queries: Sequence[Query]) -> None:
        import jax.numpy as jnp

        from jaxinterp.models.readout import Rows

        self.model, self.n = Model(config, params), len(queries)
        sequence, position, target = (
            jnp.asarray(column, jnp.int32)
            for column in (range(self.n), [q.position for q in queries], [q.target for q in queries])
        )
        self.tokens, self.rows = jnp.stack([jnp.asarray(q.tokens) for q in queries]), Rows(sequence, position, target)

    def scores(self, rule: Quadrature) -> Callable:
        """A function of (model, tokens, rows) that returns scores [L, R, F]; made anew at every call."""
        from jaxinterp.attribution.integrated_gradients import integrated_gradients
        from jaxinterp.models.readout import lm_readout

        def attributed(model: Any, tokens: Any, rows: Any) -> Any:
            _, readout = lm_readout(model, tokens, rows)
            return integrated_gradients(readout, rule, path="per_layer").scores_LRF

        return attributed

    def arm(self, make: Callable[[], Callable], *, count: bool = True) -> tuple[Arm, np.ndarray]:
        """The arm of a function of (model, tokens, rows), and what it returns.

        Args:
          make: makes the function anew, because its FLOPs are counted in a trace of its own.
          count: its FLOPs, which takes as long as tracing every layer of every group of branches does.
        """
        arguments = (self.model, self.tokens, self.rows)
        program, seconds = compiled(make(), *arguments)
        flops = unrolled_flops(make(), *arguments) if count else None
        arm = Arm(
            lambda: program(*arguments).block_until_ready(),
            self.n,
            seconds,
            None if flops is None else flops / self.n,
        )
        return arm, np.asarray(program(*arguments))

    def adaptive_arm(self, tolerance: float) -> tuple[Arm, np.ndarray]:
        """The arm of the adaptive rule, forward included, and what it returns."""
        from jaxinterp.attribution.adaptive import adaptive_integrated_gradients
        from jaxinterp.models.readout import read

        def run() -> np.ndarray:
            readout, _ = read(self.model, self.tokens, self.rows)
            return np.asarray(adaptive_integrated_gradients(readout, tolerance).attribution.scores_LRF)

        start = time.perf_counter()
        scores = run()
        return Arm(run, self.n, time.perf_counter() - start), scores


def integration_errors(exact: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Σ |score − exact| / Σ |exact| of every way to attribute one prompt."""
    return {name: float(np.abs(found - exact).sum() / np.abs(exact).sum()) for name, found in scores.items()}


def peer_arm(run: Callable[[], np.ndarray]) -> tuple[Arm, np.ndarray]:
    """The arm of a peer that treats one prompt a run, and what it returns."""
    found = []
    flops = torch_flops(lambda: found.append(run()))
    return Arm(run, 1, None, flops), found[0]


def knowledge_neurons_arm(package: KnowledgeNeuronsPackage, query: Query, points: int) -> tuple[Arm, np.ndarray]:
    """knowledge-neurons."""
    return peer_arm(lambda: package(query, points))


def captum_arm(model: Any, query: Query, points: int, internal_batch: int) -> tuple[Arm, np.ndarray]:
    """captum."""
    return peer_arm(lambda: captum_attribution(model, query, points, internal_batch))


def torch_arm(model: Any, query: Query, rule: Quadrature) -> tuple[Arm, np.ndarray]:
    """PyTorch by hand."""
    return peer_arm(lambda: torch_attribution(model, query, list(rule.points_M), list(rule.weights_M)))
