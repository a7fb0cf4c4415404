"""The seeded leads and jobs: always the same, of any number, and with everything odd that a backfill must survive."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from uuid import UUID

import phonenumbers
import psycopg
import pytest
from sqlalchemy import Engine, text

from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.sandbox.leads_and_jobs import MOST_LEADS, SeededClient
from backfill_pipelines.sandbox.leads_filling import demo_clients, fill_clients, fill_leads_and_jobs
from backfill_pipelines.sandbox.leads_households import HOUSEHOLDS, LONG_FIELD, OVERSIZED
from backfill_pipelines.sandbox.leads_phones import REGIONS, InventedNumber, InventedNumbers
from backfill_pipelines.sandbox.leads_rows import LeadRow

DIGEST = """
import hashlib
from backfill_pipelines.sandbox.leads_and_jobs import SeededClient
client = SeededClient("42", leads=700, jobs=300, seed=5)
rows = [*client.customers(), *client.addresses(), *client.leads(), *client.jobs()]
print(hashlib.sha256(repr(rows).encode()).hexdigest())
"""


def everything(client: SeededClient) -> list[tuple[object, ...]]:
    return [*client.customers(), *client.addresses(), *client.leads(), *client.jobs()]


def seeded(leads: int = 700, *, jobs: int = 300, seed: int = 5, **others: str) -> SeededClient:
    return SeededClient("42", leads=leads, jobs=jobs, seed=seed, **others)


@pytest.fixture(scope="module")
def client() -> SeededClient:
    elsewhere = str(UUID(int=7, version=4))
    return SeededClient("42", leads=5_000, jobs=2_500, seed=1, foreign_customer_id=elsewhere)


@pytest.fixture(scope="module")
def leads(client: SeededClient) -> list[LeadRow]:
    return list(client.leads())


def number_in(field: str | None, region: str) -> str | None:
    """What libphonenumber reads; of several numbers the first."""
    for match in phonenumbers.PhoneNumberMatcher((field or "").removesuffix(".0"), region):
        return str(phonenumbers.format_number(match.number, phonenumbers.PhoneNumberFormat.E164))
    return None


def leads_by_phone(leads: list[LeadRow]) -> defaultdict[str, list[LeadRow]]:
    by_phone: defaultdict[str, list[LeadRow]] = defaultdict(list)
    for lead in leads:
        if lead.phone and len(lead.phone) < 65 and (number := number_in(lead.phone, "US")):
            by_phone[number].append(lead)
    return by_phone


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    here = hashlib.sha256(repr(everything(seeded())).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.strip() == here


def test_another_seed_and_another_client_are_other_leads() -> None:
    assert list(seeded().leads()) != list(seeded(seed=6).leads())
    other = SeededClient("43", leads=700, jobs=300, seed=5)
    assert not {lead.id for lead in seeded().leads()} & {lead.id for lead in other.leads()}


def test_clients_of_one_seed_have_people_in_common() -> None:
    other = SeededClient("43", leads=700, jobs=300, seed=5)
    mine, theirs = list(seeded().leads()), list(other.leads())
    assert {lead.messenger_psid for lead in mine} & {lead.messenger_psid for lead in theirs} - {None, "  "}
    assert leads_by_phone(mine).keys() & leads_by_phone(theirs).keys()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 191, 192, 193, 1_999, 2_000])
@pytest.mark.parametrize("region", ["US", "SE"])
def test_any_number_of_leads_and_jobs_can_be_had(size: int, region: str) -> None:
    client = seeded(size, jobs=size * 2, phone_region=region)
    ids = [lead.id for lead in client.leads()]
    assert len(set(ids)) == len(ids) == size
    jobs = list(client.jobs())
    assert len({job.id for job in jobs}) == len(jobs) == size * 2
    customers = {customer.id for customer in client.customers()}
    linked = {row.customer_id for row in [*client.leads(), *jobs]} - {None}
    assert linked <= customers
    assert {job.lead_id for job in jobs} - {None} <= set(ids)
    assert {address.customer_id for address in client.addresses()} <= customers


def test_sizes_that_cannot_be_had_are_refused() -> None:
    for leads, jobs in ((-1, 0), (0, -1), (MOST_LEADS + 1, 0)):
        with pytest.raises(ValueError, match="use 0 to"):
            SeededClient("42", leads=leads, jobs=jobs, seed=1)
    with pytest.raises(ValueError, match="no invented numbers for the region 'XX'"):
        seeded(phone_region="XX")


def test_a_lead_needs_no_memory_once_it_is_taken() -> None:
    client = seeded(200_000, jobs=0)
    rows = client.leads()
    next(rows)
    tracemalloc.start()
    for _ in range(5_000):
        next(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


# --- phones


@pytest.mark.parametrize("region", REGIONS)
def test_every_spelling_of_a_number_is_that_number(region: str) -> None:
    numbers = InventedNumbers(region, random.Random(1))
    for serial in (*range(130), 40_000, 2_999_999):
        number = numbers.number(serial)
        assert phonenumbers.is_valid_number(phonenumbers.parse(number.e164))
        for style in (*range(len(number.forms)), 11):
            spelling = number.spelled(style)
            assert number_in(spelling, region) == number.e164, spelling


@pytest.mark.parametrize("region", REGIONS)
def test_no_two_people_have_one_number(region: str) -> None:
    numbers = InventedNumbers(region, random.Random(1))
    serials = [*range(20_000), *range(20_000, 3_000_000, 971), *range(2_999_000, 3_000_000)]
    assert len({numbers.number(serial).e164 for serial in serials}) == len(set(serials))


def test_the_numbers_kept_for_fiction_come_first_and_no_number_is_anybodys() -> None:
    numbers = InventedNumbers("US", random.Random(1))

    def american(serials: range) -> list[InventedNumber]:
        return [number for number in map(numbers.number, serials) if number.calling_code == "1"]

    assert all(number.local.startswith("55501") for number in american(range(28_000)))
    later = american(range(28_000, 3_000_000, 331))
    assert {number.local[:3] for number in later} == {"555"}
    assert "5551212" not in {number.local for number in american(range(300_000, 360_000))}


# --- the shapes


def test_even_ten_leads_hold_a_family_a_duplicate_and_a_customer_that_people_made() -> None:
    client = seeded(10, jobs=5)
    leads = list(client.leads())
    family = [each for each in leads_by_phone(leads).values() if len({lead.messenger_psid for lead in each}) == 3]
    assert len(family) == 1
    assert {lead.messenger_psid is None for lead in family[0]} == {True, False}
    assert [lead.company_name for lead in leads if not any(lead[2:7])] != []
    assert len(list(client.customers())) == len(list(client.addresses())) == 1


def test_one_person_is_spelled_in_many_ways(leads: list[LeadRow]) -> None:
    spellings = Counter(len({lead.phone for lead in same}) for same in leads_by_phone(leads).values() if len(same) == 2)
    assert spellings[2] > 3 * spellings[1]
    by_email: defaultdict[str, set[str]] = defaultdict(set)
    for lead in leads:
        by_email[(lead.email or "").strip().lower()].add(lead.email or "")
    assert sum(len(each) > 1 for each in by_email.values()) > 100


def test_phones_come_in_every_form(leads: list[LeadRow]) -> None:
    phones = [lead.phone or "" for lead in leads]
    for part in (
        " ext 12",
        " / (",
        ".0",
        " (0)",
        "+49",
        "cell: ",
        "tel:+1-",
        "５５５",
        "+61",
        "+46",
        "+33",
    ):
        assert any(part in phone for phone in phones), part
    for field in ("0000000000", "(123) 456-7890", "call me", "555-0134", "+52 1 55 5555 0134", ""):
        assert field in phones
    assert phones.count(LONG_FIELD) == 2
    assert max(len(phone) for phone in phones if phone != LONG_FIELD) == 80


def test_emails_come_in_every_form(leads: list[LeadRow]) -> None:
    emails = [lead.email or "" for lead in leads]
    assert {"test@test.com", "info@copperline.example.com", "NoReply@umber.test ", "not-an-address", " "} <= set(emails)
    assert any(not email.isascii() and "@" in email and email.strip() == email for email in emails)
    assert any(email.isupper() for email in emails)
    assert any(email != email.strip() for email in emails)
    domains = {email.strip().lower().rpartition("@")[2] for email in emails if "@" in email}
    assert all(domain == "test.com" or domain.endswith((".test", ".example.com")) for domain in domains)


def test_ids_hold_quotes_unicode_and_what_copy_must_escape(leads: list[LeadRow]) -> None:
    ids = "".join(lead.id for lead in leads)
    assert all(part in ids for part in ("'", '"', "лид", "领先", "\\", "\t", ",", ";"))


def test_some_phones_addresses_and_psids_are_shared_by_more_than_a_hundred(leads: list[LeadRow]) -> None:
    by_phone = {number: len(same) for number, same in leads_by_phone(leads).items()}
    by_email = Counter((lead.email or "").strip().lower() for lead in leads if "." in (lead.email or ""))
    by_psid = Counter((lead.messenger_psid or "").strip() for lead in leads)
    del by_psid[""]
    assert max(by_phone.values()) == by_email.most_common(1)[0][1] == by_psid.most_common(1)[0][1] == OVERSIZED


def test_leads_of_one_household_are_far_apart_and_not_in_the_order_of_their_arrival(leads: list[LeadRow]) -> None:
    place = {lead.id: number for number, lead in enumerate(leads)}
    pairs = [same for same in leads_by_phone(leads).values() if len(same) == 2]
    near = sum(abs(place[one.id] - place[other.id]) < 50 for one, other in pairs)
    assert near < len(pairs) / 20
    times = [lead.created_at for lead in leads]
    assert times != sorted(times)
    assert len(set(times)) < len(times)
    assert any(lead.updated_at > lead.created_at for lead in leads)


def test_people_made_customers_that_match_by_phone_by_email_and_in_doubt(
    client: SeededClient, leads: list[LeadRow]
) -> None:
    customers = list(client.customers())
    phones = Counter(number_in(customer.phone, "US") for customer in customers if customer.phone)
    assert phones.keys() & leads_by_phone(leads).keys()
    assert 2 in phones.values()
    raw = [customer.phone for customer in customers if customer.phone]
    assert len(set(raw)) == len(raw), "the table has a unique key over it"
    emails = Counter(customer.email.strip().lower() for customer in customers if customer.email)
    assert 2 in emails.values()
    assert any(customer.email and not customer.phone for customer in customers)
    assert any(customer.messenger_psid and not customer.name for customer in customers)
    assert all("backfill_pipelines" not in customer.metadata for customer in customers)
    with_address = {address.customer_id for address in client.addresses()}
    assert with_address
    assert with_address < {customer.id for customer in customers}


def test_some_leads_are_linked_and_some_to_another_clients_customer(client: SeededClient, leads: list[LeadRow]) -> None:
    own = {customer.id for customer in client.customers()}
    linked = [lead.customer_id for lead in leads if lead.customer_id]
    assert set(linked) & own
    assert set(linked) - own == {str(UUID(int=7, version=4))}
    split = defaultdict(set)
    for lead in leads:
        if lead.customer_id and lead.messenger_psid:
            split[lead.messenger_psid.strip()].add(lead.customer_id)
    assert any(len(each) == 2 for each in split.values())


def test_some_jobs_dangle_some_are_linked_and_some_wrongly(client: SeededClient, leads: list[LeadRow]) -> None:
    links = {lead.id: lead.customer_id for lead in leads}
    jobs = list(client.jobs())
    assert 0 < sum(job.lead_id is None for job in jobs) < len(jobs) / 20
    assert max(Counter(job.lead_id for job in jobs if job.lead_id).values()) == 2
    linked = [(job.customer_id, links[job.lead_id]) for job in jobs if job.customer_id and job.lead_id]
    assert any(own == leads_own for own, leads_own in linked)
    assert any(own != leads_own for own, leads_own in linked)


def test_every_household_is_of_invented_people() -> None:
    assert len({household.name for household in HOUSEHOLDS}) == len(HOUSEHOLDS)
    for household in HOUSEHOLDS:
        people = [
            value
            for each in (*household.leads, *household.customers)
            for value in (each.name, each.psid, each.phone, each.email)
            if isinstance(value, int)
        ]
        assert all(person < household.people for person in people), household.name


# --- in a database


def test_a_database_is_filled_client_by_client(product_tables: Engine) -> None:
    clients = demo_clients(["7", "42", "b'c"], seed=3, scale=0.2, names={"7": "O'Hollow"}, phone_regions={"42": "GB"})
    with product_tables.begin() as connection:
        fill_clients(driver_connection(connection), clients)
    with product_tables.connect() as connection:
        counts = connection.execute(
            text('SELECT client_id, count(*) FROM "Lead" GROUP BY client_id ORDER BY client_id')
        ).all()
        assert counts == sorted((each.client_id, each.number_of_leads) for each in clients)
        assert connection.scalar(text('SELECT count(*) FROM "Job"')) == sum(each.number_of_jobs for each in clients)
        assert connection.scalar(text("""SELECT name FROM "Client" WHERE id = '7'""")) == "O'Hollow"
        assert connection.scalar(text('SELECT count(*) FROM "CustomerAddress"')) > 0
        stored = connection.execute(text('SELECT * FROM "Lead" WHERE client_id = :id'), {"id": "7"}).all()
        fresh = {lead.id: tuple(lead) for lead in clients[0].leads()}
        for row in stored:
            assert tuple(str(value) if isinstance(value, UUID) else value for value in row) == fresh[row.id]
        across = connection.scalar(
            text(
                'SELECT count(*) FROM "Lead" AS l JOIN "Customer" AS c ON c.id = l.customer_id'
                " WHERE c.client_id <> l.client_id"
            )
        )
        assert across > 0


def test_a_client_that_is_there_keeps_its_row_and_is_filled_once(product_tables: Engine) -> None:
    with product_tables.begin() as connection:
        connection.execute(text("""INSERT INTO "Client" (id, name) VALUES ('42', 'Umber Books')"""))
        fill_leads_and_jobs(driver_connection(connection), client_id="42", leads=20, jobs=10, seed=1)
        assert connection.scalar(text('SELECT name FROM "Client"')) == "Umber Books"
    with product_tables.connect() as connection, pytest.raises(psycopg.errors.UniqueViolation):
        fill_leads_and_jobs(driver_connection(connection), client_id="42", leads=20, jobs=10, seed=1)


def test_the_demo_has_clients_from_ten_to_some_thousand_leads() -> None:
    ids = [f"client-{number}" for number in range(24)]
    clients = demo_clients(ids)
    sizes = [each.number_of_leads for each in clients]
    assert (min(sizes), max(sizes), len(clients)) == (10, 4_000, 24)
    assert sizes != sorted(sizes)
    assert 10_000 < sum(sizes) < 30_000
    assert [each.client_id for each in clients] == ids
    assert [each.number_of_leads for each in demo_clients(ids[:1])] == [4_000]
    assert demo_clients([]) == []
