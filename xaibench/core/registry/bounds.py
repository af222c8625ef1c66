"""Types of parameters with bounds or choices, as in `steps: Count = 20`. `validate` reports values outside of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator


def odd(value: int) -> int:
    """The value itself. Raises ValueError where it is even."""
    if value % 2 == 0:
        raise ValueError("an odd number is needed")
    return value


Natural = Annotated[int, Ge(0)]
Count = Annotated[int, Ge(1)]
AtLeastTwo = Annotated[int, Ge(2)]
Odd = Annotated[int, Ge(1), AfterValidator(odd)]

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
OneOrMore = Annotated[float, Ge(1)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
ProperFraction = Annotated[float, Ge(0), Lt(1)]
InnerFraction = Annotated[float, Gt(0), Lt(1)]

LARGEST_SIDE = 8192
Side = Annotated[int, Ge(1), Le(LARGEST_SIDE)]  # of an image, in pixels
Resize = Literal["squash", "shortest_crop", "fit_pad", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
ExtraChannels = Literal["copy_first", "mean", "zero"]


def texts(annotation: Any) -> list[str]:
    """The bounds in an annotation as text: `["at least 0", "less than 1"]`."""
    found = []
    for part in get_args(annotation):
        match part:
            case Ge(ge=bound):
                found.append(f"at least {bound}")
            case Gt(gt=bound):
                found.append(f"more than {bound}")
            case Le(le=bound):
                found.append(f"at most {bound}")
            case Lt(lt=bound):
                found.append(f"less than {bound}")
            case AfterValidator():
                found.append(part.func.__name__.replace("_", " "))
            case _:
                found += texts(part)
    return found
