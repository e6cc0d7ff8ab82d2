"""Requests under way: no more at a time than can be answered soon, and a share for each caller."""

from app.errors import RETRY_AFTER_SECONDS, RateLimited, Unavailable
from app.operations import GraphQLRequest
from app.sharing.turns import Turns

# The part of all places that one caller may have.
SHARE = 4
# What is read of a large request may take thirty times its bytes: of a process and of one caller these many.
LARGE_BYTES = 16_000
MOST_LARGE, LARGE_OF_A_CALLER = 50, 16


class Places:
    """Users have `most` places, strangers a quarter of that beside, and each caller has a quarter of these at most.

    A request has its place from when its body is complete and its caller known until it was answered. Large ones need
    another besides.
    """

    def __init__(self, most: int) -> None:
        strangers = _part(most)
        self._users, self._strangers = Turns[str](most, _part(most)), Turns[str](strangers, _part(strangers))
        self._large = Turns[str](MOST_LARGE, LARGE_OF_A_CALLER)

    def take(self, request: GraphQLRequest, *, is_user: bool) -> None:
        """Give a request its place. Unavailable where all are taken, RateLimited where the caller has its share."""
        places = self._users if is_user else self._strangers
        if not places.take(request.payer):
            raise _refusal(places, "requests")
        request.places = places
        if request.size > LARGE_BYTES:
            if not self._large.take(request.payer):
                raise _refusal(self._large, f"requests of more than {LARGE_BYTES:,} bytes")
            request.large_places = self._large


def _refusal(places: Turns[str], what: str) -> Unavailable | RateLimited:
    if places.are_all_taken:
        return Unavailable(f"The server has too many {what} to answer; try again.")
    return RateLimited(f"You have {places.share} {what} under way; wait for some of them.", RETRY_AFTER_SECONDS)


def _part(most: int) -> int:
    return max(1, most // SHARE)
