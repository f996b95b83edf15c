"""Piecewise-linear schedules written as text, so that a config can hold them; imports no JAX."""

import dataclasses

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_number


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Values at steps: linear in between, constant outside."""

    steps: tuple[float, ...]  # increasing
    values: tuple[float, ...]


def parse_schedule(text: str) -> Schedule:
    """ "0@300,1@500" is 0 until step 300, linear to 1 at step 500, then 1; "1" is the constant 1.

    Raises:
      UserError: if the text is not of that form, a number is not finite, or the steps do not increase.
    """
    try:
        if "@" not in text:
            schedule = Schedule((0.0,), (float(text),))
        else:
            pairs = [part.split("@") for part in text.split(",")]
            schedule = Schedule(tuple(float(step) for _, step in pairs), tuple(float(value) for value, _ in pairs))
    except ValueError:
        raise UserError(f'a schedule is a number or "value@step,value@step,...", got {text!r}') from None
    for number in (*schedule.steps, *schedule.values):
        check_number(f"every number of the schedule {text!r}", number)
    if any(b <= a for a, b in zip(schedule.steps, schedule.steps[1:], strict=False)):
        raise UserError(f"the steps of a schedule must increase, got {text!r}")
    return schedule
