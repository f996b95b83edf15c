import hashlib
import re
from collections.abc import Callable

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts.checks import checked
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.splits import SETS, SplitConfig, split_facts

PROMPTS = ("The {relation} of {subject} is", "{subject} has the {relation}", "For {subject}, the {relation} is")


def relation(name: str, domain: str = "things", n_prompts: int = 3) -> Relation:
    return Relation(name, tuple(prompt.replace("{relation}", name) for prompt in PROMPTS[:n_prompts]), domain)


def fact_set(names: tuple[str, ...] = ("color", "size", "owner"), n_subjects: int = 20) -> FactSet:
    facts = tuple(Fact(name, f"thing{index}", f"{name}{index % 7}") for name in names for index in range(n_subjects))
    return FactSet(tuple(relation(name) for name in names), facts)


def rows(queries: np.ndarray) -> set[tuple[int, int]]:
    return {(int(fact), int(prompt)) for fact, prompt in queries}


def test_prompt_ends_just_before_the_answer():
    assert fact_set().prompt(1, 0) == "The color of thing1 is"


ANYWHERE = (
    "The color of {subject} is",
    "The color of {subject} is {answer} .",
    "{answer} is {subject}'s {color}.",
    "{subject} is {answer}-colored",
    '{subject} shows "{answer}"!',
    "{subject} is {answer}",
    "{subject} is {answer}",
)


def anywhere(prompts: tuple[str, ...] = ANYWHERE) -> FactSet:
    return FactSet((Relation("color", prompts, "things"),), (Fact("color", "sky", "blue"),))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (0, ("The color of sky is", " blue", ".")),
        (1, ("The color of sky is", " blue", " .")),
        (2, ("", "blue", " is sky's {color}.")),
        (3, ("sky is", " blue", "-colored")),
        (4, ('sky shows "', "blue", '"!')),
        (5, ("sky is", " blue", "")),
    ],
)
def test_a_text_is_what_its_template_says(prompt: int, text: tuple[str, str, str]):
    assert anywhere().text(0, prompt) == text
    assert anywhere().prompt(0, prompt) == text[0]


@pytest.mark.parametrize(
    ("template", "subject", "answer", "joined", "text"),
    [
        ("The color of {subject} is ", "sky", "blue", "auto", ("The color of sky is", " blue", ".")),
        ("The color of {subject} is", "sky", " blue", "auto", ("The color of sky is", " blue", ".")),
        ("Q: color of {subject}\nA:\n", "sky", "blue", "auto", ("Q: color of sky\nA:\n", "blue", ".")),
        ("{subject}是中国的首", "北京", "都", "auto", ("北京是中国的首", "都", ".")),
        ("{subject}の首都は", "日本", "東京", "auto", ("日本の首都は", "東京", ".")),
        ("เมืองหลวงของ{subject}คือ", "ไทย", "กรุงเทพ", "auto", ("เมืองหลวงของไทยคือ", "กรุงเทพ", ".")),
        ("{subject}：", "法国", "巴黎", "auto", ("法国：", "巴黎", ".")),
        ("대한민국의 수도는 {subject}", "x", "서울", "auto", ("대한민국의 수도는 x", " 서울", ".")),
        ("In Chinese {subject} is", "Beijing", "北京", "auto", ("In Chinese Beijing is", " 北京", ".")),
        ("{subject}是中国的首", "北京", "都", "space", ("北京是中国的首", " 都", ".")),
        ("{subject} is", "sky", "blue", "nothing", ("sky is", "blue", ".")),
        ("{subject} is  {answer}", "sky", "blue", "auto", ("sky is ", " blue", "")),
        ("{subject} ({answer}", "WHO", "W", "auto", ("WHO (", "W", "")),
    ],
)
def test_what_stands_before_an_answer(template, subject, answer, joined, text):
    asked = FactSet((Relation("r", (template,), "", joined=joined),), (Fact("r", subject, answer),))
    assert asked.text(0, 0) == text


def test_an_unknown_way_to_join():
    with pytest.raises(UserError, match=r"unknown relation.joined 'tab'; known: auto, nothing, space"):
        relation = Relation("r", ("{subject} is",), "")
        object.__setattr__(relation, "joined", "tab")  # as a file may say, where no type is checked
        relation.__post_init__()


