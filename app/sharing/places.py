"""Requests under way: no more at a time than can be answered soon, and a share for each caller."""

from app.errors import RETRY_AFTER_SECONDS, RateLimited, Unavailable
from app.operations import GraphQLRequest
from app.sharing.turns import Turns

# The part of all places that one caller may have.
SHARE = 4


class Places:
    """Users have `most` places, strangers a quarter of that beside, and each caller has a quarter of these at most.

    A request has its place from when its body is complete and its caller known until it was answered.
    """

    def __init__(self, most: int) -> None:
        strangers = _part(most)
        self._users, self._strangers = Turns[str](most, _part(most)), Turns[str](strangers, _part(strangers))

    def take(self, request: GraphQLRequest, *, is_user: bool) -> None:
        """Give a request its place. Unavailable where all are taken, RateLimited where the caller has its share."""
        places = self._users if is_user else self._strangers
        if not places.take(request.payer):
            if places.are_all_taken:
                raise Unavailable("The server has too many requests to answer; try again.")
            raise RateLimited(
                f"You have {places.share} requests under way; wait for some of them.", RETRY_AFTER_SECONDS
            )
        request.places = places


def _part(most: int) -> int:
    return max(1, most // SHARE)
