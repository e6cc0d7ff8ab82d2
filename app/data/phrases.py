"""Words for development data: names, and tasks of several areas of life."""

import random
from collections.abc import Sequence
from typing import NamedTuple


class Area(NamedTuple):
    """An area of life, which is a list of a user: its tags, and verbs with their objects."""

    name: str
    icon: str
    tags: Sequence[str]
    actions: Sequence[tuple[str, Sequence[str]]]


AREAS = (
    Area("Home", "🏠", ("home", "repairs", "weekend", "quick"), (
        ("Fix", ("the kitchen tap", "the squeaking door", "the lamp in the hall", "the bathroom fan")),
        ("Clean", ("the oven", "the windows", "the fridge", "the balcony", "behind the sofa")),
        ("Call", ("the plumber", "the landlord", "the electrician", "the chimney sweep")),
        ("Buy", ("light bulbs", "a new doormat", "paint for the hallway", "batteries")),
        ("Sort", ("the basement", "old magazines", "the tool box", "winter clothes")),
    )),
    Area("Work", "#2563eb", ("work", "writing", "meeting", "deep work", "review"), (
        ("Write", ("the quarterly report", "minutes of the planning", "the project proposal", "release notes")),
        ("Review", ("the pull request", "Zoë's draft", "the budget", "applications for the internship")),
        ("Prepare", ("slides for Tuesday", "the workshop", "the interview", "the onboarding of Łukasz")),
        ("Answer", ("the customer's questions", "open support tickets", "the auditors")),
        ("Plan", ("the next sprint", "the team's offsite", "the migration", "holiday cover")),
    )),
    Area("Groceries", "🛒", ("shopping", "market", "weekly"), (
        ("Buy", ("oat milk", "bread and butter", "coffee beans", "crème fraîche", "tomatoes", "cat food", "jalapeños")),
        ("Order", ("the vegetable box", "drinks for Saturday", "a cake")),
        ("Return", ("empty bottles", "the broken jar")),
    )),
    Area("Health", "💪", ("health", "sport", "appointment"), (
        ("Book", ("the dentist", "a check-up", "physiotherapy", "an eye test")),
        ("Run", ("5 kilometres", "10 kilometres", "intervals in the park")),
        ("Renew", ("the prescription", "the gym membership", "the vaccination")),
        ("Try", ("the new yoga class", "going to bed before eleven", "a day without sugar")),
    )),
    Area("Finance", "💶", ("money", "papers", "taxes", "monthly"), (
        ("Pay", ("the rent", "the electricity bill", "the invoice of the garage", "the deposit")),
        ("File", ("the tax return", "receipts of last month", "the insurance claim")),
        ("Cancel", ("the streaming trial", "the old phone contract", "the newspaper")),
        ("Compare", ("electricity tariffs", "liability insurance", "savings accounts")),
    )),
    Area("Travel", "✈️", ("travel", "booking", "papers"), (
        ("Book", ("the train to Zürich", "a hotel in Málaga", "seats on the ferry", "a rental car")),
        ("Renew", ("the passport", "the rail card", "travel insurance")),
        ("Pack", ("the tent", "chargers and adapters", "sunscreen", "the first-aid kit")),
        ("Ask", ("Ana to water the plants", "for a late check-out", "about visas")),
    )),
    Area("Garden", "🌱", ("garden", "weekend", "spring"), (
        ("Plant", ("tulips", "tomatoes", "a cherry tree", "basil and thyme")),
        ("Water", ("the hydrangeas", "the new hedge", "the seedlings")),
        ("Repair", ("the fence", "the greenhouse", "the garden hose")),
        ("Cut", ("the lawn", "the roses", "the ivy on the wall")),
    )),
    Area("Side project", "💡", ("coding", "ideas", "writing", "learning"), (
        ("Read", ("the chapter on indexes", "the RFC", "about event sourcing", "the style guide")),
        ("Sketch", ("the landing page", "the data model", "a logo")),
        ("Fix", ("the flaky test", "the build", "dark mode on Safari", "the typo on the front page")),
        ("Publish", ("the blog post", "version 2", "the screencast")),
    )),
)  # fmt: skip

_FIRST = ("Ada", "Bruno", "Chiara", "David", "Emma", "Farid", "Grace", "Hiroshi", "Ines", "Jonas", "Karla", "Liam",
    "Maya", "Noah", "Olga", "Pedro", "Quinn", "Rosa", "Samir", "Tess", "Uma", "Viktor", "Wanda", "Yusuf")  # fmt: skip
_LAST = ("Almeida", "Bauer", "Costa", "Dubois", "Eriksen", "Fischer", "Garcia", "Haddad", "Ito", "Jensen", "Kowalski",
    "Lopez", "Moreau", "Novak", "Okafor", "Patel", "Rossi", "Schmidt", "Tanaka", "Weber")  # fmt: skip
# Most titles have none of these.
_OCCASIONS = ("", "", "", " before the weekend", " this month", " for Mum", " for the party", " again", " with Jo")
_NOTES = (
    "Mornings are best.",
    "Ask for the price first.",
    "See the message from last week.",
    "It should not take longer than an hour.",
    "The number is on the fridge.",
    "Bring the receipt.",
    "Not urgent, but do not forget it.",
    "Check whether it is still needed.",
    "The blue folder has the papers.",
    "Take pictures before and after.",
)


def address(rng: random.Random, seed: int, number: int) -> str:
    """The email address of a user, in a reserved domain. No two users of a seed have the same."""
    return f"{rng.choice(_FIRST)}.{rng.choice(_LAST)}.{seed}-{number}@example.com".lower()


def title(rng: random.Random, area: Area) -> str:
    verb, objects = rng.choice(area.actions)
    return f"{verb} {rng.choice(objects)}{rng.choice(_OCCASIONS)}"


def description(rng: random.Random) -> str:
    """One to three sentences."""
    return " ".join(rng.sample(_NOTES, rng.randint(1, 3)))
