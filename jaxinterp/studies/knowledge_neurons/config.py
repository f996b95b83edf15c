"""How the protocol of "Knowledge Neurons in Pretrained Transformers" is run; imports no JAX."""

import dataclasses

from jaxinterp.attribution.config import IntegralConfig, Rule
from jaxinterp.base.errors import UserError

LEAST = {"limit": 0, "tried": 0, "prompts": 0, "k": 1, "rows": 1, "replicates": 1, "seed": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnowledgeNeuronsConfig(IntegralConfig):
    """A model, facts, and how they are attributed. The attribution's defaults are those of the paper's code."""

    facts: str  # "world", "world:countries,elements", or a folder or file of facts
    # A name of `jaxinterp models list`, a folder, a .gguf file, or organisation/name
    model: str = "smollm2-135m-instruct-q4"
    limit: int = 10  # facts of each relation, drawn by the seed; 0 is all
    prompts: int = 5  # prompts per fact, drawn by the seed; 0 is all; the paper's rule needs at least 3
    known_only: bool = False  # keep, before the limit, the facts that the model gets right on one of its prompts
    tried: int = 0  # most facts of each relation that are tried for known_only, drawn by the seed; 0 is all
    one_token: bool = False  # keep, before the limit, the facts whose answers are one token, as the paper's rule does
    k: int = 10  # neurons per answer token, of the protocol with a fixed number
    rule: Rule = "left"  # of the integral; left is the paper's code
    rows: int | None = None  # answer tokens attributed at once; None is 32, or a longest answer's
    replicates: int = 1000  # bootstrap replicates
    seed: int = 0  # of facts, prompts, other facts, random neurons and the bootstrap

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, bound in LEAST.items():
            if (value := getattr(self, name)) is not None and value < bound:
                raise UserError(f"{name} must be at least {bound}, got {value}")
