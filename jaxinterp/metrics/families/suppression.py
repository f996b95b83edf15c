"""Suppressability and its companions: what switching neurons off or doubling them does to the answers."""

from collections.abc import Callable, Mapping

import numpy as np

from jaxinterp.facts.controls import CONTROL_KINDS, KINDS
from jaxinterp.metrics.drops import WHOSE, drop
from jaxinterp.metrics.families.answers import LENGTHS
from jaxinterp.metrics.registry import Mean, Values, derived, largest, metric


@metric(
    "suppressability",
    needs=("probability", "suppressed"),
    title="Suppressability",
    symbol="S",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
    source="Dai et al. 2021, averaged",
)
def suppressability(mean: Mean) -> Values:
    """1 − mean P(a fact's own knowledge neurons off) / mean P: the share of the answers' probability that is lost when
    the k knowledge neurons of each answer, however many tokens it has, are switched off. 100%: the answers are gone.
    """
    return drop(mean, "suppressed")


def _register_control(kind: str) -> None:
    symbol, better = f"C_{kind}", "neither" if kind == "answer" else "lower"
    fields = {"unit": "%", "better": better, "source": "Dai et al. 2021, unrelated facts"}

    def defined(formula: Callable[[Mean], Values], text: str) -> Callable[[Mean], Values]:
        formula.__doc__ = text
        return formula

    metric(
        f"control_drop_{kind}",
        needs=("probability", f"control_{kind}"),
        title=f"Control drop, {kind}",
        symbol=symbol,
        range=(-np.inf, 1.0),
        **fields,
    )(
        defined(
            lambda mean: drop(mean, f"control_{kind}"),
            f"1 − mean P(off) / mean P: the share of the answers' probability that is lost when the knowledge neurons "
            f"of {WHOSE[kind]} are off.{' It is for information, and no part of C.' * (kind == 'answer')}",
        )
    )
    for form, column, words in (
        ("one_sided", "lost", "Mean relu(P − P(off)) / mean P: the share that answers lose, whatever others gain,"),
        ("absolute", "moved", "Mean |P − P(off)| / mean P: the share that answers lose or gain"),
    ):
        metric(
            f"control_drop_{kind}_{form}",
            needs=("probability", f"control_{kind}_{column}"),
            title=f"Control drop, {kind}, {form.replace('_', '-')}",
            range=(0.0, np.inf),
            **fields,
        )(
            defined(
                lambda mean, column=column: mean(f"control_{kind}_{column}") / mean("probability"),
                f"{words} when the knowledge neurons of {WHOSE[kind]} are off. A signed mean hides drops behind rises.",
            )
        )


for _kind in KINDS:
    _register_control(_kind)


@derived(
    "control_drop",
    of=tuple(f"control_drop_{kind}" for kind in CONTROL_KINDS),
    every=False,
    title="Control drop",
    symbol="C",
    unit="%",
    range=(-np.inf, 1.0),
    better="lower",
    source="Dai et al. 2021, unrelated facts, of every kind",
)
def control_drop(values: Mapping[str, Values]) -> Values:
    """The largest of C_relation, C_subject and C_other: the share of an answer's probability that the worst kind of
    other fact's neurons takes. A high S with a high C says that the network has neurons for a relation, for a subject
    or for everything, and none for the fact.
    """
    return largest(values)


@metric(
    "random_drop", needs=("probability", "random"), title="Random drop", unit="%", range=(-np.inf, 1.0), better="lower"
)
def random_drop(mean: Mean) -> Values:
    """1 − mean P(random neurons off) / mean P: the share of the answers' probability that is lost when as many neurons
    as an answer has knowledge neurons, as many in each layer, are drawn from the active ones and switched off.
    """
    return drop(mean, "random")


@derived(
    "selective",
    of=("suppressability", "control_drop"),
    title="Selective suppressability",
    symbol="S − C",
    unit="%",
    better="higher",
)
def selective(values: Mapping[str, Values]) -> Values:
    """Suppressability S less the control drop C: the share of the answers' probability that a fact's own knowledge
    neurons take beyond those of the worst kind of other fact. S is over all answers, and each kind of control over
    those that have one; where these differ, the n of C says over how many facts it is.
    """
    return values["suppressability"] - values["control_drop"]


