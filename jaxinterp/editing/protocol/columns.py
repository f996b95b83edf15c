"""The columns of an edit's outcome: each has a name and a formula, and none is teacher-forced but by name."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.editing.protocol.case import KINDS, Probe
from jaxinterp.editing.protocol.encoded import WITH_KL
from jaxinterp.editing.protocol.questions import Prepared, Says, says
from jaxinterp.editing.protocol.texts import consistency, fluency
from jaxinterp.models.language_model import LanguageModel

DISABLING = 2.0  # times the perplexity of the unedited model, above which an edit has disabled it
SHARE, DIFFERENCE, POSITIVE = (0.0, 100.0), (-100.0, 100.0), (0.0, math.inf)


class Quantity(NamedTuple):
    """What is taken from each probe."""

    formula: str
    limits: tuple[float, float]
    value: Callable[[Says, Says], Float[np.ndarray, " N"]]  # (before, after); NaN where a probe has none


@dataclasses.dataclass(frozen=True)
class Column:
    """A number of an outcome."""

    formula: str  # stands alone
    limits: tuple[float, float]


def _score(before: Says, after: Says) -> np.ndarray:
    return _where_compared(after, 100.0 * (after.log_p_N > after.log_p_other_N))


def _score_per_token(before: Says, after: Says) -> np.ndarray:
    more = after.log_p_N / after.tokens_N > after.log_p_other_N / after.other_tokens_N
    return _where_compared(after, 100.0 * more)


def _where_compared(after: Says, value_N: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(after.log_p_other_N), np.nan, value_N)


def _only(where_N: np.ndarray, after: Says) -> np.ndarray:
    return np.where(where_N, 100.0 * after.right_N, np.nan)


QUANTITIES: Mapping[str, Quantity] = {
    "score": Quantity(
        "% of prompts with P(expected) > P(other); P of an answer is the product over its tokens", SHARE, _score
    ),
    "score_per_token": Quantity(
        "% of prompts with P(expected)^(1/tokens) > P(other)^(1/tokens), as ROME's code compares",
        SHARE,
        _score_per_token,
    ),
    "magnitude": Quantity(
        "mean of P(expected) − P(other), in percentage points",
        DIFFERENCE,
        lambda before, after: 100 * (np.exp(after.log_p_N) - np.exp(after.log_p_other_N)),
    ),
    "accuracy": Quantity(
        "% of prompts after which greedy generation begins with all tokens of expected",
        SHARE,
        lambda before, after: 100.0 * after.right_N,
    ),
    "ended": Quantity(
        "% of prompts after which greedy generation begins with all tokens of expected, and no letter or digit that "
        "would continue its last word comes next",
        SHARE,
        lambda before, after: 100.0 * (after.right_N & after.ended_N),
    ),
    "teacher_forced": Quantity(
        "mean % of the tokens of expected that are most probable after the prompt and the true tokens before them",
        SHARE,
        lambda before, after: 100 * after.forced_N,
    ),
    "kept": Quantity(
        "% of the prompts answered right before the edit (by greedy generation) that are answered right after it",
        SHARE,
        lambda before, after: _only(before.right_N, after),
    ),
    "accuracy_of_known": Quantity(
        "% right by greedy generation, of the prompts that got the other answer before the edit",
        SHARE,
        lambda before, after: _only(before.right_other_N, after),
    ),
    "kl": Quantity(
        "mean KL(P before ‖ P after) of the next token, in nats", POSITIVE, lambda before, after: _kl(before, after)
    ),
}
_ASKED = ("score", "score_per_token", "magnitude", "accuracy", "ended", "teacher_forced")
_RIPPLE = ("score", "accuracy", "accuracy_of_known")
# Kind -> the name that its columns begin with, and what is taken from it.
_OF_KIND: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "edited": ("efficacy", _ASKED),
    "paraphrase": ("paraphrase", _ASKED),
    "neighbourhood": ("neighbourhood", ("score", "score_per_token", "magnitude", "accuracy", "kept", "kl")),
    "neighbourhood_plus": ("neighbourhood_plus", ("score", "magnitude", "accuracy", "kl")),
    "same_relation": ("same_relation", ("kept",)),
    "same_subject": ("same_subject", ("kept",)),
    "other": ("other", ("kept",)),
    "inverse": ("inverse", _RIPPLE),
    "alias": ("alias", _RIPPLE),
    "two_hop": ("two_hop", _RIPPLE),
}
# Harmonic means of the means over edits, as ROME's S.
COMBINED: Mapping[str, tuple[str, ...]] = {
    "overall_score": ("efficacy_score", "paraphrase_score", "neighbourhood_score"),
    "overall_score_per_token": tuple(f"{of}_score_per_token" for of in ("efficacy", "paraphrase", "neighbourhood")),
    "overall_accuracy": ("efficacy_accuracy", "paraphrase_accuracy", "neighbourhood_accuracy"),
    "overall_plus": ("efficacy_score", "paraphrase_score", "neighbourhood_plus_score"),
}
_WHOLE = {
    "fluency": Column(
        "mean over continuations of ½ (⅔ H₂ + 4⁄3 H₃), entropies of their 2- and 3-grams of words, in bits", POSITIVE
    ),
    "consistency": Column("cosine of TF-IDF vectors of the continuations and of the reference texts", (0.0, 1.0)),
    "perplexity_ratio": Column("perplexity of given texts after the edit, divided by that before it", POSITIVE),
    "disabling": Column(f"% of edits with perplexity_ratio above {DISABLING:g}: disabling edits", SHARE),
}


def _columns() -> dict[str, Column]:
    found: dict[str, Column] = {}
    for kind, (name, quantities) in _OF_KIND.items():
        of = {quantity: QUANTITIES[quantity] for quantity in quantities}
        found |= {f"{name}_{q}": Column(f"{x.formula}; prompts: {KINDS[kind]}", x.limits) for q, x in of.items()}
        found[f"{name}_prompts"] = Column(f"number of prompts: {KINDS[kind]}", POSITIVE)
    combined = {
        name: Column(f"harmonic mean of the means over edits of {', '.join(parts)}", SHARE)
        for name, parts in COMBINED.items()
    }
    return found | _WHOLE | combined


COLUMNS: Mapping[str, Column] = _columns()
# What the literature calls them.
SHORT: Mapping[str, str] = {
    "efficacy_score": "ES", "efficacy_accuracy": "EA", "efficacy_magnitude": "EM",
    "paraphrase_score": "PS", "paraphrase_accuracy": "PA", "paraphrase_magnitude": "PM",
    "neighbourhood_score": "NS", "neighbourhood_accuracy": "NA", "neighbourhood_magnitude": "NM",
    "neighbourhood_plus_score": "NS+", "neighbourhood_kl": "NKL", "neighbourhood_plus_kl": "NKL+",
    "overall_score": "S", "overall_accuracy": "SA", "overall_plus": "S+", "fluency": "GE", "consistency": "RS",
}  # fmt: skip


def outcome(
    edited: LanguageModel,
    before: Says,
    asked: Prepared,
    *,
    n_generated: int = 0,
    perplexities: tuple[float, float] | None = None,
) -> dict[str, float]:
    """The columns of one edit; see `columns_of`.

    Args:
      edited: the model with the edit.
      before: what the model without it says, `says(model, asked, n_generated)`; once for each case.
      asked: the case.
      n_generated: tokens of each continuation; 0 leaves fluency and consistency out.
      perplexities: of some texts before and after the edit.
    """
    after = says(edited, asked, n_generated)
    return columns_of(before, after, asked.probes, asked.case.references, perplexities)


def columns_of(
    before: Says,
    after: Says,
    probes: Sequence[Probe],
    references: Sequence[str] = (),
    perplexities: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Every column of `COLUMNS` but those of `COMBINED`: the mean of a quantity over the probes of a kind.

    NaN where a kind has no probes that have the quantity; the number of its probes stands in its column "…_prompts".

    Args:
      before, after: what the model says without and with the edit.
      probes: to which.
      references: texts that continuations are compared with.
      perplexities: of some texts before and after the edit.
    Raises:
      ValueError: if what is said is of other probes.
    """
    kinds = np.array([probe.kind for probe in probes])
    n_kl = sum(probe.kind in WITH_KL for probe in probes)
    if not len(before.next_log_p_KV) == len(after.next_log_p_KV) == n_kl or len(before.right_N) != len(kinds):
        raise ValueError("what a model says is of another case")
    at_kl = np.flatnonzero(np.isin(kinds, WITH_KL))
    columns: dict[str, float] = {}
    for kind, (name, quantities) in _OF_KIND.items():
        rows = np.flatnonzero(kinds == kind)
        own = [_rows(said, rows, at_kl) for said in (before, after)]
        columns |= {f"{name}_{quantity}": _mean(QUANTITIES[quantity].value(*own)) for quantity in quantities}
        columns[f"{name}_prompts"] = float(len(rows))
    columns["fluency"] = fluency(after.texts)
    columns["consistency"] = consistency(after.texts, references)
    ratio = math.nan if perplexities is None else perplexities[1] / perplexities[0]
    columns["perplexity_ratio"] = ratio
    columns["disabling"] = math.nan if perplexities is None else 100.0 * (ratio > DISABLING)
    return columns


def _rows(said: Says, rows: np.ndarray, at_kl: np.ndarray) -> Says:
    """What is said to some of the probes."""
    of_kl = said.next_log_p_KV[np.isin(at_kl, rows)]
    of_probes = {name: getattr(said, name)[rows] for name in Says._fields if name.endswith("_N")}
    return said._replace(**of_probes, next_log_p_KV=of_kl)


def _kl(before: Says, after: Says) -> np.ndarray:
    one_KV, other_KV = (said.next_log_p_KV.astype(np.float64) for said in (before, after))
    return (np.exp(one_KV) * (one_KV - other_KV)).sum(-1)


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan
