"""Facts by the one text that names them on a command line."""

from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.readers.counterfact import read_counterfact
from jaxinterp.facts.readers.lama import read_lama
from jaxinterp.facts.readers.lines import json_lines, with_suffix
from jaxinterp.facts.readers.pararel import layout, read_pararel
from jaxinterp.facts.readers.table import COLUMNS, read_table

WORLD = "world"
ACCEPTED = (
    f'"{WORLD}", "{WORLD}:countries,elements", a folder of ParaRel or of LAMA files, a CounterFact file .json, '
    f"a LAMA file .jsonl, or a table of your own, .csv or .jsonl, with the columns {', '.join(COLUMNS)}"
)


def load_facts(spec: str) -> FactSet:
    """The facts that a text names.

    Args:
      spec: "world" for all facts of the installed data packages, "world:countries,elements" for some of their domains;
        otherwise the path of a folder (ParaRel or LAMA, by what is in it), of a ".json" file (CounterFact), a ".csv"
        file (a table of one's own) or a ".jsonl" file (LAMA or a table, by its first line's fields). A file that is
        called "world" is "./world".
    Raises:
      UserError: if the text names nothing of this, or what it names is broken.
    """
    source, colon, domains = spec.partition(":")
    if source == WORLD:
        # The data packages take seconds to import, and files of facts do without them.
        from jaxinterp.facts.worldfacts import world_facts

        if colon and not domains:
            raise UserError(f'{spec!r} names no domain; write "{WORLD}" for all, or domains with commas between them')
        return world_facts(domains.split(",") if domains else ())
    path = Path(spec).expanduser()
    if not spec or not path.exists():
        raise UserError(f"no facts at {spec!r}: no such file or folder; accepted: {ACCEPTED}")
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
