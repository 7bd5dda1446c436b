"""A grid that fits is drawn as lines of text, which look as the table would.

*Goal*: nobody sees which of the two was drawn. *Method*: rich's own table is the measure, for
letters that are wide and that are none, in terminals of every width; colours are compared by what
each letter is drawn in.
"""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from holdfast.cli.text import Grid

cells = st.text(st.sampled_from("ab 漢🎉é\u0301-"), max_size=9)
rows = st.lists(st.tuples(cells, cells, cells), max_size=5)


def drawn(grid, width, *, table):
    """The lines and styles of what is drawn, with the style of each letter."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    part = grid._table(["one", "two", "three"]) if table else grid  # noqa: SLF001 - the measure
    console.print(part)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@given(rows, st.integers(20, 60))
def test_it_looks_as_the_table_would(rows, width):
    grid = Grid("one", "two", "three", crop="two")
    for row in rows:
        grid.add_row(*row)
    assert drawn(grid, width, table=False) == drawn(grid, width, table=True)


def test_cells_keep_their_colours():
    grid = Grid("what", "status")
    grid.add_row("r", Text("failed", "red"))
    segments = [s for s in Console(width=40).render(grid) if s.text.strip()]
    styles = {s.text.strip(): str(s.style) for s in segments}
    assert (styles["status"], styles["failed"], styles["r"]) == ("dim", "red", "none")


@pytest.mark.parametrize(("width", "lines"), [(20, 2), (9, 3)])
def test_what_does_not_fit_is_folded(width, lines):
    grid = Grid("name", "n")
    grid.add_row("long enough", "1")
    assert len(drawn(grid, width, table=False)) == lines
