"""Prompts in the form that a model was taught to converse in."""

import os
from types import ModuleType

from tokenizers import Tokenizer, models

from jaxinterp.base.errors import UserError
from jaxinterp.models.tokenizers import TextTokenizer


def chat_prompt(tokenizer: TextTokenizer, message: str) -> str:
    """A user's message in the model's own chat template, up to where its answer begins.

    The control tokens are spelled out; see `TextTokenizer.encode`. A template may put a system message of its own in
    front. It is rendered by transformers, in Jinja's sandbox.

    Raises:
      UserError: if the model has no chat template, it cannot be rendered, or the message spells out a control token.
    """
    if tokenizer.chat is None:
        raise UserError("this model has no chat template: it was not taught to converse; leave --chat out")
    if (spelled := tokenizer.spelled_control_token(message)) is not None:
        raise UserError(f"the message spells out {spelled!r}, a control token of this tokenizer; reword it")
    transformers = quiet_transformers()
    # A tokenizer without words: the template reads the names of control tokens alone.
    names = {name: text for name, text in tokenizer.chat.tokens.items() if name.endswith("_token")}
    renderer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({}, "")), **names)
    try:
        return renderer.apply_chat_template(
            [{"role": "user", "content": message}],
            chat_template=tokenizer.chat.template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # whatever a template makes Jinja raise
        raise UserError(f"the model's chat template cannot be rendered: {' '.join(str(error).split())[:300]}") from None


def quiet_transformers() -> ModuleType:
    """The library, which takes a second to import, without its news that PyTorch is missing."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers
