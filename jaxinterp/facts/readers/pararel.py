"""ParaRel (Elazar et al. 2021): a folder with a file of facts and a file of paraphrased templates for each relation."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.checks import checked
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.readers.lines import json_lines, numbered, template, text_field, with_suffix

# Where the templates and the facts are: in a folder of the two, or in the repository of the paper or its data folder.
LAYOUTS = (
    ("templates", "facts"),
    ("pattern_data/graphs_json", "trex_lms_vocab"),
    ("data/pattern_data/graphs_json", "data/trex_lms_vocab"),
)

# Wikidata's labels of the relations that LAMA's part of T-REx has, out of which ParaRel took its own.
TITLES: Mapping[str, str] = {
    "P17": "country",
    "P19": "place of birth",
    "P20": "place of death",
    "P27": "country of citizenship",
    "P30": "continent",
    "P31": "instance of",
    "P36": "capital",
    "P37": "official language",
    "P39": "position held",
    "P47": "shares border with",
    "P101": "field of work",
    "P103": "native language",
    "P106": "occupation",
    "P108": "employer",
    "P127": "owned by",
    "P131": "located in the administrative territorial entity",
    "P136": "genre",
    "P138": "named after",
    "P140": "religion",
    "P159": "headquarters location",
    "P176": "manufacturer",
    "P178": "developer",
    "P190": "twinned administrative body",
    "P264": "record label",
    "P276": "location",
    "P279": "subclass of",
    "P361": "part of",
    "P364": "original language of film or TV show",
    "P407": "language of work or name",
    "P413": "position played on team",
    "P449": "original broadcaster",
    "P463": "member of",
    "P495": "country of origin",
    "P527": "has part",
    "P530": "diplomatic relation",
    "P740": "location of formation",
    "P937": "work location",
    "P1001": "applies to jurisdiction",
    "P1303": "instrument",
    "P1376": "capital of",
    "P1412": "languages spoken, written or signed",
}


def relation_title(name: str) -> str:
    """The name of a relation of ParaRel, LAMA's T-REx or CounterFact, e.g. "capital" for "P36".

    Raises:
      UserError: if it has no title here.
    """
    if name not in TITLES:
        raise unknown("relation", name, TITLES)
    return TITLES[name]


def layout(path: Path) -> tuple[Path, Path] | None:
    """The folders of templates and of facts, or None if this is no folder of ParaRel."""
    for names in LAYOUTS:
        templates, facts = (path / name for name in names)
        if templates.is_dir() and facts.is_dir():
            return templates, facts
    return None


def read_pararel(path: Path) -> FactSet:
    """The facts of a folder of ParaRel; a relation is named after its files, e.g. "P36".

    Templates have the subject at [X] and the answer at [Y] (field `pattern`); facts are `sub_label` and `obj_label`.
    Besides what `checked` drops, `dropped` counts "repeated prompt" and "fact of a relation without templates".

    Raises:
      UserError: if the folder has another layout, a relation with templates has no facts, or a line is broken.
    """
    if (folders := layout(path)) is None:
        accepted = "; ".join(f"{templates}/*.jsonl and {facts}/*.jsonl" for templates, facts in LAYOUTS)
        raise UserError(f"{path} is no folder of ParaRel: it must have {accepted}")
    templates, facts = ({file.stem: file for file in with_suffix(folder, ".jsonl")} for folder in folders)
    if not templates:
        raise UserError(f"no templates: {folders[0]} has no file *.jsonl; copy ParaRel's templates into it")
    if missing := numbered(templates.keys() - facts.keys()):
        raise UserError(
            f"relations {', '.join(missing)} have templates but no facts: {folders[1]} has no file {missing[0]}.jsonl; "
            "add it, or remove the templates"
        )
    relations, candidates, dropped = [], [], Counter()
    for name in numbered(facts):
        own = [
            Fact(name, text_field(record, "sub_label", place), text_field(record, "obj_label", place))
            for place, record in json_lines(facts[name])
        ]
        if name not in templates:
            dropped["fact of a relation without templates"] += len(own)
            continue
        prompts = [
            template(text_field(record, "pattern", place), place, subject="[X]", answer="[Y]")
            for place, record in json_lines(templates[name])
        ]
        distinct = tuple(dict.fromkeys(prompts))
        dropped["repeated prompt"] += len(prompts) - len(distinct)
        relations.append(Relation(name, distinct, domain="ParaRel", source=facts[name].name))
        candidates += own
    return checked(relations, candidates, dropped=+dropped)  # without the reasons that never applied