@metric(
    "token_suppressability",
    needs=("token_probability", "token_suppressed"),
    title="Suppressability of tokens",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
    source="Dai et al. 2021, averaged",
)
def token_suppressability(mean: Mean) -> Values:
    """1 − mean P(a token's own k knowledge neurons off) / mean P, over the tokens of answers, each on its own: one lost
    token does not take the rest of its answer with it.
    """
    return 1 - mean("token_suppressed") / mean("token_probability")


@metric(
    "each_suppressability",
    needs=("probability", "each_suppressed"),
    title="Suppressability, k neurons for each token",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
)
def each_suppressability(mean: Mean) -> Values:
    """Share of the whole answers' probability that is lost when k knowledge neurons are switched off for each token. It
    grows with the number of tokens, because an answer is lost if any of its tokens is.
    """
    return drop(mean, "each_suppressed")


for _n, _words in zip(LENGTHS, ("1 token", "2 tokens", "3 tokens or more"), strict=True):

    @metric(
        f"suppressability_{_n}_token{'s' if _n > 1 else ''}",
        needs=("probability", f"suppressed_length_{_n}"),
        title=f"Suppressability, answers of {_words}",
        words={"words": _words},
        unit="%",
        range=(-np.inf, 1.0),
        better="higher",
    )
    def _of_length(mean: Mean, n: int = _n) -> Values:
        """Suppressability S of answers of {words}, with k neurons off for the whole answer."""
        return drop(mean, f"suppressed_length_{n}")


CLEAN = {  # what the objective has never seen: words for the metric
    "new_answer": "answers that no fact in the objective has",
    "new_subject": "subjects that no fact in the objective has",
}
for _name, _words in CLEAN.items():

    @metric(
        f"suppressability_{_name}",
        needs=("probability", f"suppressed_{_name}"),
        title=f"Suppressability, {_words}",
        words={"words": _words},
        unit="%",
        range=(-np.inf, 1.0),
        better="higher",
    )
    def _clean(mean: Mean, name: str = _name) -> Values:
        """Suppressability S of the facts with {words}."""
        return drop(mean, f"suppressed_{name}")


@metric(
    "amplification",
    needs=("probability", "amplified"),
    title="Amplification",
    unit="%",
    signed=True,
    range=(-1.0, np.inf),
    better="higher",
    source="Dai et al. 2021",
)
def amplification(mean: Mean) -> Values:
    """Mean P(a fact's own knowledge neurons doubled) / mean P − 1: the share by which the answers' probability grows;
    at most 1 / mean P − 1.
    """
    return -drop(mean, "amplified")


@metric(
    "mean_of_ratios",
    needs=("suppressed_ratio",),
    title="Mean of ratios",
    unit="%",
    range=(-np.inf, 1.0),
    better="higher",
)
def mean_of_ratios(mean: Mean) -> Values:
    """1 − mean of P(a fact's own knowledge neurons off) / P: suppressability with equal weight for every answer,
    however improbable it is.
    """
    return 1 - mean("suppressed_ratio")


@metric(
    "log_probability_drop",
    needs=("log_probability", "suppressed_log_probability"),
    title="Log-probability drop",
    unit="nats",
    signed=True,
    better="higher",
)
def log_probability_drop(mean: Mean) -> Values:
    """Mean log P − mean log P(a fact's own knowledge neurons off): the nats that the answers lose."""
    return mean("log_probability") - mean("suppressed_log_probability")


@metric(
    "logit_drop",
    needs=("log_odds", "suppressed_log_odds"),
    title="Logit drop",
    unit="nats",
    signed=True,
    better="higher",
)
def logit_drop(mean: Mean) -> Values:
    """Mean of log(P / (1 − P)), less its mean with a fact's own knowledge neurons off. Where P is near 1, the log-odds
    saturate later than P does (at 16 nats in float32).
    """
    return mean("log_odds") - mean("suppressed_log_odds")