def test_braces_in_a_subject_are_text():
    facts = FactSet(
        (Relation("color", ("{subject} is {answer}, {0}",), ""),), (Fact("color", "a{answer}{subject}{", "red"),)
    )
    assert facts.text(0, 0) == ("a{answer}{subject}{ is", " red", ", {0}")


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("The color is", "0 times {subject} and 0 times {answer}"),
        ("{subject} and {subject} are", "2 times {subject} and 0"),
        ("{subject} is {answer}, {answer}", "1 times {subject} and 2 times {answer}"),
        ("{Subject} is", "0 times {subject}"),
    ],
)
def test_a_prompt_needs_its_subject_once_and_its_answer_at_most_once(prompt: str, counts: str):
    with pytest.raises(UserError, match=re.escape(f"prompt {prompt!r} of relation 'color' has {counts}")):
        Relation("color", ("{subject} is", prompt), "things")


def test_a_relation_needs_a_prompt():
    with pytest.raises(UserError, match="relation 'color' has no prompt"):
        Relation("color", (), "things")


def test_answer_last_keeps_prompts_that_end_in_the_answer_and_counts_the_others():
    facts = FactSet(
        (Relation("first", ("{answer} is {subject}.", "{answer} has {subject}"), ""), Relation("color", ANYWHERE, "")),
        (Fact("color", "sky", "blue"), Fact("first", "a", "b"), Fact("first", "c", "d"), Fact("color", "sea", "green")),
        {"duplicate": 3, "fact without a usable prompt": 5},
    )
    last = facts.answer_last()
    assert [relation.name for relation in last.relations] == ["color"]
    assert last.relations[0].prompts == (ANYWHERE[0], '{subject} shows "{answer}', ANYWHERE[5])
    # Nothing is left after the answer, which its last letters could merge with.
    assert {last.text(*query).after for query in last.queries().tolist()} == {""}
    assert last.text(1, 1) == ('sea shows "', "green", "")
    assert last.facts == (facts.facts[0], facts.facts[3])
    assert last.dropped == {
        "duplicate": 3,
        "fact without a usable prompt": 5 + 2,
        "prompt whose answer does not come last": 2 + 2,
        "prompt that is another one up to its answer": 2,
    }
    assert last.answer_last() == last


def test_answer_last_changes_nothing_where_every_answer_is_last():
    last = fact_set().answer_last()
    assert [relation.prompts for relation in last.relations] == [one.prompts for one in fact_set().relations]
    assert (last.facts, last.dropped) == (fact_set().facts, {})
    assert [tuple(last.text(0, 0))] == [(*fact_set().text(0, 0)[:2], "")]
    assert last.digest() != fact_set().digest()


@pytest.mark.parametrize(
    ("after", "is_last"), [(" .", True), ("。", True), ("' ?!)", True), (" %x", False), (" €", False)]
)
def test_only_spaces_and_punctuation_may_follow_a_last_answer(after: str, is_last: bool):
    facts = anywhere(("Say {subject}:", "{subject} has {answer}" + after))
    assert len(facts.answer_last().relations[0].prompts) == 1 + is_last


def test_answer_last_says_when_nothing_is_left():
    with pytest.raises(UserError, match="no prompt of the 1 relations has its answer last"):
        anywhere(ANYWHERE[2:4]).answer_last()


def test_queries_are_all_facts_with_all_prompts():
    facts = FactSet(
        (relation("size", n_prompts=1), relation("color", n_prompts=3)),
        (Fact("color", "a", "x"), Fact("size", "a", "y"), Fact("color", "b", "z")),
    )
    assert facts.queries().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [2, 1], [2, 2]]


def test_queries_draw_prompts_for_each_fact():
    facts = fact_set()
    drawn = facts.queries(prompts=2, seed=1)
    assert len(rows(drawn)) == len(drawn) == 2 * len(facts)
    assert np.bincount(drawn[:, 0]).tolist() == [2] * len(facts)
    assert len({frozenset(prompts) for prompts in drawn[:, 1].reshape(-1, 2).tolist()}) == 3
    assert rows(drawn) == rows(facts.queries(prompts=2, seed=1)) != rows(facts.queries(prompts=2, seed=2))
    np.testing.assert_array_equal(facts.queries(prompts=7), facts.queries())


