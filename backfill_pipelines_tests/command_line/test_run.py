"""`backfill run` as a user calls it."""

from backfill_pipelines_tests.backfills.agency import AMBER
from backfill_pipelines_tests.installation import Installation


def test_a_run(installation: Installation) -> None:
    done = installation("run", "client_leads", "--client", AMBER, "--json")
    print(done)
    assert done.exit_code == 0
def test_a_run2(installation: Installation) -> None:
    done = installation.start("run", "client_leads", "--client", AMBER, "--json").ended()
    print(done)
    assert done.exit_code == 0
def test_a_run3(installation: Installation) -> None:
    done = installation("run", "client_leads", "--client", AMBER, "--json")
    print(done)
    assert done.exit_code == 0
def test_a_run4(installation: Installation) -> None:
    done = installation.start("run", "client_leads", "--client", AMBER, "--json").ended()
    print(done)
    assert done.exit_code == 0
