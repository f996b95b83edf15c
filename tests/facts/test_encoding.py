"""From queries to arrays: where answers stand, and what a batch may hold."""

import dataclasses

import numpy as np
import pytest
from tiny import masked_tokenizer, tiny_grid, tiny_queries
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jaxinterp.base.errors import UserError
from jaxinterp.facts.batches import batches_of_all, earlier, query_batch
from jaxinterp.facts.controls import CONTROL_KINDS, allowed
from jaxinterp.facts.encoding import SPELLED, TOO_LONG, UNCLEAR, UNKNOWN, encode, encode_texts, sentence, tokens_read
from jaxinterp.facts.facts import Fact, FactSet, Relation, Text
from jaxinterp.models.tokenizer_training import BOS, PAD, train_tokenizer
from jaxinterp.models.tokenizers import TextTokenizer, byte_alphabet

FACTS = FactSet(
    (
        Relation("capital", ("The capital of {subject} is", "{subject}'s capital is called"), "countries"),
        Relation("domain", ("Sites in {subject} end in",), "countries"),
        Relation("continent", ("{subject} lies in",), "countries"),
    ),
    (
        Fact("capital", "France", "Paris"),
        Fact("capital", "Mexico", "Mexico City"),
        Fact("domain", "France", ".fr"),
        Fact("continent", "Peru", "South America"),
    ),
)
QUERIES = np.array([[0, 0], [1, 1], [2, 0], [3, 0], [0, 1]])
TOKENIZERS = {
    kind: train_tokenizer(
        [sentence(FACTS, *query) for query in QUERIES.tolist()] + ["The of is"], kind=kind, vocab_size=vocab_size
    )
    for kind, vocab_size in (("word", 100), ("bpe", 280))
}


def words(tokenizer, tokens):
    return [tokenizer.token(int(token)) for token in tokens]


def test_sentences():
    assert sentence(FACTS, 0, 0) == "The capital of France is Paris."
    assert sentence(FACTS, 1, 1) == "Mexico's capital is called Mexico City."


