"""Real GGUF files: our logits equal those of transformers' own GGUF loading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jaxinterp.api.attribute import attribute
from jaxinterp.facts.encoding import encode, tokens_read
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.models.model import Model
from jaxinterp.models.sources.catalogue import models_folder
from jaxinterp.models.transformer import forward

MODELS = models_folder()
TOLERANCE = 1e-3
BATCH = 10
SUBJECTS = {
    "The capital of {} is": (
        "France",
        "Japan",
        "Kenya",
        "Brazil",
        "Norway",
        "Egypt",
        "Peru",
        "Poland",
        "Vietnam",
        "Oman",
    ),
    "People in {} speak": (
        "Mexico",
        "Iran",
        "Austria",
        "Angola",
        "Thailand",
        "Greece",
        "Haiti",
        "Chile",
        "Israel",
        "Cuba",
    ),
    "{} was born in the city of": ("Mozart", "Gandhi", "Ada Lovelace", "Pelé", "Marie Curie"),
    "The chemical symbol of {} is": ("iron", "gold", "oxygen", "sodium", "lead"),
    "Once upon a time, there was a {} who": ("king", "fox", "girl", "baker", "dragon"),
    "def {}(x):\n    return": ("square", "negate", "double", "identity", "is_even"),
    "In {}, the war": ("1812", "1914", "1939", "1945", "1066"),
    "{} plus 2 equals": ("1", "3", "17", "40", "999"),
}
PROMPTS = [template.format(subject) for template, subjects in SUBJECTS.items() for subject in subjects]


@pytest.mark.filterwarnings("ignore")  # transformers' GGUF reader warns about copies
@pytest.mark.parametrize("name", ["smollm2-135m-instruct-q4", "gemma3-270m-q4"])
def test_logits_of_a_real_model(name):
    path = MODELS / name / "model.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there; `jaxinterp models fetch {name}` brings it")
    assert len(PROMPTS) == 50
    model = load_model(path)
    reference = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    run = jax.jit(lambda params, tokens: forward(Model(model.config, params), tokens).logits_BTV)
    encoded = [[*model.tokenizer.prefix, *ids] for ids in model.tokenizer.encode_batch(PROMPTS)]
    length = max(map(len, encoded))
    difference, same, spread = 0.0, 0, []
    for first in range(0, len(encoded), BATCH):
        batch = encoded[first : first + BATCH]
        padded = np.array([ids + [model.tokenizer.pad] * (length - len(ids)) for ids in batch], np.int32)
        found = np.asarray(run(model.params, jnp.asarray(padded)))
        mask = torch.tensor([[i < len(ids) for i in range(length)] for ids in batch]).long()
        with torch.no_grad():
            expected = reference(input_ids=torch.from_numpy(padded).long(), attention_mask=mask).logits.numpy()
        assert found.shape == expected.shape
        for ids, ours, theirs in zip(batch, found, expected, strict=True):
            ours, theirs = ours[: len(ids)], theirs[: len(ids)]
            difference = max(difference, float(np.abs(ours - theirs).max()))
            # Of two tokens that are as probable as one another up to the tolerance, either may come first.
            same += int(theirs[-1].max() - theirs[-1][ours[-1].argmax()] < 2 * TOLERANCE)
            spread.append(theirs.std())
    print(f"{name}: largest difference {difference:.1e} (logits vary by {np.mean(spread):.1f}), top-1 equal {same}/50")
    assert difference < TOLERANCE
    assert same == len(PROMPTS)


# P of an answer given a prompt, both as they stand, by another implementation on the same Q4_1 weights.
TEXTS = {
    ("The World Health Organization (", "WHO"): (0.988, 0.002),
    ("Days:\nMonday\nTuesday\nWednesday\n", "Thursday"): (0.549, 0.002),
    ("The capital of France is", "Paris"): (0.00052, 0.00001),
    ("The capital of France is", " Paris"): (0.77253, 0.0005),
    ("The capital of France is (", "Paris"): (0.04277, 0.0002),
    ("2+2=", "4"): (0.13188, 0.0005),
    ("北京是中国的首", "都"): (0.139, 0.001),
    ("def f(x):\n   ", " return"): (0.28709, 0.001),
}


@pytest.fixture(scope="module")
def smollm2():
    path = MODELS / "smollm2-135m-instruct-q4" / "model.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there; `jaxinterp models fetch smollm2-135m-instruct-q4` brings it")
    return load_model(path)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_as_it_stands(smollm2, text):
    found = attribute(smollm2, *text, k=1, rule="midpoint", points=1)
    value, tolerance = TEXTS[text]
    assert found.probability == pytest.approx(value, abs=tolerance)


def test_answers_that_end_in_punctuation_are_kept(smollm2):
    relations = (Relation("seat", ("The seat of {subject} is",), ""), Relation("share", ("The {subject} is",), ""))
    facts = FactSet(
        relations,
        (Fact("seat", "Foo", "Washington, D.C."), Fact("seat", "Bar", "Acme Inc."), Fact("share", "x", "100%")),
    ).answer_last()
    dropped = {}
    queries = encode(facts, facts.queries(), smollm2.tokenizer, dropped=dropped)
    read = [tokens_read(queries, row, smollm2.tokenizer) for row in range(len(queries))]
    assert dropped == {}
    assert ["".join(one["tokens"][slice(*one["answer"])]) for one in read] == [
        " Washington, D.C.",
        " Acme Inc.",
        " 100%",
    ]


def test_the_chat_template_of_a_real_model(smollm2):
    found = attribute(smollm2, "Say yes.", "Yes", k=1, rule="midpoint", points=1, chat=True)
    tokens = list(found.tokens)
    assert tokens[:2] == ["<|im_start|>", "system"] and tokens.count("<|im_end|>") == 2
    assert tokens[-6:] == ["<|im_end|>", "\n", "<|im_start|>", "ass", "istant", "\n", "Yes"][-6:]
