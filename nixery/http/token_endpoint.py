"""
Serve ``/token``, the endpoint from which clients fetch tokens for the registry API.

There are two methods, and clients use either: GET with the password in the header
``Authorization`` (Docker, podman, skopeo), and POST with a form (containerd, and clients
with a refresh token).  A scope that the user may not have is left out of the token, and
the request is not refused: the registry API then says what is wrong.

Protocol: the CNCF Distribution project, "Token Authentication Specification" and "OAuth2
Token Authentication".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs

from twisted.web.server import Request

from nixery.access.access_controller import AccessController
from nixery.access.errors import LoginFailed, LoginRequired, TokenInvalid
from nixery.access.identity import IssuedToken
from nixery.http.auth import client_of
from nixery.http.credentials import BASIC
from nixery.http.error_responses import ErrorResponse
from nixery.http.responses import answer_with, send_error, set_headers

__all__ = ["TokenEndpoint"]

MAX_FIELDS = 64

_BAD_FORM = ErrorResponse(
    status=400,
    code="UNSUPPORTED",
    message="send a form of at most 16384 bytes, with the grant_type password or refresh_token",
)


class TokenEndpoint:
    """
    Issues tokens.

    :param controller: checks passwords, and signs tokens.
    """

    def __init__(self, controller: AccessController) -> None:
        self._controller = controller

    async def issue(self, request: Request) -> bytes:
        """Answer a GET, whose password is in the header ``Authorization``."""
        set_headers(request, {b"Cache-Control": b"no-store"})
        client = client_of(request)
        if client.auth_error:
            raise LoginRequired(challenge=BASIC, reason=client.auth_error)
        # A token cannot be used to fetch another token, which would extend its lifetime.
        if client.identity is not None and client.identity.scopes is not None:
            raise LoginRequired(challenge=BASIC)
        if client.identity is None and not self._controller.allows_anonymous:
            raise LoginRequired(challenge=BASIC)
        query: Mapping[bytes, Sequence[bytes]] = request.args or {}
        scopes = [each.decode("utf-8", "replace") for each in query.get(b"scope", ())]
        wanted = query.get(b"offline_token", [b""])[-1] == b"true"
        return _token_response(
            request, self._controller.issue_tokens(client.user, scopes, with_refresh_token=wanted)
        )

    async def issue_for_form(self, request: Request) -> bytes:
        """Answer a POST, whose form has a password or a refresh token."""
        set_headers(request, {b"Cache-Control": b"no-store"})
        body: bytes = request.content.read() if request.content is not None else b""
        try:
            form = parse_qs(body.decode("utf-8"), max_num_fields=MAX_FIELDS)
        except ValueError:
            return send_error(request, _BAD_FORM)

        def given(name: str) -> str:
            return form.get(name, [""])[-1]

        try:
            match given("grant_type"):
                case "password":
                    identity = await self._controller.log_in(
                        given("username"), given("password"), client_of(request).address
                    )
                case "refresh_token":
                    identity = self._controller.verify_refresh_token(given("refresh_token"))
                case _:
                    return send_error(request, _BAD_FORM)
        except (LoginFailed, TokenInvalid) as error:
            raise LoginRequired(challenge=BASIC, reason=error.message) from error
        issued = self._controller.issue_tokens(
            identity.user,
            form.get("scope", []),
            with_refresh_token=given("access_type") == "offline",
        )
        return _token_response(request, issued)


def _token_response(request: Request, issued: IssuedToken) -> bytes:
    document: dict[str, object] = {
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.lifetime,
        "issued_at": datetime.fromtimestamp(issued.issued_at, UTC)
        .isoformat()
        .replace("+00:00", "Z"),
    }
    if issued.refresh_token is not None:
        document["refresh_token"] = issued.refresh_token
    return answer_with(request, "application/json", json.dumps(document).encode("ascii"))
