"""CounterFact (Meng et al. 2022): one JSON file, a list of records, each a fact with a template of its relation."""

from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.facts.checks import checked
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.readers.lines import field, name_field, numbered, parsed, read_text, template, text_field


def read_counterfact(path: Path) -> FactSet:
    """The true facts of a CounterFact file.

    A record's `requested_rewrite` has `relation_id`, `subject`, `target_true` (its `str` is the answer) and `prompt`, a
    template with the subject at {} that ends before the answer. The templates of all records of a relation are the
    relation's prompts; the counterfactual targets and the other prompts of a record are not used.

    Raises:
      UserError: if the file is no such list (with the line), or a record lacks a field (with its number, from 1).
    """
    records = parsed(read_text(path), path)
    if not isinstance(records, list) or not records:
        kind = "an empty list" if isinstance(records, list) else type(records).__name__
        raise UserError(f"{path}: expected a list of CounterFact's records, got {kind}")
    prompts: dict[str, dict[str, None]] = {}
    candidates = []
    for number, record in enumerate(records, start=1):
        place = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{place}: expected an object, {{...}}, got {type(record).__name__}")
        rewrite = field(record, "requested_rewrite", dict, place)
        place += ", requested_rewrite"
        relation = name_field(rewrite, "relation_id", place)
        subject, pattern = (text_field(rewrite, name, place) for name in ("subject", "prompt"))
        true = field(rewrite, "target_true", dict, place)
        answer = text_field(true, "str", f"{place}, target_true")
        prompts.setdefault(relation, {})[template(pattern, place, subject="{}", answer=None)] = None
        candidates.append(Fact(relation, subject, answer))
    relations = [
        Relation(name, tuple(prompts[name]), domain="CounterFact", source=path.name) for name in numbered(prompts)
    ]
    return checked(relations, candidates)
