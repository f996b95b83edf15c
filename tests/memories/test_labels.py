"""Labels of planted memories, of nothing, and of triggers worked out by hand."""

import numpy as np
import pytest
import scipy.stats
from small import masked_model, small_model

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.groundtruth.grid import grid_table, in_words, language_model
from jaxinterp.groundtruth.registry import grid_planted
from jaxinterp.memories.contexts import Contexts, Feature, contexts_of, fact_texts
from jaxinterp.memories.corpus import corpus_of
from jaxinterp.memories.labels import Labeller, labels, shares, trigger_contexts
from jaxinterp.memories.planted import grade, plantable, plants
from jaxinterp.memories.triggers import Triggers, top_triggers
from jaxinterp.models.tokenizer_training import train_tokenizer

DOMAINS = ("cities", "rivers", "kings")


def made_up_facts() -> FactSet:
    """Three domains of two relations each; 30 subjects a domain, and 8 answers a relation."""
    relations, facts = [], []
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for number in range(2):
            name = f"{domain}{number}"
            prompts = (f"the {name} of {{subject}} is", f"{{subject}} has for its {name} the known")
            relations.append(Relation(name, prompts, domain))
            facts += [Fact(name, f"{domain[:-1]} no{n}", f"{name}x{rng.integers(8)}") for n in range(30)]
    return FactSet(tuple(relations), tuple(facts))


@pytest.fixture(scope="module")
def made_up():
    """A model of the facts' words, whose weights nobody reads, the corpus, and its contexts."""
    facts = made_up_facts()
    texts = ["".join(facts.text(*query)) for query in facts.queries().tolist()]
    tokenizer = train_tokenizer(texts)
    model = small_model(d_vocab=tokenizer.n_tokens, n_ctx=16)
    model = type(model)(model.model, tokenizer, {})
    told = fact_texts(facts, tokenizer)
    assert sorted(told.texts) == sorted(texts) and told.dropped == 0 and told.texts != texts
    corpus = corpus_of(model, told.texts)
    return model, corpus, contexts_of(model, corpus, told.told)


def test_features_are_what_the_context_says(made_up):
    model, corpus, contexts = made_up
    kinds = {feature.kind: feature for feature in contexts.features}

    def said(window, position):
        context = contexts.context_NT[window, position]
        return {
            kind: feature.name(int(feature.value_C[context])) if feature.value_C[context] >= 0 else None
            for kind, feature in kinds.items()
        }

    texts = [
        model.tokenizer.text(row[1:length].tolist())
        for row, length in zip(corpus.tokens_NT, corpus.length_N, strict=True)
    ]
    window = next(n for n, text in enumerate(texts) if text.startswith("the rivers1 of river no7 is"))
    answer = texts[window].split()[6].rstrip(".")
    assert said(window, 1) == {**dict.fromkeys(kinds), "last token": "the"}
    assert said(window, 3) == {
        **dict.fromkeys(kinds),
        **{"last token": "of", "last 2 tokens": "rivers1 of", "last 3 tokens": "the rivers1 of"},
        **{"relation": "rivers1", "domain": "rivers"},
    }
    assert said(window, 5)["subject"] == "river no7" and said(window, 5)["answer"] == answer
    assert contexts.context_NT[window, 0] == -1
    rows = zip(corpus.tokens_NT.tolist(), corpus.length_N.tolist(), strict=True)
    assert contexts.n == len({tuple(row[1 : last + 1]) for row, length in rows for last in range(1, length)})
    first = np.argwhere(contexts.first_NT)
    assert len({contexts.context_NT[tuple(place)] for place in first}) == len(first) == contexts.n
    for feature in contexts.features:
        values = feature.value_C[feature.value_C >= 0]
        np.testing.assert_array_equal(np.bincount(values, minlength=len(feature.n_contexts)), feature.n_contexts)


def test_planted_memories_get_their_labels(made_up):
    contexts, rng = made_up[2], np.random.default_rng(0)
    for kind in [feature.kind for feature in contexts.features]:
        for noise in (0.0, 0.2):
            graded = grade(contexts, list(plants(contexts, kind, 100, rng, noise=noise)))
            assert graded.right >= 98, (kind, noise, graded)


