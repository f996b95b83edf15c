"""Facts by the text that names them on a command line, or by several."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.fetching import SOURCES, fetched
from jaxinterp.facts.readers.counterfact import read_counterfact
from jaxinterp.facts.readers.lama import read_lama
from jaxinterp.facts.readers.lines import json_lines, with_suffix
from jaxinterp.facts.readers.pararel import layout, read_pararel
from jaxinterp.facts.readers.table import COLUMNS, read_table

WORLD = "world"
ACCEPTED = (
    f'"{WORLD}", "{WORLD}:countries", "pararel", a folder of ParaRel or LAMA, a CounterFact .json, a LAMA .jsonl, or '
    f"a table .csv or .jsonl with {', '.join(COLUMNS)}"
)


def load_facts(spec: str | Sequence[str]) -> FactSet:
    """The facts that a text names, or those of several together.

    Relations of equal names in several sources are kept apart: each gets its source before its name, as in
    "pararel:P36" and "counterfact:P36" (the name of a file or folder without its ending; "world" for WorldFacts).

    Args:
      spec: "world" for all facts of the installed data packages, "world:countries,elements" for some of their domains;
        "pararel" for what `jaxinterp facts fetch pararel` has brought here, unless a folder here has that name;
        otherwise the path of a folder (ParaRel or LAMA, by what is in it), of a ".json" file (CounterFact), a ".csv"
        file (a table of one's own) or a ".jsonl" file (LAMA or a table, by its first line's fields). A file that is
        called "world" is "./world". Several of them are a sequence.
    Raises:
      UserError: if a text names nothing of this, what it names is broken, or a source or a relation's name with its
        source stands twice.
    """
    if isinstance(spec, str):
        return _one(spec)
    specs = tuple(spec)
    if not specs:
        raise UserError(f"no facts are named; accepted, one or several: {ACCEPTED}")
    if repeated := [name for name, count in Counter(specs).items() if count > 1]:
        raise UserError(f"the facts {repeated[0]!r} are named twice; name each source once")
    return _joined({name: _one(name) for name in specs})


def _joined(sources: dict[str, FactSet]) -> FactSet:
    """The facts of all sources; relations of equal names have their source before their name."""
    if len(sources) == 1:
        return next(iter(sources.values()))
    n_sources = Counter(relation.name for facts in sources.values() for relation in facts.relations)
    relations, facts, dropped = [], [], Counter()
    for spec, own in sources.items():
        is_world = spec.partition(":")[0] == WORLD
        source = WORLD if is_world else Path(spec).expanduser().resolve().stem
        named = {r.name: f"{source}:{r.name}" if n_sources[r.name] > 1 else r.name for r in own.relations}
        relations += [dataclasses.replace(relation, name=named[relation.name]) for relation in own.relations]
        facts += [dataclasses.replace(fact, relation=named[fact.relation]) for fact in own.facts]
        dropped.update(own.dropped)
    for name, count in Counter(relation.name for relation in relations).items():
        if count > 1:
            source, _, relation = name.partition(":")
            raise UserError(
                f"two sources {source!r} have a relation {relation!r} each; name each source once, or rename one of "
                "the files or folders"
            )
    return FactSet(tuple(relations), tuple(facts), dict(dropped))


def _one(spec: str) -> FactSet:
    """The facts of one source."""
    source, colon, domains = spec.partition(":")
    if source == WORLD:
        # The data packages take seconds to import, and files of facts do without them.
        from jaxinterp.facts.worldfacts import world_facts

        if colon and not domains:
            raise UserError(f'{spec!r} names no domain; write "{WORLD}" for all, or domains with commas between them')
        return world_facts(domains.split(",") if domains else ())
    path = Path(spec).expanduser()
    if spec in SOURCES and not path.exists():
        return _one(str(fetched(spec)))
    if not spec or not path.exists():
        several = " (put spaces between several)" if "," in spec else ""
        raise UserError(f"no facts at {spec!r}: no such file or folder{several}; accepted: {ACCEPTED}")
    if path.is_dir():
        if layout(path) is not None:
            return read_pararel(path)
        if with_suffix(path, ".jsonl"):
            return read_lama(path)
        raise UserError(f"the folder {spec!r} has no facts of a known form; accepted: {ACCEPTED}")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return read_table(path)
    if suffix == ".json":
        return read_counterfact(path)
    if suffix == ".jsonl":
        place, record = next(json_lines(path))
        if "obj_label" in record:
            return read_lama(path)
        if record.keys() & set(COLUMNS):
            return read_table(path)
        raise UserError(f"{place}: neither LAMA's fields nor a table's: {', '.join(record)}; accepted: {ACCEPTED}")
    raise UserError(f"{spec!r} has an unknown ending {path.suffix!r}; accepted: {ACCEPTED}")
