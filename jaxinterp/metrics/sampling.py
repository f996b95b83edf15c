"""Which of many answers are measured: spread over relations, with others of their subject."""

import numpy as np
from jaxtyping import Int

from jaxinterp.facts.batches import earlier
from jaxinterp.facts.controls import Comparable


def sample(examples: Comparable, n: int, seed: int) -> Int[np.ndarray, " n"]:
    """Indices of at most n examples, spread over relations and in pairs of one subject; n = 0 is all.

    No fact has two queries before every fact has one. The fact that comes next is of the relation that has fewest, with
    another fact of its subject if there is one, so that answers have controls of their relation and of their subject.
    """
    if not n or n >= len(examples):
        return np.arange(len(examples))
    order = np.random.default_rng(seed).permutation(len(examples))
    level = earlier(examples.fact_N[order])
    taken: list[int] = []
    for turn in range(level.max() + 1):
        if len(taken) < n:
            taken += _in_pairs(order[level == turn].tolist(), examples, n - len(taken))
    return np.sort(np.array(taken))


def _in_pairs(order: list[int], examples: Comparable, n: int) -> list[int]:
    """The first n of the queries as `sample` takes them."""
    relation, subject = examples.relation_N.tolist(), examples.subject_N.tolist()
    left: dict[int, list[int]] = {}
    of_subject: dict[int, list[int]] = {}
    for query in reversed(order):
        left.setdefault(relation[query], []).append(query)
        of_subject.setdefault(subject[query], []).append(query)
    counts, taken, seen = dict.fromkeys(left, 0), [], set()

    def take(query: int) -> None:
        taken.append(query)
        seen.add(query)
        counts[relation[query]] += 1

    while len(taken) < min(n, len(order)):
        rarest = min(left, key=counts.__getitem__)
        while left[rarest] and left[rarest][-1] in seen:
            left[rarest].pop()
        if not left[rarest]:
            del left[rarest]
            continue
        first = left[rarest].pop()
        take(first)
        others = (query for query in of_subject[subject[first]] if query not in seen and relation[query] != rarest)
        second = min(others, key=lambda query: counts[relation[query]], default=None)
        if second is not None and len(taken) < n:
            take(second)
    return taken
