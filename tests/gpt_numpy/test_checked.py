"""Dataclasses that check their fields by their annotations."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from gpt_numpy.checked import Checked, above, at_least, at_most, below


@dataclass(frozen=True)
class Oven(Checked):
    degrees: Annotated[float, "how hot it is"] = 180.0
    trays: Annotated[int, "one above the other", at_least(1), at_most(4)] = 2
    door: Annotated[float, "how far it is open", above(0), below(1)] = 0.5
    fan: Annotated[bool, "whether it turns"] = True
    dish: Annotated[str, "what is in it"] = ""
    heat: Annotated[Literal["top", "bottom"], "where it comes from"] = "top"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"degrees": -1.0}, "degrees is a number of at least 0, not -1.0"),
        ({"degrees": float("nan")}, "degrees is a number of at least 0, not nan"),
        ({"degrees": float("inf")}, "degrees is a number of at least 0, not inf"),
        ({"degrees": True}, "degrees is a number of at least 0, not True"),
        ({"degrees": "hot"}, "degrees is a number of at least 0, not 'hot'"),
        ({"trays": 0}, "trays is a whole number of at least 1 and at most 4, not 0"),
        ({"trays": 5}, "trays is a whole number of at least 1 and at most 4, not 5"),
        ({"trays": 2.0}, "trays is a whole number of at least 1 and at most 4, not 2.0"),
        ({"door": 0}, "door is a number above 0 and below 1, not 0"),
        ({"door": 1.0}, "door is a number above 0 and below 1, not 1.0"),
        ({"fan": 1}, "fan is True or False, not 1"),
        ({"dish": None}, "dish is a string, not None"),
        ({"heat": "left"}, "heat is top or bottom, not 'left'"),
        ({"heat": []}, "heat is top or bottom, not []"),
    ],
)
def test_field_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Oven(**fields)


def test_limits_themselves_and_whole_numbers_for_others_are_accepted() -> None:
    oven = Oven(degrees=0, trays=4, door=0.999, heat="bottom")
    assert (oven.degrees, oven.trays) == (0, 4)
    assert Oven(trays=1) != Oven()


def test_whole_numbers_fit_into_64_bits() -> None:
    @dataclass
    class Count(Checked):
        n: Annotated[int, "of anything"]

    assert Count((1 << 63) - 1).n > 0
    with pytest.raises(ValueError, match=r"^n is below 2\^63, not 9223372036854775808$"):
        Count(1 << 63)
