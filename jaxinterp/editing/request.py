"""What is to be edited: a prompt with its subject, the answer that it gives, and the one that it is to give."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import ANSWER, SUBJECT, Fact, FactSet, Relation, Text


@dataclasses.dataclass(frozen=True)
class Request:
    """One edit. Texts are read as they stand: an answer that follows a word begins with its space."""

    prompt: str  # what stands before the answer: "The capital of France is"
    subject: tuple[int, int]  # first character of the subject in the prompt, and the one after its last
    new: str  # the answer that the prompt is to give: " Rome"
    old: str | None = None  # the answer that it gives; None is the most probable token
    after: str = ""  # what stands after the answer; nothing in a causal model
    relation: str = ""  # of the fact, by which neurons are counted
    paraphrases: tuple["Request", ...] = ()  # the same with other prompts; no method reads them

    def __post_init__(self) -> None:
        start, end = self.subject
        if not 0 <= start < end <= len(self.prompt + self.after):
            raise UserError(f"the subject's place {start}:{end} is not in the prompt {self.prompt!r}; give first, end")
        for name in ("new", "old"):
            answer = getattr(self, name)
            if answer is not None and not answer.strip():
                raise UserError(f"the {name} answer of {self.prompt!r} is empty; give the answer, with its space")

    @property
    def subject_text(self) -> str:
        """The subject as it stands in the prompt."""
        return (self.prompt + self.after)[slice(*self.subject)]

    def text(self, answer: str) -> Text:
        """The prompt with an answer, in three parts."""
        return Text(self.prompt, answer, self.after)


def request(
    template: str,
    subject: str,
    new: str,
    old: str | None = None,
    *,
    relation: str = "",
    paraphrases: Sequence[str] = (),
) -> Request:
    """A request by hand.

    Args:
      template: the prompt up to the answer, with {subject} once: "The capital of {subject} is".
      subject: what stands there.
      new, old: answers, as they stand: " Rome".
      relation: of the fact.
      paraphrases: other templates.
    Raises:
      UserError: if the template does not have {subject} once, or an answer is empty.
    """
    if template.count(SUBJECT) != 1:
        raise UserError(f"the prompt {template!r} has {template.count(SUBJECT)} times {SUBJECT}; write it once")
    start = template.index(SUBJECT)
    others = tuple(request(text, subject, new, old, relation=relation) for text in paraphrases)
    place = (start, start + len(subject))
    return Request(template.replace(SUBJECT, subject), place, new, old, relation=relation, paraphrases=others)


def requests_of(facts: FactSet, answers: Mapping[int, str], prompt: int = 0) -> list[Request]:
    """Requests that give facts other answers.

    Args:
      facts: as for the model; for a causal one, `answer_last()`.
      answers: index of the fact -> its new answer, without a space before it.
      prompt: of the relation; the others are the paraphrases.
    Raises:
      UserError: if there is no such fact or prompt, or an answer is empty.
    """
    found = []
    for index, new in answers.items():
        if not 0 <= index < len(facts):
            raise UserError(f"there is no fact {index}; the set has 0 to {len(facts) - 1}")
        fact = facts.facts[index]
        relation = facts.relation[fact.relation]
        if not 0 <= prompt < len(relation.prompts):
            raise UserError(
                f"relation {relation.name!r} has no prompt {prompt}; it has 0 to {len(relation.prompts) - 1}"
            )
        others = [other for number, other in enumerate(relation.prompts) if number != prompt]
        one, *paraphrases = (_asked(relation, template, fact, new) for template in (relation.prompts[prompt], *others))
        found.append(dataclasses.replace(one, paraphrases=tuple(paraphrases)))
    return found


def _asked(relation: Relation, template: str, fact: Fact, new: str) -> Request:
    text, start = relation.text(template, fact.subject, new), _start(template)
    old = relation.text(template, fact.subject, fact.answer).answer
    place = (start, start + len(fact.subject))
    return Request(text.before, place, text.answer, old, text.after, fact.relation)


def _start(template: str) -> int:
    """Where the subject stands in the prompt and what comes after the answer, put side by side."""
    before, _, after = template.partition(ANSWER)
    if SUBJECT in before:
        return before.index(SUBJECT)
    # The space before an answer is part of it; see `Relation.text`.
    return len(before.removesuffix(" ")) + after.index(SUBJECT)


def described(requests: Sequence[Request]) -> list[dict]:
    """Requests as JSON, for what is said of a change."""
    return [
        {"prompt": one.prompt, "after": one.after, "subject": one.subject_text, "new": one.new, "old": one.old}
        for one in requests
    ]
