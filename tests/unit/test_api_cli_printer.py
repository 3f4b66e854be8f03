from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli_double import Line
from xcpmem.api.cli_frames import Greeting, Print, encode
from xcpmem.api.cli_printer import Printer, escape_minimal, format_record

RECORDS = [
    [("uuid ( RO)", "1"), ("name-label ( RW)", "web1"), ("power-state ( RO)", "running")],
    [("uuid ( RO)", "2"), ("name-label ( RW)", "a,b"), ("power-state ( RO)", "halted")],
]


async def greeted() -> Line:
    line = Line()
    await line.send(encode(Greeting()))
    return line


def test_record_is_laid_out_as_xe_does() -> None:
    assert format_record(RECORDS[0]) == (
        "uuid ( RO)           : 1\n     name-label ( RW): web1\n    power-state ( RO): running\n"
    )


async def test_table_is_one_print_for_each_record_with_a_blank_line_behind() -> None:
    line = await greeted()
    await Printer(line, is_minimal=False).table(RECORDS)
    assert line.messages[1:] == [Print(format_record(rows) + "\n") for rows in RECORDS]


@pytest.mark.parametrize(("column", "text"), [(0, "1,2"), (1, r"web1,a\,b")])
async def test_minimal_keeps_the_first_column_escaped_in_one_line(column: int, text: str) -> None:
    line = await greeted()
    printer = Printer(line, is_minimal=True)
    await printer.table([rows[column:] for rows in RECORDS])
    await printer.flush()
    assert line.messages[1:] == [Print(text)]


async def test_minimal_prints_an_empty_line_when_there_is_nothing() -> None:
    line = await greeted()
    printer = Printer(line, is_minimal=True)
    await printer.table([])
    await printer.number(17)
    await printer.flush()
    assert line.messages[1:] == [Print("")]


async def test_values_and_numbers_are_a_line_each() -> None:
    line = await greeted()
    printer = Printer(line, is_minimal=False)
    await printer.values(["a", "b"])
    await printer.number(17)
    await printer.flush()
    assert line.stdout == "a\nb\n17\n"


@given(st.lists(st.text(alphabet="ab,\\"), min_size=1))
def test_minimal_line_can_be_split_again(values: list[str]) -> None:
    line = ",".join(map(escape_minimal, values))
    found = [""]
    letters = iter(line)
    for letter in letters:
        if letter == ",":
            found.append("")
        else:
            found[-1] += next(letters) if letter == "\\" else letter
    assert found == values


async def test_escape_sequence_in_a_name_is_shown_and_not_obeyed() -> None:
    line = Line()
    await line.send(encode(Greeting()))
    printer = Printer(line, is_minimal=False)
    await printer.table([[("name-label ( RW)", "evil\x1b[2J\x00\x9b name")]])
    await printer.values(["a\x07b\tc"])
    assert line.stdout == "name-label ( RW)    : evil\ufffd[2J\ufffd\ufffd name\n\n\na\ufffdb\tc\n"
