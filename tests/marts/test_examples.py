"""The notebooks of `examples/` run as they are, and show the right figures."""

import os
from decimal import Decimal
from pathlib import Path

import nbformat
import pytest
from known import known
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.ipynb"))
FIGURES = {
    "first_look": """
        select sum(amount)
        from fct_transactions
        where is_booked and currency = 'SAR' and direction = 'in' and not is_internal_transfer
    """,
    "customer_year": """
        select sum(net_spend)
        from fct_spend_monthly
        where currency = 'SAR' and account_key in (
            select account_key from bridge_account_owners where customer_id = (
                select customer_id
                from bridge_account_owners
                inner join fct_transactions using (account_key)
                where is_booked
                group by customer_id
                order by count(*) desc, customer_id
                limit 1
            )
        )
    """,
    "bank_quality": """
        select count_if(verdict = 'proved'), count(*)
        from mart_balance_reconciliation
        where account_key in (
            select account_key from dim_accounts where bank_identifier = (
                select bank_identifier
                from dim_accounts
                group by bank_identifier
                order by count(*) desc, bank_identifier
                limit 1
            )
        )
    """,
    "affordability": """
        select
            customer_id,
            headroom,
            (
                select sum(signed_amount) from fct_transactions
                where movement_id in (select unnest(salary_movement_ids))
            )
        from fct_affordability
        where salary > 0 and currency = 'SAR'
        order by verdict = 'within' desc, headroom desc, customer_id
        limit 1
    """,
}
"""What the last line of each notebook shows, asked in another way."""


def executed(path, world):
    """A notebook after a run over a world, and its figure."""
    assert world.connection
    book = nbformat.read(path, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell("print(repr(figure))"))
    environment = os.environ | {
        "LEANHOUSE_HOME": str(world.lake.folder.parent.parent),
        "PYTHONPATH": str(ROOT),
    }
    NotebookClient(book, timeout=120, kernel_name="python3").execute(env=environment)
    return book, "".join(one["text"] for one in book.cells[-1].outputs)


def shown(row):
    """A row as a notebook prints it."""
    return repr(row[0] if len(row) == 1 else row)


def plain(text):
    """A printed figure without the names of NumPy's types."""
    return text.strip().replace("np.int64(", "(").replace("(", "").replace(")", "")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_the_right_figure(path):
    """On a world with a known truth, with at least one plot."""
    world = known(7)
    book, figure = executed(path, world)

    truth = world.connection.execute(FIGURES[path.stem]).fetchone()
    assert truth[0]
    assert plain(figure) == plain(shown(truth))
    outputs = [one for cell in book.cells if cell.cell_type == "code" for one in cell.outputs]
    assert any("image/png" in one.get("data", {}) for one in outputs)
    assert not [one for one in outputs if one.get("name") == "stderr"]


def test_notebooks_are_kept_without_outputs():
    """So that a change is readable, and no figure of a real warehouse is ever committed."""
    assert {one.stem for one in EXAMPLES} == set(FIGURES)
    for path in EXAMPLES:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path.name
            assert cell.get("execution_count") is None, path.name
    assert plain(shown((Decimal("1.50"), 2))) == "Decimal'1.50', 2"
