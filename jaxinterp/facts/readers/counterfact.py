"""CounterFact (Meng et al. 2022): one JSON file, a list of records, each a fact with a template of its relation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxinterp.base.errors import UserError
from jaxinterp.facts.checks import checked
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.readers.lines import field, name_field, numbered, parsed, read_text, template, text_field


class Rewrite(NamedTuple):
    """What a record says of its fact."""

    relation: str
    prompt: str  # a template with "{subject}" that ends before the answer
    subject: str
    true: str  # the answer


def read_counterfact(path: Path) -> FactSet:
    """The true facts of a CounterFact file.

    A record's `requested_rewrite` has `relation_id`, `subject`, `target_true` (its `str` is the answer) and `prompt`, a
    template with the subject at {} that ends before the answer. The templates of all records of a relation are the
    relation's prompts; the counterfactual targets and the other prompts of a record are not used.

    Raises:
      UserError: if the file is no such list (with the line), or a record lacks a field (with its number, from 1).
    """
    prompts: dict[str, dict[str, None]] = {}
    candidates = []
    for place, record in json_records(path, "CounterFact's"):
        relation, prompt, subject, answer = rewrite(record, place)
        prompts.setdefault(relation, {})[prompt] = None
        candidates.append(Fact(relation, subject, answer))
    relations = [
        Relation(name, tuple(prompts[name]), domain="CounterFact", source=path.name) for name in numbered(prompts)
    ]
    return checked(relations, candidates)


def json_records(path: Path, whose: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The records of a JSON file that is one list of them, each with its place for error messages.

    Args:
      path: the file.
      whose: for messages: "CounterFact's".
    Raises:
      UserError: if the file is no such list (with the line), or a record is no object (with its number, from 1).
    """
    records = parsed(read_text(path), path)
    if not isinstance(records, list) or not records:
        kind = "an empty list" if isinstance(records, list) else type(records).__name__
        raise UserError(f"{path}: expected a list of {whose} records, got {kind}")
    for number, record in enumerate(records, start=1):
        place = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{place}: expected an object, {{...}}, got {type(record).__name__}")
        yield place, record


def rewrite(record: Mapping[str, object], place: str) -> Rewrite:
    """What stands in a CounterFact record's `requested_rewrite`.

    Raises:
      UserError: if a field is missing or of another type, or the prompt does not have {} once.
    """
    found = field(record, "requested_rewrite", dict, place)
    place += ", requested_rewrite"
    relation = name_field(found, "relation_id", place)
    subject, pattern = (text_field(found, name, place) for name in ("subject", "prompt"))
    true = text_field(field(found, "target_true", dict, place), "str", f"{place}, target_true")
    return Rewrite(relation, template(pattern, place, subject="{}", answer=None), subject, true)
