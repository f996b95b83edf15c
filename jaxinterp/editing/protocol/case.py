"""One edit and the questions by which it is judged."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.editing.request import Request
from jaxinterp.facts.facts import Text

KINDS: Mapping[str, str] = {
    "edited": "the prompt that was edited; expected is the new answer, other the old one",
    "paraphrase": "other prompts for the edited fact; expected is the new answer, other the old one",
    "neighbourhood": "other subjects of the relation with the same old answer; expected is it, other the new answer",
    "neighbourhood_plus": "neighbourhood prompts after the sentence of the edit (CounterFact+)",
    "same_relation": "other subjects of the relation with other answers, which are expected",
    "same_subject": "other relations of the subject; their answers are expected",
    "other": "facts that have nothing in common with the edited one; their answers are expected",
    "inverse": "the inverse relation asked of the new answer; expected is the subject, other its answer before",
    "alias": "the edited prompt with another name of the subject; expected is the new answer, other the old one",
    "two_hop": "a relation of the edited answer; expected is the new answer's, other the old answer's",
}
CHANGED = ("edited", "paraphrase", "inverse", "alias", "two_hop")  # what an edit should change; the rest is to stay


@dataclasses.dataclass(frozen=True)
class Probe:
    """A question with the answer that is right after the edit. Answers begin with their space, as in a request."""

    kind: str  # a name of `KINDS`
    prompt: str  # what stands before the answer
    expected: str  # right after the edit
    other: str | None = None  # what its probability is compared with; None: it is not compared
    after: str = ""  # what stands after the answer; a causal model does not read it

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of probe", self.kind, KINDS)
        for name in ("expected", "other"):
            answer = getattr(self, name)
            if answer is not None and not answer.strip():
                raise UserError(f"the {name} answer of the probe {self.prompt!r} is empty; give it, with its space")

    def text(self, answer: str) -> Text:
        """The prompt with an answer, in three parts."""
        return Text(self.prompt, answer, self.after)


@dataclasses.dataclass(frozen=True)
class Case:
    """A request with its probes; make one with `case`."""

    request: Request
    probes: tuple[Probe, ...]  # the edited prompt first
    generation: tuple[str, ...] = ()  # prompts that are continued for fluency and consistency
    references: tuple[str, ...] = ()  # texts that the continuations are compared with
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)  # probes that could not be made, by reason

    def __post_init__(self) -> None:
        if not self.probes or self.probes[0].kind != "edited" or [p.kind for p in self.probes].count("edited") > 1:
            raise UserError(f"the case of {self.request.prompt!r} needs its edited prompt as first probe, once")

    def of(self, kind: str) -> tuple[Probe, ...]:
        """The probes of a kind.

        Raises:
          UserError: if there is no such kind.
        """
        if kind not in KINDS:
            raise unknown("kind of probe", kind, KINDS)
        return tuple(probe for probe in self.probes if probe.kind == kind)


def case(
    request: Request,
    probes: Sequence[Probe] = (),
    *,
    generation: Sequence[str] = (),
    references: Sequence[str] = (),
    left_out: Mapping[str, int] | None = None,
) -> Case:
    """A case: the edited prompt, the request's paraphrases, the given probes, and CounterFact+ prompts of neighbours.

    CounterFact+ (Hoelscher-Obermaier et al. 2023) puts the sentence of the edit before a neighbourhood prompt: "The
    capital of Peru is Rome. The capital of Italy is".

    Args:
      request: the edit.
      probes: of the other kinds, and paraphrases that the request does not have.
      generation, references, left_out: see `Case`.
    Raises:
      UserError: if a probe is of a kind that is made here, or an answer is empty.
    """
    for probe in probes:
        if probe.kind in ("edited", "neighbourhood_plus"):
            raise UserError(f"probes of the kind {probe.kind!r} are made of the request; leave {probe.prompt!r} out")
    edited = [
        Probe(kind, asked.prompt, asked.new, asked.old, asked.after)
        for kind, asked in (("edited", request), *(("paraphrase", one) for one in request.paraphrases))
    ]
    sentence = f"{request.prompt}{request.new}{request.after or '.'} "
    plus = [
        dataclasses.replace(probe, kind="neighbourhood_plus", prompt=sentence + probe.prompt)
        for probe in probes
        if probe.kind == "neighbourhood"
    ]
    return Case(request, (*edited, *probes, *plus), tuple(generation), tuple(references), dict(left_out or {}))
