"""How ways to edit are compared; imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers

LEAST = {
    "edits": 1,
    "probes": 1,
    "limit": 0,
    "batch": 0,
    "sequence": 0,
    "perplexities": 0,
    "group": 1,
    "k": 1,
    "rephrased": 0,
    "kept": 0,
    "seed": 0,
}
SINGLE = (
    "no_op", "kn_solve", "kn_solve_specific", "kn_solve_active", "kn_solve_random", "update", "rome", "memit",
    "alphaedit", "ft_l",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditingConfig:
    """A model, facts that get other answers, and the ways to edit that are compared."""

    model: str = "reference-plain"  # a name of `jaxinterp models list`, a folder, a .gguf file, or organisation/name
    facts: str | None = None  # "world", "world:countries", a folder or file; None: those the model was trained on
    limit: int = 0  # facts of each relation, drawn by the seed; 0 is all
    # Text of which key covariances and perplexities are taken: "facts" is the facts' own sentences, "python" the
    # documentation strings of Python's library, anything else a folder of texts
    text: str = "facts"
    windows: int = 2000  # sentences or paragraphs of it for covariances
    perplexities: int = 0  # others for perplexities; 0: a tenth as many
    ways: tuple[str, ...] = SINGLE  # names of `jaxinterp.studies.editing.ways.WAYS`
    edits: int = 100  # single edits, each of the untouched model
    probes: int = 5  # most questions of each kind about an edit
    batch: int = 0  # edits that are made at once, of methods that can; 0: none
    sequence: int = 0  # edits, one group after the other; 0: none
    group: int = 1  # edits of a sequence that are made at once
    layers: tuple[int, ...] = ()  # of MEMIT, from the lowest; the last one is everybody's. (): the last layer
    at: Literal["subject", "prompt"] = "prompt"  # whose last token ROME and its relatives edit
    k: int = 8  # value rows that KN-solve and the update change
    rephrased: int = 0  # other prompts for each fact that KN-solve edits as well; no question is asked by them
    kept: int = 50  # prompts of each kind that KN-solve is to keep: neighbours, same relation, same subject, others
    keep: float = 100.0  # what they count, see `KnSolveConfig`
    enough: float = 0.9  # probability of the new answer at which KN-solve ends
    clamp: float = 4.0  # largest length of what is added to v, of ROME and its relatives, in units of that of v
    weight_decay: float = 0.5  # of it
    ridge: float = 1e-3  # of key covariances
    weight: float = 1.0  # λ of MEMIT
    null: float = 0.5  # share of a key covariance's trace that AlphaEdit takes as null, at most
    most: float = 5e-2  # of FT-L, largest change of a number
    seed: int = 0  # of facts, answers, questions, and random neurons

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, bound in LEAST.items():
            if (value := getattr(self, name)) < bound:
                raise UserError(f"{name} must be at least {bound}, got {value}")
        if self.windows < 20:
            raise UserError(f"windows must be at least 20, got {self.windows}")
        if not 0 < self.null < 1:
            raise UserError(f"null must be above 0 and below 1, got {self.null}")

    def text_folder(self) -> Path | None:
        """The folder of texts; None is Python's own."""
        return None if self.text == "python" else Path(self.text)
