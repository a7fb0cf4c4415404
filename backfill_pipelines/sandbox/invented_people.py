"""Invented names, companies and phone numbers that the seeded worlds are made of.

Belongs here: word lists and number formats without any logic. Does not belong here: how often each occurs. Nobody in
here exists. Phone numbers are from the ranges the regulators keep for fiction (555-01xx in North America, Ofcom's,
ACMA's, ARCEP's, BNetzA's and PTS's drama numbers).
"""

from __future__ import annotations

# First name, last name, the Latin spelling used in addresses. One or more for every script, with the characters that
# break careless code: apostrophes, quotes, commas, combining marks, right-to-left text, emoji.
PEOPLE: tuple[tuple[str, str, str], ...] = (
    ("Avery", "Marlowe", "avery.marlowe"),
    ("Jordan", "Quill", "jordan.quill"),
    ("Siobhán", "O'Brannick", "siobhan.obrannick"),
    ("Zoë", "van der Meersch", "zoe.vandermeersch"),
    ('Robert "Bo"', "Tallow, Jr.", "bo.tallow"),
    ("Анна", "Ковальчик", "anna.kovalchik"),
    ("Дмитрий", "Березин", "dmitri.berezin"),
    ("ليلى", "الحداد", "layla.alhaddad"),
    ("عمر", "نصير", "omar.naseer"),
    ("王", "明珠", "wang.mingzhu"),
    ("さくら", "山吹", "sakura.yamabuki"),
    ("지우", "한별", "jiwoo.hanbyeol"),
    ("आरव", "शर्मिला", "aarav.sharmila"),
    ("נועה", "לביאן", "noa.lavian"),
    ("Ελένη", "Μαυρίδου", "eleni.mavridou"),
    ("สมชาย", "ใจงาม", "somchai.jaingam"),
    ("Sunny ☀️🙂", "Brightfield", "sunny.brightfield"),
    ("Zoe\u0308", "Nguye\u0302\u0303n-Lark", "zoe.nguyenlark"),
    ("Þóra", "Kjartansdóttir", "thora.kjartansdottir"),
    ("İpek", "Yıldızcı", "ipek.yildizci"),
    ("María José", "Núñez; Prado", "mariajose.nunez"),
    ("Łucja", "Żurawska", "lucja.zurawska"),
    ("Marcus\\T", "O\u2019Dell", "marcus.odell"),
    ("Tamar", "ბერიძელი", "tamar.beridzeli"),
)

COMPANIES: tuple[str, ...] = (
    "Alder & Finch",
    "Copperline Diner",
    "Fernhollow Dental",
    "Gable, Stone and Sons",
    'The "Blue Kettle" Café',
    "Northwick Freight",
    "ООО Вымысел",
    "架空商事",
    "Quarry Lane Storage",
    "Tidewater Yoga",
    "Umber Books",
    "Willow Court Clinic",
)

PEOPLE_DOMAINS: tuple[str, ...] = (
    "alder-finch.example",
    "copperline.example",
    "fernhollow.example",
    "gable-stone.example",
    "bluekettle.example",
    "northwick.example",
    "quarrylane.example",
    "tidewater.example",
    "umber.example.com",
    "willowcourt.example.com",
    "mail.example.com",
)

CLIENT_NAMES: tuple[str, ...] = (
    "Amber Ridge Roofing",
    "Birchwood & Daughters",
    "Café Lumière Catering",
    "Cedar Point Solar",
    "Dovetail Kitchens",
    "Elmstead Gutters",
    "Foxglove Landscaping",
    "Granite Bay HVAC",
    "Harbor Light Windows",
    "Ironbark Fencing",
    "Juniper Pools",
    "Kestrel Insurance Group",
    "Larkspur Mortgage",
    "Meadowlark Painting",
    "Northgate Movers",
    "O'Hollow Plumbing",
    "Pinecrest Pest Control",
    "Quartz Creek Realty",
    "Redfern Flooring",
    "Saltmarsh Boats",
    "Thistle Hill Tutors",
    "Überholz Tischlerei",
    "Vantage Point Drones",
    "Westerly Water",
)

CLIENT_ADJECTIVES: tuple[str, ...] = ("Bright", "Copper", "Golden", "Misty", "Quiet", "Silver", "Still", "Wild")
CLIENT_NOUNS: tuple[str, ...] = ("Acre", "Bluff", "Canyon", "Delta", "Fjord", "Glen", "Orchard", "Prairie")

CAMPAIGN_NAMES: tuple[str, ...] = (
    "Spring outreach",
    "Homeowners, north",
    "Homeowners, south",
    "Referral partners",
    "Winter follow-up",
    "Property managers",
    "Re-engage 2024",
)

SUBJECTS: tuple[str, ...] = (
    "Re: quick question",
    "Re: your roof",
    "Re: an idea for {company}",
    "RE: Fwd: estimate",
    "Re: 你好",
)
TEXTS: tuple[str, ...] = (
    "Sounds good, can you call me next week?",
    'He said "maybe", let us talk;\r\nthanks, A.',
    "Yes please.\n\n> On Monday you wrote:\n> hello",
    "Спасибо, интересно. Позвоните мне.",
    "مرحبا، أود معرفة المزيد",
    "Bell\u0007, unit\u001fseparator, escape\u001b[0m and a NUL \u0000 inside.",
    "Interested 🙂 — what does it cost?",
)

# Region -> formats with one place for a number from 5 to 99. The first ones are valid in libphonenumber.
PHONE_FORMATS: dict[str, tuple[str, ...]] = {
    "US": (
        "(205) 555-01{:02d}",
        "1-212-555-01{:02d}",
        "415.555.01{:02d}",
        "+1 303 555 01{:02d}",
        "+44 20 7946 00{:02d}",
    ),
    "CA": ("(604) 555-01{:02d}", "+1-416-555-01{:02d}", "514 555 01{:02d}"),
    "GB": ("020 7946 00{:02d}", "+44 (0)161 496 00{:02d}", "07700 9000{:02d}"),
    "AU": ("(02) 5550 10{:02d}", "+61 2 5550 10{:02d}"),
    "DE": ("030 23125 1{:02d}", "+49 (0)30 23125 1{:02d}"),
    "FR": ("01 99 00 12 {:02d}", "+33 1 99 00 12 {:02d}"),
    "SE": ("070-174 06 {:02d}", "+46 70 174 06 {:02d}"),
}
BROKEN_PHONES: tuple[str, ...] = (
    "555-01{:02d}",
    "call me",
    "0000000000",
    "n/a",
)
PHONE_LABELS: tuple[str, ...] = (
    "Phone",
    "phone number",
    "Cell Phone",
    "mobile",
    "PHONE NUMBER",
    "Mobile",
    "cell phone",
)
OTHER_LABELS: tuple[tuple[str, str], ...] = (
    ("City", "Fernhollow"),
    ("LinkedIn", "https://social.example/in/nobody"),
    ("Fax", "(205) 555-0199"),
    ("phone type", "landline"),
    ("telephone", "(205) 555-0198"),
    ("Website", "https://bluekettle.example"),
)
BROKEN_ADDRESSES: tuple[str | None, ...] = (
    "not-an-address",
    "",
    None,
    "two@at@signs.example",
    "spaces in it@mail.example.com",
    "nodot@localhost",
)
