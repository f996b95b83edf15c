"""What readers are told each set of facts and each number is; the words of the charts and the report."""

from collections.abc import Mapping

from jaxinterp.metrics import registry
from jaxinterp.metrics.registry import Term


def term(names: Mapping[str, Term], name: str) -> Term:
    """The name's term; a name that nobody described is shown as it is."""
    return names.get(name, Term(name.replace("_", " "), ""))


SETS: Mapping[str, Term] = {
    "objective": Term("In the objective", "facts and prompts that the training objective acts on"),
    "held_out_prompts": Term("Held-out prompts", "the same facts, asked with prompts that the objective never acts on"),
    "unseen_facts": Term("Unseen facts", "facts that the objective never acts on, of relations that it does act on"),
    "facts": Term("Facts", "all facts, whether the model knows them or not"),
    "known_facts": Term("Known facts", "facts that the model answers correctly"),
    "unseen_relations": Term("Unseen relations", "facts of relations that the objective never acts on"),
}

METRICS: Mapping[str, Term] = {name: registry.METRICS[name].term for name in registry.METRICS.names()}