def test_what_most_contexts_have_is_no_label_and_is_not_planted():
    n_contexts = np.array([540, 230, 4, 226])
    value_C = np.repeat(np.arange(4), n_contexts)
    feature = Feature("domain", value_C, n_contexts, lambda value: f"domain {value}")
    contexts = Contexts(np.arange(1000)[None], np.ones((1, 1000), bool), [feature])
    assert plantable(contexts, feature).tolist() == [0, 1, 3]  # of 25 triggers, all: .54²⁵ is less than .01
    assert plantable(contexts, feature, noise=0.2).tolist() == [1, 3]
    for value in (0, 1, 3):
        own, others = np.flatnonzero(value_C == value)[:20], np.flatnonzero(value_C != value)[:5]
        label = Labeller(contexts).label(np.concatenate([own, others]))
        assert (label is None) == (value == 0)
        p = scipy.stats.hypergeom.sf(19, 1000, n_contexts[value], 25) * 4
        assert (p <= 0.01) == (value != 0) and (label is None or label.p == pytest.approx(p))
    planted = list(plants(contexts, "domain", 50, np.random.default_rng(0), noise=0.2))
    assert {plant.value for plant in planted} == {"domain 1", "domain 3"} and grade(contexts, planted).right == 50


def test_triggers_of_nothing_get_no_label(made_up):
    graded = grade(made_up[2], list(plants(made_up[2], "", 400, np.random.default_rng(0))))
    assert graded.right >= 396  # level 0.01


def test_a_label_by_hand(made_up):
    contexts = made_up[2]
    relation = next(feature for feature in contexts.features if feature.kind == "relation")
    own = np.flatnonzero(relation.value_C == 3)
    others = np.flatnonzero(relation.value_C == 0)
    chosen = np.random.default_rng(1).permutation(own)[:8]
    label = Labeller(contexts).label(np.concatenate([chosen, chosen, others[:2], [-1]]))
    assert (label.kind, label.value, label.share, label.n) == ("relation", relation.name(3), 0.8, 10)
    assert label.base == len(own) / contexts.n
    n_labels = sum((feature.n_contexts > 1).sum() for feature in contexts.features)
    exact = n_labels * scipy.stats.hypergeom.sf(7, contexts.n, len(own), 10)
    assert label.p == pytest.approx(exact, rel=1e-9) and label.p < 0.01
    assert Labeller(contexts, share=0.85).label(np.concatenate([chosen, others[:2]])) is None
    assert Labeller(contexts, level=exact / 2).label(np.concatenate([chosen, others[:2]])) is None
    assert Labeller(contexts).label(own[:2]) is None  # fewer than three
    assert Labeller(contexts).label(np.array([], int)) is None


def test_neurons_of_a_plant(tmp_path):
    """A bank of neurons for each relation, written into a model, is found by its labels; fact neurons fire once."""
    table = grid_table(0, n_subjects=8, n_relations=4)
    for name, said in (("switches", True), ("fact_neurons", False)):
        planted = grid_planted(name, table, 0, d_mlp=64)
        model = language_model(planted, table)
        told = fact_texts(in_words(table), model.tokenizer)
        corpus = corpus_of(model, told.texts)
        contexts = contexts_of(model, corpus, told.told)
        triggers = top_triggers(model, corpus, 8, among_NT=contexts.first_NT)
        found = labels(triggers, contexts)
        carried_LRF = np.asarray(planted.mask_LRF)
        for layer, neuron in np.argwhere(carried_LRF.any(1)).tolist():
            label, facts = found[layer][neuron], np.flatnonzero(carried_LRF[layer, :, neuron])
            relation = f"relation{table.relation_N[facts[0]]}"
            assert (label is not None) == said
            assert not said or ("last token", relation) in {(label.kind, label.value), *label.same}, label
        assert shares(found)[0][""] > 0 and sum(shares(found)[0].values()) == pytest.approx(1)


def test_a_model_that_sees_both_sides_has_a_context_for_each_token():
    model = masked_model()
    corpus = corpus_of(model, ["a b c", "a b d", "a b c"])
    contexts = contexts_of(model, corpus)
    assert contexts.n == 6 and contexts.context_NT[0].tolist() == contexts.context_NT[2].tolist()
    assert contexts.context_NT[0, 1] != contexts.context_NT[1, 1]


def test_silent_neurons_have_no_label(made_up):
    _, _, contexts = made_up
    window_LFK, position_LFK = (of[:3].reshape(1, 1, 3) for of in np.nonzero(contexts.first_NT))
    triggers = Triggers(np.array([[[1.0, 0.0, -np.inf]]]), window_LFK, position_LFK)
    triggers = triggers._replace(window_LFK=np.where(np.isinf(triggers.activation_LFK), -1, window_LFK))
    assert trigger_contexts(triggers, contexts)[0, 0, 2] == -1 and labels(triggers, contexts) == [[None]]


def test_mistakes(made_up):
    for options in ({"share": 0.0}, {"share": 1.0}, {"level": 0.0}):
        with pytest.raises(UserError, match="of labels must be above 0 and below 1"):
            Labeller(made_up[2], **options)
    with pytest.raises(UserError, match="none of the 360 sentences about facts is all in the model's vocabulary"):
        fact_texts(made_up_facts(), small_model().tokenizer)