def test_queries_and_limit_of_a_relation_do_not_depend_on_the_others():
    fewer, more = fact_set(), fact_set(("added", "color", "size", "owner"))

    def asked(facts: FactSet) -> list[str]:
        limited = facts.limited(5, seed=2)
        texts = [limited.prompt(*query) for query in limited.queries(prompts=1).tolist()]
        return [text for text in texts if "added" not in text]

    assert len(asked(fewer)) == 15
    assert asked(fewer) == asked(more)


def test_limited_draws_facts_in_order_and_counts_the_others():
    facts = fact_set()
    few = facts.limited(4, seed=5)
    assert [fact.relation for fact in few.facts] == ["color"] * 4 + ["size"] * 4 + ["owner"] * 4
    assert few.facts == tuple(fact for fact in facts.facts if fact in few.facts)
    assert few.dropped == {"above the limit": 3 * 16}
    assert few == facts.limited(4, seed=5) != facts.limited(4, seed=6)
    assert few.facts != facts.facts[:4] + facts.facts[20:24] + facts.facts[40:44]
    assert few.limited(4) == few
    assert facts.limited(0) == facts == facts.limited(20)


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda facts: facts.limited(-1), "limit"),
        (lambda facts: facts.limited(1, seed=-1), "seed"),
        (lambda facts: facts.queries(-1), "prompts"),
        (lambda facts: facts.queries(1, seed=-1), "seed"),
    ],
)
def test_negative_numbers_are_rejected(ask: Callable[[FactSet], object], named: str):
    with pytest.raises(UserError, match=f"{named} must be at least 0, got -1"):
        ask(fact_set())


def test_digest_tells_sets_apart_and_stays_what_it_was():
    # Models record it: a change would make every saved one a stranger to its facts.
    assert fact_set().digest() == "9e996f653682c9d864107ad1bd5d46f30d34f08540f13726923c230c9349294b"
    assert anywhere().digest() != anywhere(ANYWHERE[:1]).digest()


def test_fact_set_rejects_unknown_relation_and_emptiness():
    with pytest.raises(UserError, match=r"unknown relation 'size'; known: color"):
        FactSet((relation("color"),), (Fact("size", "a", "b"),))
    with pytest.raises(UserError, match="empty"):
        FactSet((relation("color"),), ())


def test_select_keeps_what_is_named_and_lists_what_is_known():
    facts = FactSet(
        (relation("color"), relation("size", domain="others")), (Fact("color", "a", "red"), Fact("size", "a", "big"))
    )
    assert facts.select() == facts
    assert [fact.answer for fact in facts.select(relations=["size"]).facts] == ["big"]
    assert [fact.answer for fact in facts.select(domains=["things"]).facts] == ["red"]
    with pytest.raises(UserError, match=r"unknown relation 'weight'; known: color, size"):
        facts.select(relations=["weight"])
    with pytest.raises(UserError, match=r"unknown domain 'places'; known: others, things"):
        facts.select(domains=["places"])
    with pytest.raises(UserError, match="empty"):
        facts.select(relations=["color"], domains=["others"])


def test_checked_counts_what_it_drops_by_reason():
    candidates = [
        Fact("color", "apple", "red"),
        Fact("color", "apple", "red"),
        Fact("color", "flag", "red"),
        Fact("color", "flag", "white"),
        Fact("color", " ", "red"),
        Fact("color", "sky", ""),
        Fact("color", "Blue whale", "blue"),
        Fact("color", "redwood", "red"),  # only a part of a word: no leak
        Fact("color", "infrared", "red"),
    ]
    result = checked([relation("color")], candidates, dropped={"sources disagree": 4})
    assert result.facts == tuple(Fact("color", subject, "red") for subject in ("apple", "infrared", "redwood"))
    assert result.dropped == {
        "sources disagree": 4, "duplicate": 1, "ambiguous subject": 2, "empty": 2, "answer inside its prompt": 1,
    }  # fmt: skip


