"""The one exception that means "the user asked for something that cannot be done"."""

import difflib
import itertools
import re
from collections.abc import Iterable

from jaxinterp.base.tables import printable

MOST = 300  # characters of a message
LISTED = 120  # characters of known names, unless one of them is longer


class UserError(ValueError):
    """A mistake of the user's, told in one line: what was given, what is accepted, what to do.

    Command lines print its message without a traceback and exit with status 2. Messages quote what files hold, so that
    control characters are spelled out, and a message of more than 300 characters loses its middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    """The message without what no terminal should get; of a long one, without the middle of its long words and, if need
    be, its own: what to do stands at the end, after "; ".
    """
    text = printable(message).replace("\n", "\\n")
    if len(text) > MOST:
        text = re.sub(r"(\S{40})\S{20,}(\S{20})", r"\1…\2", text)
    if len(text) <= MOST:
        return text
    n_last = min(max(len(text) - text.rfind("; "), MOST // 3), 2 * MOST // 3)
    return f"{text[: MOST - 3 - n_last]} … {text[-n_last:]}"


def unknown(what: str, given: object, known: Iterable[str], hint: str = "") -> UserError:
    """UserError for a name that is not in a list; see `known_names`."""
    message = f"unknown {what} {given!r}; {known_names(given, known)}"
    return UserError(f"{message}. {hint}" if hint else message)


MANY = 20  # names that nobody reads through


def known_names(given: object, known: Iterable[str]) -> str:
    """The names there are, the first of very many, and those that are like the given one."""
    names = sorted(known)
    like = difflib.get_close_matches(str(given), names, n=3)
    meant = f"did you mean {' or '.join(like)}?" if like else ""
    ends = itertools.accumulate(len(name) + 2 for name in names)
    n_listed = max(sum(end <= LISTED for end in ends), 1)
    more = f", and {len(names) - n_listed} more" if n_listed < len(names) else ""
    shown = "" if like and len(names) > MANY else f"known: {', '.join(names[:n_listed])}{more}"
    return "; ".join(filter(None, (shown, meant)))
