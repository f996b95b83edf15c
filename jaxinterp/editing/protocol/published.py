"""Cases out of published files: CounterFact, and zsRE as it is published for editing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jaxinterp.base.errors import UserError
from jaxinterp.editing.protocol.case import Case, Probe, case
from jaxinterp.editing.request import request
from jaxinterp.facts.facts import SUBJECT
from jaxinterp.facts.readers.counterfact import json_records, rewrite
from jaxinterp.facts.readers.lines import field, text_field
from jaxinterp.facts.spelling import space_between

New = Literal["alt", "answers"]


def read_counterfact_cases(path: Path) -> list[Case]:
    """A case for each record of a CounterFact file (Meng et al. 2022).

    `requested_rewrite` is the edit: its template `prompt` with the subject at {}, from `target_true` to `target_new`.
    `paraphrase_prompts` are paraphrases, `neighborhood_prompts` the neighbourhood. `attribute_prompts` ask for other
    subjects of which the new answer is true: they are of the kind "same_relation", are expected to keep it, and are
    compared with the old one. `generation_prompts` are continued. A record without one of these lists has no such
    probes; its `left_out` says so. Other fields are not used.

    Raises:
      UserError: if the file is no list of records (with the line), or a record is broken (with its number, from 1).
    """
    found = []
    for place, record in json_records(path, "CounterFact's"):
        relation, template, subject, true = rewrite(record, place)
        asked = field(record, "requested_rewrite", dict, place)
        within = f"{place}, requested_rewrite"
        target = text_field(field(asked, "target_new", dict, within), "str", f"{within}, target_new")
        new, old = _answer(template, target, f"{within}, target_new"), _answer(template, true, f"{within}, target_true")
        if new == old:
            raise UserError(f"{place}: the new answer is the old one, {true!r}; correct one of them")
        left_out: dict[str, int] = {}
        kinds = {
            "paraphrase": ("paraphrase_prompts", new, old),
            "neighbourhood": ("neighborhood_prompts", old, new),
            "same_relation": ("attribute_prompts", new, old),
        }
        probes = [
            Probe(kind, prompt, expected, other)
            for kind, (name, expected, other) in kinds.items()
            for prompt in _texts(record, name, place, left_out)
        ]
        edit = request(template, subject, new, old, relation=relation)
        generation = _texts(record, "generation_prompts", place, left_out)
        found.append(case(edit, probes, generation=generation, left_out=left_out))
    return found


def read_zsre_cases(path: Path, new: New = "alt") -> list[Case]:
    """A case for each record of a zsRE file for editing (Mitchell et al. 2022, who took it from De Cao et al. 2021).

    `src` is the prompt, with `subject` in it; `rephrase` is its paraphrase; `loc`, a question of another data set, is
    expected to keep `loc_ans`, and gets a question mark if it has none, as in the code of ROME. There are two ways to
    use the answers, which are not the same task:

    - "alt": from the first of `answers`, the true one, to `alt`, a false one (KnowledgeEditor, MEND, EasyEdit);
    - "answers": to the first of `answers`, from whatever the model says (ROME, MEMIT). There is no old answer then, and
      nothing that the new one's probability could be compared with: all scores are NaN.

    Other fields (`pred`, which another model said, and `cond`) are not used.

    Raises:
      UserError: if the file is no list of records, or a record is broken (with its number, from 1).
    """
    found = []
    for place, record in json_records(path, "zsRE's"):
        names = ("subject", "src", "rephrase", "loc", "loc_ans")
        subject, prompt, rephrased, loc, loc_answer = (text_field(record, name, place) for name in names)
        answers = field(record, "answers", list, place)
        if not answers or not isinstance(answers[0], str):
            raise UserError(f"{place}: the field 'answers' must be a list that begins with a text, got {answers!r:.60}")
        if not subject.strip() or subject not in prompt:
            raise UserError(f"{place}: the subject {subject!r} is not in the prompt {prompt!r}; correct one of them")
        true = _answer(prompt, answers[0], f"{place}, answers")
        changed, old = true, None
        if new == "alt":
            changed, old = _answer(prompt, text_field(record, "alt", place), f"{place}, alt"), true
        if changed == old:
            raise UserError(f"{place}: the new answer is the old one, {answers[0]!r}; correct one of them")
        loc = loc if loc.rstrip().endswith("?") else f"{loc}?"
        probes = [
            Probe("paraphrase", rephrased, changed, old),
            Probe("other", loc, _answer(loc, loc_answer, f"{place}, loc_ans")),
        ]
        first, _, rest = prompt.partition(subject)
        if SUBJECT in first + rest:
            raise UserError(f"{place}: the prompt {prompt!r} has {SUBJECT} in it; take it out")
        found.append(case(request(f"{first}{SUBJECT}{rest}", subject, changed, old), probes))
    return found


def _answer(prompt: str, answer: str, place: str) -> str:
    """The answer as it follows the prompt, with its space."""
    if not answer.strip():
        raise UserError(f"{place}: the answer is empty; give it")
    return space_between(prompt, answer) + answer


def _texts(record: Mapping[str, object], name: str, place: str, left_out: dict[str, int]) -> list[str]:
    """A list of texts; one that is not there is counted."""
    if name not in record:
        left_out[f"the record has no {name}"] = 1
        return []
    texts: list[str] = list(field(record, name, list, place))
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{place}: {name} must be a list of texts, got {text!r:.60} in it")
    return texts