def test_checked_finds_the_answer_on_both_sides_of_its_place():
    shown = Relation("shown", ("{answer} is {subject}, or red", "{subject}: {answer}, not blue"), "")
    candidates = [Fact("shown", "a", answer) for answer in ("Red", "blue", "shown", "or", "green")]
    result = checked([shown], candidates, ambiguous="keep")
    assert [fact.answer for fact in result.facts] == ["green", "shown"]
    assert result.dropped == {"answer inside its prompt": 3}
    # The sides are apart: no answer is found across its own place.
    across = Relation("across", ("{subject} is new {answer}york.",), "")
    assert len(checked([across], [Fact("across", "a", "new york")])) == 1


def test_checked_may_keep_ambiguous_subjects():
    candidates = [Fact("color", "flag", "white"), Fact("color", "flag", "red"), Fact("color", "flag", "white")]
    result = checked([relation("color")], candidates, ambiguous="keep")
    assert result.facts == (Fact("color", "flag", "red"), Fact("color", "flag", "white"))
    assert result.dropped == {"duplicate": 1}


def test_checked_orders_facts_by_relation_and_subject_whatever_came_first():
    candidates = [Fact("size", "b", "x"), Fact("color", "b", "y"), Fact("size", "a", "z")]
    relations = [relation("color"), relation("size")]
    assert checked(relations, candidates) == checked(relations, candidates[::-1])
    assert [(fact.relation, fact.subject) for fact in checked(relations, candidates).facts] == [
        ("color", "b"), ("size", "a"), ("size", "b"),
    ]  # fmt: skip


def test_checked_rejects_unknown_relation():
    with pytest.raises(UserError, match=r"unknown relation 'size'"):
        checked([relation("color")], [Fact("size", "a", "b")])


def test_split_is_determined_by_its_seed():
    first, again, other = (
        split_facts(fact_set(), SplitConfig(seed=seed, unseen_relations=("size",))) for seed in (3, 3, 4)
    )
    for name in ("training", *SETS):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for name in ("training", "objective", "held_out_prompts", "unseen_facts"):
        assert rows(getattr(first, name)) != rows(getattr(other, name))


@pytest.mark.parametrize("held_out_prompts", [1, 2])
def test_sets_are_disjoint_where_they_must_be(held_out_prompts: int):
    facts = fact_set()
    split = split_facts(facts, SplitConfig(held_out_prompts=held_out_prompts, unseen_relations=("size",)))
    training = rows(split.training)
    objective, held_out, unseen, other = (rows(getattr(split, name)) for name in SETS)
    assert objective | unseen | other == training  # every fact is trained on
    assert len(objective) + len(unseen) + len(other) == len(training)
    assert not held_out & training
    subjects = {name: {int(fact) for fact in getattr(split, name)[:, 0]} for name in SETS}
    assert subjects["held_out_prompts"] == subjects["objective"]
    assert not subjects["objective"] & subjects["unseen_facts"]
    relations = {name: {facts.facts[index].relation for index in indices} for name, indices in subjects.items()}
    assert relations["unseen_relations"] == {"size"}
    assert relations["objective"] == relations["unseen_facts"] == {"color", "owner"}
    assert len(subjects["unseen_facts"]) == 2 * 4  # a fifth of the 20 facts of both seen relations
    assert len(held_out) == held_out_prompts * len(subjects["objective"])
    assert len(training) == (3 - held_out_prompts) * len(facts)


def test_held_out_prompts_are_drawn_for_each_fact():
    split = split_facts(fact_set(), SplitConfig(unseen_relations=("size",)))
    # A prompt that is held out for one fact is read with other facts: its words are in the training data.
    assert {prompt for _, prompt in rows(split.held_out_prompts)} == {0, 1, 2}
    assert {prompt for _, prompt in rows(split.objective)} == {0, 1, 2}


def test_drawn_relations_are_the_asked_number():
    facts = fact_set(("color", "size", "owner", "weight"))
    split = split_facts(facts, SplitConfig(n_unseen_relations=3))
    assert len({facts.facts[index].relation for index, _ in rows(split.unseen_relations)}) == 3


