"""Reading a published config: every value is checked, and fields that were not read are remembered."""

import re
import sys
from collections.abc import Mapping

from jaxinterp.base.errors import UserError

REQUIRED = object()

# Fields of config.json that say nothing about what a forward in inference computes.
INERT = re.compile(
    r"_.*|.*dropout.*|.*_pdrop|.*_token_id|id2label|label2id|output_.*|pooler_.*|summary_.*|auto_map|dtype|torch_dtype|"
    r"architectures|model_type|transformers.*|use_cache|cache_implementation|initializer_range|gradient_checkpointing|"
    r"is_encoder_decoder|tokenizer_class|task_specific_params|problem_type|finetuning_task|return_dict|"
    r"chunk_size_feed_forward|tf_legacy_loss|pruned_heads|prefix|pretraining_tp|directionality|use_bfloat16|unsloth_.*|"
    r"n_special|predict_special_tokens"
)


class Fields:
    """The values of a config, read by name.

    Args:
      values: the config.
      where: the file, for messages.
      prefix: put before every name, as "llama." in GGUF metadata.
      aliases: other spellings of names → the names; a field can be asked for by either.
    """

    def __init__(
        self, values: Mapping[str, object], where: str, prefix: str = "", aliases: Mapping[str, str] | None = None
    ) -> None:
        self.values, self.where, self.prefix = values, where, prefix
        self._aliases = aliases or {}
        self._read: set[str] = set()
        self._parts: dict[str, Fields] = {}

    def __contains__(self, name: str) -> bool:
        return self.values.get(self._spelled(name)) is not None

    def get(self, name: str, default: object = REQUIRED) -> object:
        """The value as it stands; null counts as absent.

        Raises:
          UserError: if it is absent and has no default, or has two values under two spellings.
        """
        spelled = self._spelled(name)
        self._read.add(spelled)
        value = self.values.get(spelled)
        if value is not None:
            return value
        if default is REQUIRED:
            raise UserError(f"{self.where} lacks the field {spelled!r}")
        return default

    def integer(self, name: str, default: object = REQUIRED) -> int | None:
        """A whole number."""
        value = self.get(name, default)
        if value is not default and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.wrong(name, value, "a whole number")
        return value

    def number(self, name: str, default: object = REQUIRED) -> float | None:
        """A finite number."""
        value = self.get(name, default)
        if value is default:
            return value
        # A whole number may be too large for a float; NaN is in no range.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise self.wrong(name, value, "a number")
        return float(value)

    def flag(self, name: str, default: object = REQUIRED) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def one_of(self, name: str, accepted: Mapping[str, object], default: object = REQUIRED) -> object:
        """The entry of `accepted` for the value."""
        value = self.get(name, default)
        if not isinstance(value, str) or value not in accepted:
            raise UserError(
                f"{self.where}: {self._spelled(name)} is {value!r}; supported for this family: {', '.join(accepted)}"
            )
        return accepted[value]

    def only(self, name: str, *accepted: object) -> None:
        """Refuses a model whose field has another value than these; absent is accepted."""
        value = self.get(name, None)
        if value is not None and value not in accepted:
            raise UserError(
                f"{self.where}: {self._spelled(name)} is {value!r}, which is not supported; "
                f"supported: {', '.join(map(repr, accepted)) or 'none'}"
            )

    def part(self, name: str) -> "Fields":
        """A nested object; empty if it is absent."""
        if name not in self._parts:
            value = self.get(name, {})
            if not isinstance(value, Mapping):
                raise self.wrong(name, value, "an object")
            self._parts[name] = Fields(value, f"{self.where}: {self.prefix}{name}")
        return self._parts[name]

    def wrong(self, name: str, value: object, wanted: str) -> UserError:
        """UserError for a value of the wrong kind."""
        return UserError(f"{self.where}: {self._spelled(name)} must be {wanted}, got {value!r}")

    def took_part_in(self, other: "Fields") -> None:
        """Takes what was read of `other`, which was made of these values, as read here."""
        self._read |= other._read
        self._parts |= other._parts

    def _spelled(self, name: str) -> str:
        """The name as this config writes it."""
        name = self._aliases.get(name, name)
        spellings = [name, *(alias for alias, meant in self._aliases.items() if meant == name)]
        given = [self.prefix + each for each in spellings if self.values.get(self.prefix + each) is not None]
        for other in given[1:]:
            if self.values[other] != self.values[given[0]]:
                raise UserError(
                    f"{self.where}: {given[0]} is {self.values[given[0]]!r}, {other} is {self.values[other]!r}, but "
                    "they mean the same; keep one"
                )
            self._read.add(other)
        return given[0] if given else self.prefix + name

    def names_read(self) -> frozenset[str]:
        """Names that were read, those of parts aside, whether or not the config has them."""
        return frozenset(self._read)

    def unread(self) -> tuple[str, ...]:
        """Names under the prefix, and in the parts, that were not read and might matter."""
        names = [name for name in self.values if name.startswith(self.prefix) and name not in self._read]
        names = [name for name in names if not INERT.fullmatch(name)]
        names += [f"{part}.{name}" for part, fields in self._parts.items() for name in fields.unread()]
        return tuple(sorted(names))
