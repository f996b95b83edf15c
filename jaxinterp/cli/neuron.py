"""The command `jaxinterp neuron`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.base.errors import UserError


@dataclasses.dataclass(frozen=True)
class Neuron:
    """Show one neuron as a memory: the tokens on which it is most active, what they share, and what it promotes."""

    layer: Annotated[int, tyro.conf.Positional]  # from 0
    neuron: Annotated[int, tyro.conf.Positional]  # of the layer, from 0
    model: str = "reference-plain"  # as of `jaxinterp measure`
    facts: str | None = (
        None  # whose sentences are read, as of `jaxinterp facts show`; world:countries if nothing is given
    )
    text: Path | None = (
        None  # a text file that is read instead; of a large model, a minute for each few thousand tokens
    )
    k: int = 10  # triggers that are shown
    width: int = 128  # tokens that are read at once; a longer text is cut
    json: bool = False  # print JSON for programs

    def __call__(self) -> None:
        """Runs the command."""
        import json

        from jaxinterp.base.progress import waiting
        from jaxinterp.facts.source import load_facts
        from jaxinterp.memories.memory import check_neuron, memories
        from jaxinterp.models.loading.bundle import load_model
        from jaxinterp.report.shown import print_parts

        if self.facts is not None and self.text is not None:
            raise UserError("give --facts or --text, not both")
        if self.k < 1:
            raise UserError(f"--k must be at least 1, got {self.k}")
        texts = [] if self.text is None else [_read(self.text)]
        with waiting(f"reading {self.model}"):
            model = load_model(self.model)
        check_neuron(model, self.layer, self.neuron)
        facts = None if texts else load_facts(self.facts or "world:countries")
        found = memories(model, facts, texts, k=max(25, self.k), width=min(self.width, model.config.n_ctx))
        memory = found.memory(self.layer, self.neuron, self.k)
        if self.json:
            print(json.dumps(memory.to_json(), indent=1, ensure_ascii=False))
            return
        print_parts(memory.parts())
        if found.n_dropped:
            print(f"{found.n_dropped} sentences have words that the model does not know, and were not read")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8") from None
