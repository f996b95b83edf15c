"""A tiny model together with facts of which it knows some, shared by the tests of measuring and fine-tuning."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import save_model
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.tokenizers import TextTokenizer
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.finetune_config import FactsConfig, FinetuneConfig, TextConfig

N_RELATIONS, N_SUBJECTS = 5, 9
RELATIONS = tuple(f"r{i}" for i in range(N_RELATIONS))
SUBJECTS = tuple(f"s{i}" for i in range(N_SUBJECTS))
TUNING_WINDOW = 8  # tokens of text
WORDS = tuple(f"w{i}" for i in range(9))  # of answers
PROMPTS = ("the {r} of {{subject}}", "{{subject}} has as {r}", "{{answer}} is the {r} of {{subject}}")


def known(subject: int) -> bool:
    """Whether the facts of a subject are known by their first prompt, which the others are not."""
    return subject % 3 != 2


def n_tokens(subject: int) -> int:
    """Of the answers about a subject."""
    return 1 + subject % 2


def knowing(seed: int = 0, **changes) -> tuple[LanguageModel, FactSet]:
    """The model, and a fact for every relation and subject.

    An answer is what the model thinks most probable after the first prompt, word for word; or, so that it is wrong,
    least probable among the words.
    """
    tokenizer = _tokenizer()
    fields = {**ARCHITECTURES["llama"], "n_layers": 2, "d_mlp": 6, "n_ctx": 12, **changes}
    config = tiny_config(d_vocab=tokenizer.n_tokens, **fields)
    params = tiny_params(config, seed)
    words = np.array([tokenizer.encode(word)[0] for word in WORDS])
    is_word = np.isin(np.arange(config.d_vocab), words)
    # Nothing but words is ever predicted.
    params["unembedding"] = params["unembedding"] * is_word[:, None]
    logits = jax.jit(lambda tokens, at: forward(Model(config, params), tokens).logits_BTV[jnp.arange(len(tokens)), at])
    asked = [(relation, number) for relation in RELATIONS for number in range(N_SUBJECTS)]
    texts = [f"the {relation} of {SUBJECTS[number]}" for relation, number in asked]
    for n_before in range(2):
        heads = [[*tokenizer.prefix, *tokenizer.encode(text)] for text in texts]
        tokens = np.array([head + [0] * (8 - len(head)) for head in heads])
        found = np.asarray(logits(tokens, np.array([len(head) - 1 for head in heads])))[:, words]
        for row, (_, number) in enumerate(asked):
            best = found[row].argmax() if known(number) else found[row].argmin()
            if n_before < n_tokens(number):
                texts[row] += f" {WORDS[best]}"
    facts = [
        Fact(relation, SUBJECTS[number], " ".join(text.split()[4:]))
        for (relation, number), text in zip(asked, texts, strict=True)
    ]
    relations = tuple(
        Relation(name, tuple(prompt.format(r=name) for prompt in PROMPTS), "made up") for name in RELATIONS
    )
    return LanguageModel(Model(config, params), tokenizer, {"made": "for tests"}), FactSet(relations, tuple(facts))


def _tokenizer() -> TextTokenizer:
    return train_tokenizer([" ".join((*RELATIONS, *SUBJECTS, *WORDS, "the of has as is x y z ."))])


def table(facts: FactSet) -> str:
    """The facts as a CSV file."""
    lines = [
        f'{fact.relation},{fact.subject},{fact.answer},"{prompt}"'
        for fact in facts.facts
        for prompt in facts.relation[fact.relation].prompts
    ]
    return "\n".join(["relation,subject,answer,prompt", *lines, ""])


def tuning_inputs(folder: Path) -> tuple[LanguageModel, FinetuneConfig]:
    """Writes what a fine-tuning of 5 steps reads to the folder: model/, own.csv and text/.

    Returns:
      The model, and the config of the run.
    """
    model, facts = knowing()
    save_model(folder / "model", model)
    (folder / "own.csv").write_text(table(facts))
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        words = rng.choice(["the", "of", "has", "as", "is", "x", "y", "z", "r1", "s2", "w3"], 40)
        (folder / "text" / f"{number}.txt").write_text(" ".join(words))
    config = FinetuneConfig(
        facts=FactsConfig(
            source=str(folder / "own.csv"), least=2, prompts=2, longest=TUNING_WINDOW, n_unseen_relations=2
        ),
        text=TextConfig(folder / "text", length=TUNING_WINDOW, windows=2, held_out_windows=3, tried=40),
        objective=ObjectiveConfig(weights={"suppression": "1", "control": "1"}, k=2, path="per_layer", points=1),
        optimiser=OptimiserConfig(learning_rate=1e-2, warmup_steps=1, weight_decay=0.0),
        steps=5,
        queries=4,
        text_queries=2,
        rows=10,
        checkpoint_every=2,
    )
    return model, config