def test_words_by_hand():
    tokenizer = TOKENIZERS["word"]
    found = encode(FACTS, QUERIES, tokenizer)
    assert words(tokenizer, found.tokens_NT[1]) == [
        *(BOS, "Mexico", "'s", "capital", "is", "called", "Mexico", "City", "."),
    ]
    assert words(tokenizer, found.tokens_NT[0]) == [
        *(BOS, "The", "capital", "of", "France", "is", "Paris", ".", PAD),
    ]
    np.testing.assert_array_equal(found.length_N, [8, 9, 8, 7, 8])
    np.testing.assert_array_equal(found.answer_start_N, [6, 6, 6, 4, 6])
    np.testing.assert_array_equal(found.answer_length_N, [1, 2, 1, 2, 1])
    np.testing.assert_array_equal(found.fact_N, [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(found.prompt_N, [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(found.relation_N, [0, 0, 1, 2, 0])
    # Subjects and answers are numbered together: .fr, France, Mexico, Mexico City, Paris, Peru, South America.
    np.testing.assert_array_equal(found.subject_N, [1, 2, 1, 5, 1])
    np.testing.assert_array_equal(found.answer_N, [4, 3, 0, 6, 4])
    assert len(found) == 5
    np.testing.assert_array_equal(found[np.array([3, 1])].answer_length_N, [2, 2])
    np.testing.assert_array_equal(found[np.array([3, 1])].answer_N, [6, 3])


def test_answers_without_a_number_are_told_apart_by_their_tokens():
    queries = tiny_grid(2, 3)  # answers of 1, 2, 1, 2, 1, 2 tokens
    tokens = queries.tokens_NT.copy()
    tokens[4, queries.answer_start_N[4]] = tokens[0, queries.answer_start_N[0]]
    # The first token of a longer answer.
    tokens[1, queries.answer_start_N[1]] = tokens[0, queries.answer_start_N[0]]
    answer_N = dataclasses.replace(queries, tokens_NT=tokens, answer_N=None).answer_N
    assert answer_N[4] == answer_N[0] and len(set(answer_N.tolist())) == 5
    assert answer_N.min() > queries.subject_N.max()  # no answer is a subject


def test_an_answer_that_is_a_subject_has_its_number():
    facts = FactSet(
        (Relation("capital", ("The capital of {subject} is",), "x"), Relation("country", ("{subject} lies in",), "x")),
        (Fact("capital", "France", "Paris"), Fact("country", "Paris", "France"), Fact("country", "Rome", "Italy")),
    )
    queries = np.array([[0, 0], [1, 0], [2, 0]])
    found = encode(facts, queries, train_tokenizer([sentence(facts, *query) for query in queries.tolist()]))
    assert found.answer_N[0] == found.subject_N[1] and found.answer_N[1] == found.subject_N[0]
    assert len({*found.subject_N.tolist(), *found.answer_N.tolist()}) == 4


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_answer_stands_where_it_is_said_to(kind):
    tokenizer = TOKENIZERS[kind]
    found = encode(FACTS, QUERIES, tokenizer)
    assert found.tokens_NT.shape[1] == found.length_N.max()
    for row, (fact, prompt) in enumerate(QUERIES.tolist()):
        start, length = found.answer_start_N[row], found.answer_length_N[row]
        tokens = found.tokens_NT[row].tolist()
        answer = FACTS.facts[fact].answer
        assert tokenizer.token(tokens[0]) == BOS
        assert tokens[1:start] == tokenizer.encode(FACTS.prompt(fact, prompt))
        assert tokens[start : start + length] == tokenizer.encode(answer)
        assert words(tokenizer, tokens[start + length : found.length_N[row]]) == ["."]
        assert set(words(tokenizer, tokens[found.length_N[row] :])) <= {PAD}
    assert found.answer_length_N.max() > 1


def test_a_full_stop_that_merges_with_the_answer_is_an_error():
    facts = FactSet((Relation("shout", ("{subject} shouts",), "people"),), (Fact("shout", "Ann", "Hey!"),))
    tokenizer = train_tokenizer(["Ann shouts Hey!."] * 5, kind="bpe", vocab_size=300)
    assert tokenizer.token(tokenizer.encode("Hey!.")[-1]) == "!."
    with pytest.raises(UserError, match=r"the answer of 'Ann shouts Hey!\.' cannot be told from the text around it"):
        encode(facts, np.array([[0, 0]]), tokenizer)


def test_errors_of_encode():
    with pytest.raises(UserError, match="no queries to encode"):
        encode(FACTS, QUERIES[:0], TOKENIZERS["word"])
    encode(FACTS, QUERIES, TOKENIZERS["word"], n_ctx=9)
    with pytest.raises(UserError, match=r"Mexico's capital is called\W with its answer has 9 tokens, .*context of 8"):
        encode(FACTS, QUERIES, TOKENIZERS["word"], n_ctx=8)
    # Fact 1 with its first prompt has only known words; a tokenizer of the first sentence does not know Mexico.
    with pytest.raises(UserError, match=r"does not know 'Mexico' in 'The capital of Mexico is Mexico City\.'"):
        encode(FACTS, np.array([[0, 0], [1, 0]]), train_tokenizer([sentence(FACTS, 0, 0)]))
    # Its space belongs to the word before it, so that a prompt's tokens do not begin its sentence's.
    vocab = {token: index for index, token in enumerate((PAD, "a", "b", " ", ".", "a "))}
    odd = TextTokenizer(Tokenizer(models.BPE(vocab, [("a", " ")])), (0,), (), 0, None)
    assert [odd.encode(text) for text in ("a", "a b", "a b.")] == [[1], [5, 2], [5, 2, 4]]
    glued = FactSet((Relation("glued", ("{subject}",), "x"),), (Fact("glued", "a", "b"),))
    with pytest.raises(UserError, match=r"the answer of 'a b\.' cannot be told from the text around it in tokens"):
        encode(glued, np.array([[0, 0]]), odd)


def check_batch(queries, batch, taken, n_rows, n_controls=1):
    """Everything that must hold of a batch of `queries`."""
    assert batch.tokens_BT.shape == batch.token_weight_BT.shape
    assert batch.length_B.shape == batch.tokens_BT.shape[:1]
    assert {x.shape[-1] for part in (batch.rows, batch.answers) for x in part} == {n_rows}
    assert len(batch.answers.control_XR) == len(batch.answers.control_weight_XN) == len(CONTROL_KINDS) * n_controls
    row = 0
    for answer, query in enumerate(taken):
        start, length = queries.answer_start_N[query], queries.answer_length_N[query]
        for step in range(length):
            assert (batch.answers.answer_R[row], batch.answers.weight_R[row]) == (answer, 1)
            np.testing.assert_array_equal(batch.tokens_BT[batch.rows.sequence_R[row]], queries.tokens_NT[query])
            assert batch.length_B[batch.rows.sequence_R[row]] == queries.length_N[query]
            assert batch.rows.position_R[row] == start + step - 1
            assert batch.rows.target_R[row] == queries.tokens_NT[query][start + step]
            row += 1
    np.testing.assert_array_equal(batch.answers.weight_R, np.arange(n_rows) < row)
    np.testing.assert_array_equal(
        batch.answers.control_XR[:, row:], np.tile(np.arange(row, n_rows), (3 * n_controls, 1))
    )
    np.testing.assert_array_equal(batch.answers.answer_weight_N, np.arange(n_rows) < len(taken))
    assert not batch.answers.control_weight_XN[:, len(taken) :].any()
    check_controls(queries[taken], batch, n_controls)


def check_controls(answered, batch, n_controls):
    """Kind by kind, as many different ones for each answer as there are, and its own rows in place of others."""
    rows = [
        np.flatnonzero((batch.answers.answer_R == answer) & (batch.answers.weight_R > 0))
        for answer in range(len(answered))
    ]
    for place, kind in enumerate(CONTROL_KINDS):
        fits = allowed(answered, slice(0, len(answered)), kind, answered.answer_parts())
        of_kind = slice(place * n_controls, (place + 1) * n_controls)
        for answer, own in enumerate(rows):
            there = batch.answers.control_weight_XN[of_kind, answer]
            assert there.tolist() == [float(x < fits[answer].sum()) for x in range(n_controls)]
            controls = []
            for has, control_R in zip(there, batch.answers.control_XR[of_kind], strict=True):
                other = int(batch.answers.answer_R[control_R[own[0]]])
                # A control with fewer tokens lends its rows in turn.
                lent = [rows[other][step % len(rows[other])] for step in range(len(own))] if has else own
                np.testing.assert_array_equal(control_R[own], lent)
                controls += [other] * bool(has)
            assert len(set(controls)) == len(controls) and all(fits[answer, other] for other in controls)


def test_a_batch_by_hand():
    queries = encode(FACTS, QUERIES, TOKENIZERS["word"])[np.array([1, 2, 3])]
    batch, taken = query_batch(queries, n_sequences=5, n_rows=7, answered=[2, 0, 1], rng=np.random.default_rng(0))
    check_batch(queries, batch, taken, 7)
    np.testing.assert_array_equal(taken, [2, 0, 1])
    np.testing.assert_array_equal(batch.rows.sequence_R, [2, 2, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(batch.rows.position_R, [3, 4, 5, 6, 5, 0, 0])
    np.testing.assert_array_equal(batch.answers.answer_R, [0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(batch.answers.weight_R, [1, 1, 1, 1, 1, 0, 0])
    # Each of them has another subject and another relation.
    np.testing.assert_array_equal(batch.answers.control_weight_XN, [[0] * 7, [0] * 7, [1, 1, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.answers.control_XR[:2], [range(7), range(7)])
    # Peru's continent borrows from two rows in turn, or from the one row of the domain twice.
    assert batch.answers.control_XR[2][:2].tolist() in ([2, 3], [4, 4])
    # Sentences 3 and 4 are padding; <bos> and padding tokens are not to be predicted.
    np.testing.assert_array_equal(batch.token_weight_BT.sum(1), [8, 7, 6, 0, 0])
    assert not batch.token_weight_BT[:, 0].any()
    np.testing.assert_array_equal(batch.token_weight_BT[2], [0, 1, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(batch.tokens_BT[3:], queries.tokens_NT[[0, 0]])


def test_every_kind_of_control_is_drawn_from_all_that_there_are():
    queries = tiny_grid(4, 3)
    seen = [set(), set(), set()]
    for seed in range(40):
        batch, taken = query_batch(
            queries, n_sequences=12, n_rows=18, answered=range(12), rng=np.random.default_rng(seed)
        )
        check_batch(queries, batch, taken, 18)
        assert batch.answers.control_weight_XN[:, :12].all()
        for of_kind, control_R in zip(seen, batch.answers.control_XR, strict=True):
            of_kind.add(int(batch.answers.answer_R[control_R[0]]))
    # Query 0 is of subject 0 and relation 0; each subject has 3 queries, one of each relation.
    assert seen == [{3, 6, 9}, {1, 2}, {4, 5, 7, 8, 10, 11}]


def test_a_query_without_a_possible_control_keeps_its_own_row():
    queries = tiny_grid(2, 3)[np.array([0, 3, 1])]  # subjects 0, 1, 0 and relations 0, 0, 1
    batch, taken = query_batch(queries, n_sequences=3, n_rows=6, answered=range(3), rng=np.random.default_rng(0))
    check_batch(queries, batch, taken, 6)
    np.testing.assert_array_equal(batch.answers.control_weight_XN[:, :3], [[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    # Rows 0, 1–2 and 3–4 are those of the three answers.
    np.testing.assert_array_equal(
        batch.answers.control_XR, [[1, 0, 0, 3, 4, 5], [3, 1, 2, 0, 0, 5], [0, 3, 4, 1, 2, 5]]
    )


def test_answers_are_never_cut():
    queries = tiny_queries(6)  # answers of 1, 2, 1, 2, 1, 2 tokens
    for n_rows, n_taken in [(1, 1), (2, 1), (3, 2), (5, 3), (6, 4), (8, 5), (9, 6)]:
        batch, taken = query_batch(
            queries, n_sequences=6, n_rows=n_rows, answered=range(6), rng=np.random.default_rng(0)
        )
        np.testing.assert_array_equal(taken, np.arange(n_taken))
        check_batch(queries, batch, taken, n_rows)


def test_a_batch_without_answers():
    queries = tiny_queries(2)
    batch, taken = query_batch(queries, n_sequences=2, n_rows=3, answered=[], rng=np.random.default_rng(0))
    assert len(taken) == 0
    assert not batch.answers.weight_R.any()
    assert not batch.answers.answer_weight_N.any()
    check_batch(queries, batch, taken, 3)


@pytest.mark.parametrize("n_rows", [2, 5, 40])
def test_all_batches_cover_every_query_once(n_rows):
    queries = tiny_queries(20)
    seen = []
    for batch, taken in batches_of_all(queries, n_rows=n_rows, seed=0):
        check_batch(queries, batch, taken, n_rows, n_controls=0)
        assert batch.tokens_BT.shape == (n_rows, 8)
        seen.extend(taken.tolist())
    assert sorted(seen) == list(range(20))
    assert seen != list(range(20))
    again, other = (
        np.concatenate([taken for _, taken in batches_of_all(queries, n_rows=n_rows, seed=seed)]) for seed in (0, 1)
    )
    assert again.tolist() == seen
    assert other.tolist() != seen


def test_an_answer_longer_than_a_batch():
    with pytest.raises(UserError, match="an answer has 2 tokens, above the 1 rows of a batch"):
        next(batches_of_all(tiny_queries(4), n_rows=1, seed=0))


PLACED = FactSet(
    (
        Relation("capital", ("{answer} is in {subject}.", "In {subject} is {answer}, people say."), "countries"),
        Relation("domain", ("Sites in {subject} end in",), "countries"),
    ),
    (Fact("capital", "Mexico", "Mexico City"), Fact("domain", "Peru", ".pe")),
)
PLACED_QUERIES = np.array([[0, 0], [0, 1], [1, 0]])
PLACED_TEXTS = [sentence(PLACED, *query) for query in PLACED_QUERIES.tolist()]


def test_answers_in_the_middle_of_a_text():
    assert PLACED_TEXTS == [
        "Mexico City is in Mexico.",
        "In Mexico is Mexico City, people say.",
        "Sites in Peru end in .pe.",
    ]
    for tokenizer in (train_tokenizer(PLACED_TEXTS), masked_tokenizer(PLACED_TEXTS)):
        found = encode(PLACED, PLACED_QUERIES, tokenizer)
        first = words(tokenizer, tokenizer.prefix)
        last = words(tokenizer, tokenizer.suffix)
        whole = [*first, "In", "Mexico", "is", "Mexico", "City", ",", "people", "say", ".", *last]
        assert words(tokenizer, found.tokens_NT[1]) == whole
        np.testing.assert_array_equal(found.answer_start_N, [1, 4, 6])
        np.testing.assert_array_equal(found.answer_length_N, [2, 2, 1])
        np.testing.assert_array_equal(found.length_N, np.array([7, 10, 8]) + len(last))
        assert found.mask == found[np.array([1])].mask == tokenizer.mask


def test_every_masked_answer_token_has_a_text_of_its_own():
    tokenizer = masked_tokenizer(PLACED_TEXTS)
    queries = encode(PLACED, PLACED_QUERIES, tokenizer)
    batch, taken = query_batch(queries, n_sequences=3, n_rows=6, answered=[1, 2, 0], rng=np.random.default_rng(0))
    np.testing.assert_array_equal(taken, [1, 2, 0])
    end = [",", "people", "say", ".", "[SEP]"]
    # An answer's token and its later ones are hidden; its earlier ones can be read, as in a causal model.
    expected = [
        ["[CLS]", "In", "Mexico", "is", "[MASK]", "[MASK]", *end],
        ["[CLS]", "In", "Mexico", "is", "Mexico", "[MASK]", *end],
        ["[CLS]", "Sites", "in", "Peru", "end", "in", "[MASK]", ".", "[SEP]"],
        ["[CLS]", "[MASK]", "[MASK]", "is", "in", "Mexico", ".", "[SEP]"],
        ["[CLS]", "Mexico", "[MASK]", "is", "in", "Mexico", ".", "[SEP]"],
    ]
    assert batch.tokens_BT.shape == (6, 11)
    for row, read in enumerate(expected):
        assert words(tokenizer, batch.tokens_BT[row]) == read + [PAD] * (11 - len(read))
    np.testing.assert_array_equal(batch.length_B[:5], [len(read) for read in expected])
    np.testing.assert_array_equal(batch.rows.sequence_R[:5], range(5))
    np.testing.assert_array_equal(batch.rows.position_R[:5], [4, 5, 6, 1, 2])
    assert words(tokenizer, batch.rows.target_R[:5]) == ["Mexico", "City", ".pe", "Mexico", "City"]
    np.testing.assert_array_equal(batch.answers.answer_R, [0, 0, 1, 2, 2, 2])
    np.testing.assert_array_equal(batch.answers.weight_R, [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(batch.answers.answer_weight_N, [1, 1, 1, 0, 0, 0])
    # The first and the last are one fact in two prompts.
    np.testing.assert_array_equal(batch.answers.control_weight_XN, [[0] * 6, [0] * 6, [1, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(batch.answers.control_XR[2][[0, 1, 3, 4, 5]], [2, 2, 2, 2, 5])
    assert batch.answers.control_XR[2][2] in (0, 3)
    assert not batch.token_weight_BT.any()  # a masked model does not predict the next token
    assert (queries.tokens_NT != tokenizer.mask).all()  # the queries themselves are not touched


def test_all_masked_batches_cover_every_answer_token():
    tokenizer = masked_tokenizer(PLACED_TEXTS)
    queries = encode(PLACED, PLACED_QUERIES, tokenizer)
    seen = []
    for batch, taken in batches_of_all(queries, n_rows=3, seed=0):
        assert batch.tokens_BT.shape == (3, 11)
        real = batch.answers.weight_R > 0
        hidden = batch.tokens_BT[np.arange(3), batch.rows.position_R] == tokenizer.mask
        np.testing.assert_array_equal(hidden, real)
        answers, targets = batch.answers.answer_R[real], batch.rows.target_R[real]
        seen += [(int(taken[answer]), int(target)) for answer, target in zip(answers, targets, strict=True)]
    ids = {word: tokenizer.encode(word)[0] for word in ("Mexico", "City", ".pe")}
    expected = [(query, ids[word]) for query in (0, 1) for word in ("Mexico", "City")]
    assert sorted(seen) == sorted([*expected, (2, ids[".pe"])])


def test_a_causal_model_without_a_first_token():
    tokenizer = dataclasses.replace(train_tokenizer(PLACED_TEXTS), prefix=())
    queries = encode(PLACED, PLACED_QUERIES[1:], tokenizer)
    assert words(tokenizer, queries.tokens_NT[1])[:6] == ["Sites", "in", "Peru", "end", "in", ".pe"]
    np.testing.assert_array_equal(queries.answer_start_N, [3, 5])
    batch, taken = query_batch(queries, n_sequences=2, n_rows=3, answered=range(2), rng=np.random.default_rng(0))
    check_batch(queries, batch, taken, 3)
    np.testing.assert_array_equal(batch.rows.position_R, [2, 3, 4])
    np.testing.assert_array_equal(batch.token_weight_BT.sum(1), [8, 6])  # nothing predicts the first token
    # An answer at the very start follows nothing, so that no position can be asked for it.
    with pytest.raises(UserError, match="cannot be told from the text around it"):
        encode(PLACED, PLACED_QUERIES[:1], tokenizer)
    encode(PLACED, PLACED_QUERIES[:1], train_tokenizer(PLACED_TEXTS))  # here it follows <bos>


def test_what_cannot_be_encoded_is_left_out_and_counted():
    tokenizer = train_tokenizer(["a b c d e ."])
    texts = [
        Text("a", " b", "."),
        Text("a b", " z", "."),
        Text("z", " b", "."),
        Text("a", " ", "."),
        Text("a b c d", " e", "."),
        Text("b", " a", "."),
    ]
    dropped = {UNKNOWN: 5}
    found = encode_texts(texts, tokenizer, n_ctx=6, dropped=dropped)
    assert dropped == {UNKNOWN: 7, UNCLEAR: 1, TOO_LONG: 1}
    np.testing.assert_array_equal(found.fact_N, [0, 5])
    np.testing.assert_array_equal(found.subject_N, [0, 5])
    assert [words(tokenizer, tokens) for tokens in found.tokens_NT] == [[BOS, "a", "b", "."], [BOS, "b", "a", "."]]
    np.testing.assert_array_equal(encode_texts(texts, tokenizer, dropped={}).fact_N, [0, 4, 5])
    with pytest.raises(UserError, match=r"none of the 2 queries can be encoded: .*'word outside the vocabulary': 2"):
        encode_texts(texts[1:3], tokenizer, dropped={})


def byte_level(*merges: tuple[str, str], special: str = "<end>") -> TextTokenizer:
    """A vocabulary of all bytes and a few merges."""
    pieces = [*sorted(byte_alphabet()), *(left + right for left, right in merges)]
    backend = Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([special])
    return TextTokenizer(backend, (), (), backend.token_to_id(special), None)


@pytest.mark.parametrize(
    ("before", "answer", "read", "own"),
    [
        ("is (", "ab", ["i", "s", " (", "ab"], ["ab"]),
        ("is", " ab", ["i", "s", " ab"], [" ab"]),
        ("is", "ab", ["i", "s", "ab"], ["ab"]),
        # As one text the prompt's last space would be the answer's: the prompt is read as it stands all the same.
        ("is ", "ab", ["i", "s", " ", "ab"], ["ab"]),
        ("is\n", "ab", ["i", "s", "\n", "ab"], ["ab"]),
        ("xa", "b", ["x", "a", "b"], ["b"]),
        ("x", "ab%.", ["x", "ab", "%", "."], ["ab", "%", "."]),
    ],
)
def test_a_text_is_read_as_it_stands(before, answer, read, own):
    tokenizer = byte_level(("a", "b"), ("Ġ", "ab"), ("Ġ", "("))
    found = encode_texts([Text(before, answer, "")], tokenizer)
    assert words(tokenizer, found.tokens_NT[0]) == read
    shown = tokens_read(found, 0, tokenizer)
    assert shown["tokens"] == read and shown["tokens"][slice(*shown["answer"])] == own


def test_an_answer_that_merges_with_its_prompt_and_stands_before_more_is_unclear():
    tokenizer = byte_level(("a", "b"))
    with pytest.raises(UserError, match="the answer of 'xab!' cannot be told from the text around it"):
        encode_texts([Text("xa", "b", "!")], tokenizer)
    # A tokenizer that begins texts with a space has no token for an answer without one.
    own = train_tokenizer(["ab ab ab"], kind="bpe", vocab_size=262)
    with pytest.raises(UserError, match="cannot be told"):
        encode_texts([Text("ab a", "b", "")], own)


def test_control_tokens_in_a_text():
    tokenizer = byte_level()
    with pytest.raises(UserError, match="'a<end> b' spells out '<end>', a control token of this tokenizer; reword"):
        encode_texts([Text("a<end>", " b", "")], tokenizer)
    dropped = {}
    found = encode_texts([Text("a<end>", " b", ""), Text("a<end", " b", "")], tokenizer, dropped=dropped)
    assert dropped == {SPELLED: 1} and found.fact_N.tolist() == [1]
    found = encode_texts([Text("a<end>", "b<end>", "")], tokenizer, control_tokens=True)
    assert words(tokenizer, found.tokens_NT[0]) == ["a", "<end>", "b", "<end>"]
    assert (found.answer_start_N[0], found.answer_length_N[0]) == (2, 2)
    # A prefix that is spelled out is not put there twice.
    framed = dataclasses.replace(tokenizer, prefix=(tokenizer.pad,))
    for before in ("<end>a", "a"):
        found = encode_texts([Text(before, "b", "")], framed, control_tokens=True)
        assert words(tokenizer, found.tokens_NT[0]) == ["<end>", "a", "b"]


def test_spellings_of_one_subject_have_one_number():
    relation = Relation("r", ("{subject} is",), "x")
    facts = FactSet((relation,), (Fact("r", "é", "x"), Fact("r", "e\u0301", "y"), Fact("r", "y\u200b", "z")))
    found = encode(facts, facts.queries(), byte_level())
    assert found.subject_N[0] == found.subject_N[1] and found.answer_N[1] == found.subject_N[2]


def test_queries_keep_their_facts_when_others_are_left_out():
    tokenizer = train_tokenizer([sentence(FACTS, *query) for query in ((0, 0), (3, 0))])
    dropped = {}
    found = encode(FACTS, QUERIES, tokenizer, dropped=dropped)
    assert dropped == {UNKNOWN: 3}
    np.testing.assert_array_equal(found.fact_N, [0, 3])
    np.testing.assert_array_equal(found.prompt_N, [0, 0])
    np.testing.assert_array_equal(found.relation_N, [0, 2])
    np.testing.assert_array_equal(found.subject_N, [1, 5])  # the numbers that they have among all
    np.testing.assert_array_equal(found.answer_N, [4, 6])


def test_several_controls_are_different_and_as_many_as_there_are():
    """The first of a kind is the one that a single control is; a batch with fewer other facts gives fewer."""
    queries = tiny_grid(3, 2)
    made = {"n_sequences": 6, "n_rows": 10, "answered": [2, 0, 1, 5, 3, 4]}
    one, _ = query_batch(queries, rng=np.random.default_rng(0), **made)
    batch, taken = query_batch(queries, rng=np.random.default_rng(0), n_controls=4, **made)
    check_batch(queries, batch, taken, 10, n_controls=4)
    np.testing.assert_array_equal(batch.answers.control_XR[::4], one.answers.control_XR)
    np.testing.assert_array_equal(batch.answers.control_weight_XN[::4], one.answers.control_weight_XN)
    # Of three subjects in two relations, each answer has 2 others of its relation, 1 of its subject and 2 of neither.
    there_KXN = batch.answers.control_weight_XN.reshape(3, 4, 10)
    np.testing.assert_array_equal(there_KXN.sum(1)[:, :6], [[2] * 6, [1] * 6, [2] * 6])


def test_how_many_equal_ones_stand_before():
    np.testing.assert_array_equal(earlier(np.array([5, 3, 5, 5, 3])), [0, 0, 1, 2, 1])
    np.testing.assert_array_equal(earlier(np.zeros(0, int)), [])
