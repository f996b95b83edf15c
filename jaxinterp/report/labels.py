"""What readers are told each set of facts and each metric is; the words of the charts and the report."""

from collections.abc import Mapping

from jaxinterp.metrics import registry
from jaxinterp.metrics.registry import Label

SETS: Mapping[str, Label] = {
    "objective": Label("In the objective", "facts and prompts that the training objective acts on"),
    "held_out_prompts": Label("Held-out prompts", "the facts in the objective, with prompts that it never acts on"),
    "unseen_facts": Label("Unseen facts", "facts that the objective never acts on, of relations that it does act on"),
    "facts": Label("Facts", "all facts, whether the model knows them or not"),
    "known_facts": Label("Known facts", "facts that the model answers correctly"),
    "unseen_relations": Label("Unseen relations", "facts of relations that the objective never acts on"),
}


def metric_label(name: str) -> Label:
    """What a metric is called; one that nobody described is shown by its name."""
    known = name in registry.METRICS.names()
    return registry.METRICS[name].label if known else Label(name.replace("_", " "), "")


def metric_labels() -> dict[str, Label]:
    """What all metrics are called, those that were registered late included."""
    return {name: registry.METRICS[name].label for name in registry.METRICS.names()}


def set_label(name: str) -> Label:
    """What a set of facts is called; one that nobody described is shown by its name."""
    return SETS.get(name) or Label(name.replace("_", " "), "")