def test_adding_a_relation_does_not_change_the_split_of_another():
    def by_text(facts: FactSet, name: str) -> set[str]:
        queries = getattr(split_facts(facts, SplitConfig(unseen_relations=("size",))), name)
        return {
            facts.prompt(fact, prompt) for fact, prompt in queries.tolist() if facts.facts[fact].relation != "added"
        }

    fewer, more = fact_set(), fact_set(("added", "color", "size", "owner"))
    for name in ("training", *SETS):
        assert by_text(fewer, name) == by_text(more, name)


def about(facts: FactSet, queries: np.ndarray) -> set[str]:
    return {facts.facts[index].subject for index in queries[:, 0].tolist()}


def test_by_subject_no_subject_of_an_unseen_fact_is_in_the_objective():
    facts = fact_set()
    by_fact, by_subject = (
        split_facts(facts, SplitConfig(unseen_relations=("size",), unseen_by=by)) for by in ("fact", "subject")
    )
    assert about(facts, by_fact.objective) & about(facts, by_fact.unseen_facts)
    unseen, seen = about(facts, by_subject.unseen_facts), about(facts, by_subject.objective)
    assert len(unseen) == 4  # a fifth of the 20 subjects
    assert unseen | seen == {fact.subject for fact in facts.facts}
    assert not unseen & seen
    assert about(facts, by_subject.held_out_prompts) == seen
    # All of their facts of seen relations, with each prompt that is trained on.
    expected = {
        index
        for index, fact in enumerate(facts.facts)
        if fact.subject in unseen and fact.relation in ("color", "owner")
    }
    assert {fact for fact, _ in rows(by_subject.unseen_facts)} == expected
    assert len(by_subject.unseen_facts) == 2 * 2 * 4
    # An unseen relation has all its facts, and what is read does not depend on what is unseen.
    for name in ("training", "unseen_relations"):
        np.testing.assert_array_equal(getattr(by_subject, name), getattr(by_fact, name))
    assert about(facts, by_subject.unseen_relations) == unseen | seen


def test_unseen_subjects_are_drawn_by_the_seed_whatever_relations_there_are():
    def unseen(names: tuple[str, ...], seed: int, unseen_relation: str) -> set[str]:
        facts = fact_set(names, n_subjects=100)
        config = SplitConfig(seed=seed, unseen_relations=(unseen_relation,), unseen_by="subject")
        return about(facts, split_facts(facts, config).unseen_facts)

    first = unseen(("color", "size"), 0, "size")
    assert len(first) == 20
    assert first == unseen(("color", "size"), 0, "color") == unseen(("added", "owner", "size", "color"), 0, "added")
    assert len(first & unseen(("color", "size"), 1, "size")) < 20


def test_limits_and_unseen_subjects_are_drawn_apart():
    facts = fact_set(n_subjects=100)
    config = SplitConfig(unseen_relations=("size",), unseen_by="subject", unseen_facts=0.5)
    unseen = about(facts, split_facts(facts, config).unseen_facts)
    limited = {fact.subject for fact in facts.limited(50).facts}
    assert len(unseen) == len(limited) == 50
    assert 10 < len(unseen & limited) < 40  # one order for both would make it 50


def test_new_subjects_move_only_those_at_the_edge():
    config = SplitConfig(unseen_relations=("size",), unseen_by="subject")
    fewer, more = fact_set(n_subjects=100), fact_set(n_subjects=104)
    before, after = (about(facts, split_facts(facts, config).unseen_facts) for facts in (fewer, more))
    assert len(before) == 20
    assert len(after) == 21
    assert len(before & after) >= 17  # at most four new ones are among the first 21


