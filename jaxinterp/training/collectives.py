"""What the devices of a compiled program send each other: how often, and how many bytes."""

import collections
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Times that a device sends a payload, on a ring of many: an all-reduce is a reduce-scatter and an all-gather.
SENT = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0, "collective-permute": 1.0}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+)[a-z0-9]*\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LIMIT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]|replica_groups=\{\{([\d,]*)\}|mesh\[(.*?)\] ?\{(.*?)\}")


class Traffic(NamedTuple):
    """Collectives of one kind."""

    count: int  # times that one is run
    # Of the whole arrays, on each device: what an all-gather gives, an all-reduce sums up, a reduce-scatter takes
    bytes: int

    def plus(self, other: "Traffic", times: int = 1) -> "Traffic":
        """Together with another, that is run so many times."""
        return Traffic(self.count + times * other.count, self.bytes + times * other.bytes)


Of = Callable[[str], dict[str, Traffic]]  # of a computation by its name


def collectives(compiled: jax.stages.Compiled) -> dict[str, Traffic]:
    """The collectives of one call of a compiled program by kind, from the text of its HLO; see `traffic`."""
    return traffic(compiled.as_text() or "")


def sent(of_kinds: Mapping[str, Traffic]) -> float:
    """Bytes that a device sends, on rings of many devices: an all-reduce sends twice what it sums up."""
    return sum(SENT[kind] * traffic.bytes for kind, traffic in of_kinds.items())


def traffic(text: str) -> dict[str, Traffic]:
    """The collectives of a program's text by kind.

    One in a loop counts as often as the loop is run: the "known_trip_count" of its instruction, or, as XLA for TPUs
    writes none, the one number that its condition compares with; once, if there is neither. A condition counts as the
    branch that sends most. Groups of one device send nothing, and do not count.

    Args:
      text: HLO after partitioning, in which shapes are those of one device.
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    known: dict[str, dict[str, Traffic]] = {}

    def of(name: str) -> dict[str, Traffic]:
        if name not in known:
            found = collections.defaultdict(lambda: Traffic(0, 0), {kind: Traffic(0, 0) for kind in KINDS})
            for line in bodies.get(name, ()):
                for times, kind, one in _of_line(line, of, bodies):
                    found[kind] = found[kind].plus(one, times)
            known[name] = dict(found)
        return known[name]

    return of(entry)


def _of_line(line: str, of: Of, bodies: Mapping[str, list[str]]) -> Iterator[tuple[int, str, Traffic]]:
    """Times, kind and traffic of what one instruction does."""
    if (own := _COLLECTIVE.search(line)) and (n := _group(line)) != 1:
        shapes = [_bytes(*shape) for shape in _SHAPE.findall(own[1])]
        # The start of an asynchronous one gives its operands as well as its results.
        size = sum(shapes[len(shapes) // 2 :]) if own[3] and own[1].startswith("(") else sum(shapes)
        yield 1, own[2], Traffic(1, size * n if own[2] == "reduce-scatter" else size)
        return
    if branches := _BRANCHES.search(line):
        options = [of(name.strip().lstrip("%")) for name in branches[1].split(",")]
        yield from ((1, kind, one) for kind, one in max(options, key=sent).items())
    trips = _trips(line, bodies)
    for name in _CALLED.findall(line):
        yield from ((trips, kind, one) for kind, one in of(name).items())


def _trips(line: str, bodies: Mapping[str, list[str]]) -> int:
    """How often a loop is run; 1 for what is none."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    limits = _LIMIT.findall("\n".join(bodies.get(condition[1], ()))) if condition else []
    return int(limits[0]) if len(limits) == 1 else 1


def _group(line: str) -> int:
    """Devices that take part; 0 where the line does not say."""
    found = _GROUPS.search(line)
    if found is None:
        return 0
    if found[2]:
        return int(found[2])
    if found[5] is None:
        return len(found[3].split(","))
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[4]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found[5]))


def _bytes(kind: str, dimensions: str) -> int:
    bits = 8 if kind == "pred" else int(re.sub("[a-z]", "", kind))
    return math.prod(int(size) for size in dimensions.split(",") if size) * bits // 8
