"""`holdfast schedules`, and a worker that keeps them."""

SCHEDULED = """
import holdfast as hf
from desk import price

every = hf.schedule("* * * * *", price, 7, name="often", tz="Europe/Berlin")
"""


def test_schedules_are_kept_by_a_worker_and_listed(cli, desk):
    (desk / "scheduled.py").write_text(SCHEDULED)
    cli("worker", "scheduled.py", "--until-idle")
    ahead = cli("ls", "--json").lines[0]
    assert ahead["run"].startswith("often@")
    assert ahead["status"] in ("waiting", "pending", "succeeded")
    (told,) = cli("schedules", "scheduled.py", "--json").lines
    assert (told["schedule"], told["agent"], told["tz"]) == ("often", "price", "Europe/Berlin")
    assert "often" in cli("schedules", "scheduled.py").out
    assert "no schedules" in cli("schedules", "desk.py").err
