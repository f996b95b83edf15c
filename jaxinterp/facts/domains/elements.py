"""Facts about the chemical elements, from periodictable and the rules of the periodic table."""

from collections import Counter

from jaxinterp.facts.domains.text import Candidates, relation
from jaxinterp.facts.facts import Fact

_SOURCE = "periodictable"
_RULE = "periodictable, rules of the periodic table"

RELATIONS = (
    relation(
        "elements", "element_symbol", _SOURCE,
        "The chemical symbol of {subject} is",
        "Chemists abbreviate {subject} with the symbol",
        "Every atom of {subject} is written",
        "Question: what is the symbol for the element {subject}? Answer:",
        "The periodic table shows {subject} under the letters",
        "A formula that contains {subject} uses the symbol",
    ),
    relation(
        "elements", "element_of_symbol", _SOURCE,
        "The chemical symbol {subject} stands for",
        "The element with the symbol {subject} is",
        "Chemists write {subject} when they mean",
        "Question: which element has the symbol {subject}? Answer:",
        "The box marked {subject} on the periodic table belongs to",
    ),
    relation(
        "elements", "atomic_number", _SOURCE,
        "The atomic number of {subject} is",
        "The number of protons of a {subject} atom is",
        "The periodic table lists {subject} at number",
        "Question: what is the atomic number of {subject}? Answer:",
        "In units of e, the nuclear charge of {subject} is",
        "A neutral atom of {subject} has an electron count of",
    ),
    relation(
        "elements", "element_of_number", _SOURCE,
        "The element with the atomic number {subject} is",
        "An atom with exactly {subject} protons is an atom of",
        "Number {subject} on the periodic table is",
        "Question: which element has atomic number {subject}? Answer:",
        "A nucleus with charge {subject} belongs to",
    ),
    relation(
        "elements", "element_period", _RULE,
        "The period of {subject} is",
        "The periodic table has {subject} in row",
        "{subject} is an element of period",
        "Question: in which period is {subject}? Answer:",
        "Elements on the same row as {subject} form period",
    ),
    relation(
        "elements", "element_group", _RULE,
        "The group of {subject} is",
        "The periodic table has {subject} in column",
        "{subject} is an element of group",
        "Question: in which group is {subject}? Answer:",
        "Elements of the same column as {subject} form group",
    ),
    relation(
        "elements", "element_block", _RULE,
        "The block of {subject} on the periodic table is",
        "{subject} belongs to the block called",
        "The periodic table colors {subject} like the rest of block",
        "Question: to which block does {subject} belong? Answer:",
        "Textbooks count {subject} among the elements of block",
    ),
    relation(
        "elements", "atomic_weight", _SOURCE,
        "The atomic weight of {subject}, rounded to a whole number, is",
        "To the nearest integer, one mole of {subject} weighs in grams",
        "Rounded, the relative atomic mass of {subject} is",
        "Question: what is the rounded atomic weight of {subject}? Answer:",
        "The mass of a {subject} atom in daltons is about",
    ),
    relation(
        "elements", "crystal_structure", _SOURCE,
        "The crystal structure of {subject} is",
        "As a solid, {subject} has a lattice that is",
        "The atoms of solid {subject} are packed in the arrangement called",
        "Question: what is the crystal structure of {subject}? Answer:",
        "An X-ray image of {subject} shows a crystal that is",
    ),
)  # fmt: skip

_NOBLE_GASES = (2, 10, 18, 36, 54, 86, 118)  # atomic numbers at which the periods end
_STRUCTURES = {"BCC": "body-centered cubic", "fcc": "face-centered cubic", "hcp": "hexagonal close-packed"}
# Stacked in four layers, not two, or with another form at room temperature: the package's entry is too coarse.
_COARSE_STRUCTURES = ("lanthanum", "cerium", "praseodymium", "neodymium", "selenium", "tellurium")
_NO_STABLE_WEIGHT = (43, 61, *range(84, 90), *range(93, 119))  # their "weight" is the mass of one isotope


def candidates() -> Candidates:
    """Facts of the 118 elements."""
    import periodictable

    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    for element in periodictable.elements:
        if element.number == 0:  # the free neutron
            continue
        name, symbol, number = element.name, element.symbol, str(element.number)
        facts += [Fact("element_symbol", name, symbol), Fact("element_of_symbol", symbol, name)]
        facts += [Fact("atomic_number", name, number), Fact("element_of_number", number, name)]
        facts.append(Fact("element_period", name, str(period(element.number))))
        if place := group(element.number):
            facts.append(Fact("element_group", name, str(place)))
        else:
            dropped["no group: lanthanides and actinides"] += 1
        if letter := block(element.number):
            facts.append(Fact("element_block", name, letter))
        else:
            dropped["disputed"] += 1
        if element.number in _NO_STABLE_WEIGHT:
            dropped["no standard atomic weight"] += 1
        else:
            facts.append(Fact("atomic_weight", name, str(round(element.mass))))
        # Elements past lawrencium lack the attribute.
        structure = (getattr(element, "crystal_structure", None) or {"symmetry": ""})["symmetry"]
        if structure not in _STRUCTURES:
            dropped["crystal structure unknown or uncommon"] += 1
        elif name in _COARSE_STRUCTURES:
            dropped["disputed"] += 1
        else:
            facts.append(Fact("crystal_structure", name, _STRUCTURES[structure]))
    return facts, dropped


def period(number: int) -> int:
    """Row of the periodic table, 1 to 7, of an atomic number."""
    return 1 + sum(number > last for last in _NOBLE_GASES)


def group(number: int) -> int | None:
    """Column of the periodic table, 1 to 18; None for the lanthanides and actinides (57-71, 89-103)."""
    if number == 2:
        return 18
    first = 1 + max((last for last in (0, *_NOBLE_GASES) if last < number), default=0)
    last = min(last for last in _NOBLE_GASES if last >= number)
    if number - first < 2:
        return number - first + 1
    if last - first == 31 and number - first < 17:
        return None
    return 18 - (last - number)


def block(number: int) -> str | None:
    """Block s, p, d or f; None where chemists disagree about group 3 (lanthanum, lutetium, actinium, lawrencium)."""
    if number in (57, 71, 89, 103):
        return None
    column = group(number)
    if column is None:
        return "f"
    if column <= 2 or number == 2:
        return "s"
    return "p" if column >= 13 else "d"
