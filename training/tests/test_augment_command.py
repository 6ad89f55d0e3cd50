from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command


@pytest.mark.usefixtures("shop")
def test_staff_see_how_each_wording_of_an_entry_is_varied() -> None:
    out = StringIO()

    call_command("augment", "hours", "--count", "3", stdout=out)

    lines = out.getvalue().splitlines()
    wordings = [line for line in lines if not line.startswith(" ")]
    assert wordings == ["¿A qué hora cierran?", "horario de cierre", "hasta qué hora abren", "a que hora cierran hoy"]
    assert len(lines) > 2 * len(wordings)
    again = StringIO()
    call_command("augment", "hours", "--count", "3", stdout=again)
    assert again.getvalue() == out.getvalue()


@pytest.mark.usefixtures("shop")
def test_it_says_what_is_wrong() -> None:
    with pytest.raises(CommandError, match="'nothing'"):
        call_command("augment", "nothing")
    with pytest.raises(CommandError, match="at least 1"):
        call_command("augment", "hours", "--count", "0")