def test_a_pair_that_is_asked_both_ways_is_drawn_as_one_subject():
    lands = [f"land{index}" for index in range(30)]
    cities = [land.replace("land", "city") for land in lands]
    capital = [Fact("capital", land, city) for land, city in zip(lands, cities, strict=True)]
    capital_of = [Fact("capital_of", fact.answer, fact.subject) for fact in capital]
    # city0 is named by two lands, and so joins them.
    second = [Fact("capital", "outland", "city0"), Fact("older", "city0", "outland")]
    continent = [Fact("continent", land, f"continent{index % 3}") for index, land in enumerate([*lands, "outland"])]
    names = ("capital", "capital_of", "continent", "older", "size")
    facts = FactSet(
        tuple(map(relation, names)),
        (*capital, *second[:1], *capital_of, *continent, *second[1:], *(Fact("size", land, "big") for land in lands)),
    )
    alone = facts.select(relations=("capital", "continent", "size"))
    for seed in range(20):
        config = SplitConfig(seed=seed, unseen_relations=("size",), unseen_by="subject")
        split = split_facts(facts, config)
        unseen = about(facts, split.unseen_facts)
        assert {name.replace("land", "city") for name in unseen & set(lands)} == unseen & set(cities)
        assert len({"land0", "city0", "outland"} & unseen) in (0, 3)
        assert len(unseen - {"outland"}) == 2 * 6  # a fifth of the 30 pairs, of which one has a third name
        assert {fact.answer for fact in facts.facts if fact.subject in unseen and "capital" in fact.relation} <= unseen
        if "outland" not in unseen | about(alone, split_facts(alone, config).unseen_facts):
            # A pair is drawn by the name that comes first, so that the way back does not change it.
            assert about(alone, split_facts(alone, config).unseen_facts) == unseen - set(cities)


def test_a_split_of_before_is_by_fact():
    # What an older model's provenance says of its split.
    before = {"seed": 0, "held_out_prompts": 1, "unseen_facts": 0.2, "unseen_relations": (), "n_unseen_relations": 2}
    assert SplitConfig(**before) == SplitConfig(**before, unseen_by="fact")
    digest = hashlib.sha256()
    for name in ("training", *SETS):
        digest.update(getattr(split_facts(fact_set(), SplitConfig(**before)), name).astype("<i8").tobytes())
    assert (
        digest.hexdigest() == "5ab222323ff5b4f12b5fe7524d29b1fc169b743b7659f4221c5ef91cbbeccfc9"
    )  # a change would make other sets of those that saved models are measured on


def test_split_errors_tell_what_to_change():
    with pytest.raises(UserError, match=r"unknown relation 'shape'; known: color, owner, size.*split.unseen_relations"):
        split_facts(fact_set(), SplitConfig(unseen_relations=("shape",)))
    with pytest.raises(UserError, match=re.escape("set 'unseen_facts' is empty")):
        split_facts(fact_set(n_subjects=2), SplitConfig(unseen_facts=0.01, unseen_relations=("size",)))
    with pytest.raises(UserError, match=re.escape("set 'objective' is empty")):
        split_facts(fact_set(), SplitConfig(unseen_relations=("color", "size", "owner")))
    with pytest.raises(UserError, match=re.escape("set 'unseen_facts' is empty")):
        split_facts(
            fact_set(n_subjects=2), SplitConfig(unseen_facts=0.2, unseen_relations=("size",), unseen_by="subject")
        )
    with pytest.raises(UserError, match=r"unknown split.unseen_by 'answer'; known: fact, subject"):
        config = SplitConfig()
        object.__setattr__(config, "unseen_by", "answer")  # as a file may say, where no type is checked
        config.__post_init__()
    with pytest.raises(UserError, match="has 3 prompts, so that held_out_prompts must be at most 2, got 3"):
        split_facts(fact_set(), SplitConfig(held_out_prompts=3))


@pytest.mark.parametrize(
    "wrong", [{"held_out_prompts": 0}, {"unseen_facts": 0.0}, {"unseen_facts": 1.0}, {"n_unseen_relations": 0}]
)
def test_split_config_rejects(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SplitConfig(**wrong)


def test_control_characters_are_kept_out():
    """They command terminals, and end the process in which a chart is drawn."""
    plain = Relation("capital", ("the capital of {subject} is",), domain="x")
    candidates = [Fact("capital", "a\x1b[31m", "b"), Fact("capital", "c", "d\uffff"), Fact("capital", "e", "f\ng")]
    found = checked([plain], candidates)
    assert [fact.subject for fact in found.facts] == ["e"] and found.dropped == {"control character": 2}
    for name, prompt in (("capi\x07tal", "of {subject}:"), ("capital", "of\x00 {subject}:")):
        with pytest.raises(UserError, match="has a control character"):
            checked([Relation(name, (prompt,), domain="x")], [Fact(name, "a", "b")])
