"""Limits of concurrent requests: in total, and for each caller."""

from app.errors import RETRY_AFTER_SECONDS, RateLimited, Unavailable
from app.operations import GraphQLRequest
from app.sharing.turns import Turns

# One caller may have a quarter of all places.
SHARE = 4
# Few large requests may be in progress, because of their memory. Lists and objects count more than their bytes.
LARGE_BYTES = 16_000
MOST_LARGE, LARGE_OF_A_CALLER = 50, 16
# Fewer long ones, which no caller without a token can send: a megabyte of text takes up to four in memory.
LONG_BYTES = 180_000
MOST_LONG, LONG_OF_A_CALLER = 20, 4


class Places:
    """`most` places for users and a quarter of that for anonymous callers; each caller gets a quarter of these at most.

    A request has a place from when its body is complete and its caller is known until it is answered. A large request
    needs a second place, of those for large requests, and a long one a third.
    """

    def __init__(self, most: int) -> None:
        anonymous = _part(most)
        self._users, self._anonymous = Turns[str](most, _part(most)), Turns[str](anonymous, _part(anonymous))
        self._large = Turns[str](MOST_LARGE, LARGE_OF_A_CALLER)
        self._long = Turns[str](MOST_LONG, LONG_OF_A_CALLER)

    def take(self, request: GraphQLRequest, *, is_user: bool) -> None:
        """Take a place for a request. Raises Unavailable if all are taken, RateLimited if the caller has its share."""
        places = self._users if is_user else self._anonymous
        if not places.take(request.payer):
            raise _refusal(places, "requests")
        request.places = places
        if request.size > LARGE_BYTES:
            if not self._large.take(request.payer):
                raise _refusal(self._large, "large requests")
            request.large_places = self._large
            if request.size > LONG_BYTES:
                if not self._long.take(request.payer):
                    raise _refusal(self._long, "long requests")
                request.long_places = self._long


def _refusal(places: Turns[str], what: str) -> Unavailable | RateLimited:
    if places.are_all_taken:
        return Unavailable(f"The server has too many {what} in progress; try again.")
    return RateLimited(f"You have {places.share} {what} in progress; wait for some of them.", RETRY_AFTER_SECONDS)


def _part(most: int) -> int:
    return max(1, most // SHARE)
