"""Proof of who asks, as a registry wants it: a password, or a token for a scope.

Source: https://distribution.github.io/distribution/spec/auth/token/ and /auth/oauth/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import yarl

from chrek.registry import challenge, keyring
from chrek.registry import session as session_module

TOKEN_BYTES = 1 << 20
ACTIONS = ("pull", "push", "delete")
"""In the order in which a scope names them."""


def scope(resource: str, actions: Iterable[str]) -> str:
    """What a token is for, such as `repository:acme/worker:pull,push`."""
    wanted = set(actions)
    ordered = [*(one for one in ACTIONS if one in wanted), *sorted(wanted - set(ACTIONS))]
    return f"{resource}:{','.join(ordered)}"


def union(asked: str, wanted: Sequence[str]) -> list[str]:
    """Scopes to ask a token for.

    A registry asks for what one request needs; a token for all that follows saves asking again.

    Args:
        asked: of the challenge, with spaces between scopes; empty when it does not say.
        wanted: as `scope` makes them.
    """
    found: dict[str, set[str]] = {}
    for one in asked.split():
        name, _, actions = one.rpartition(":")
        found.setdefault(name, set()).update(actions.split(","))
    for one in wanted:
        name, _, actions = one.rpartition(":")
        # A registry that knows the repository by another name is right about it.
        if name in found or not asked:
            found.setdefault(name, set()).update(actions.split(","))
    return [scope(name, actions) for name, actions in found.items()]


class Prover:
    """Has the credential, and gives it to the registry and to the token server that it names."""

    def __init__(
        self,
        session: session_module.Session,
        credential: keyring.Credential | None,
        *,
        plain_http: bool,
    ) -> None:
        """Prepare.

        Args:
            session: with the registry.
            credential: who asks; None for nobody.
            plain_http: the token server may be without TLS.
        """
        self.credential = credential
        self._session = session
        self._plain = plain_http

    async def prove(
        self, asked: Iterable[challenge.Challenge], scopes: Sequence[str]
    ) -> str | None:
        """Value of the header Authorization, None when there is nothing more to offer.

        Raises:
            RegistryError: the token server refused, or is none that may be asked.
            aiohttp.ClientError, OSError: it did not answer.
        """
        listed = list(asked)
        for one in listed:
            if one.scheme == "bearer" and one.parameters.get("realm"):
                return f"Bearer {await self._token(one.parameters, scopes)}"
        if any(one.scheme == "basic" for one in listed) and self.credential:
            return self.credential.basic()
        return None

    async def _token(self, asked: Mapping[str, str], scopes: Sequence[str]) -> str:
        """A token of the server that the registry names."""
        realm = self._realm(asked["realm"])
        what = f"token of {realm.host}"
        wanted = union(asked.get("scope", ""), scopes)
        service = {"service": asked["service"]} if asked.get("service") else {}
        one, headers = self.credential, {"Accept": "application/json"}
        if one and one.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": one.identity_token}
            data = {**service, **form, "scope": " ".join(wanted), "client_id": "chrek"}
            answer = await self._session.send("POST", realm, headers, data=data)
        else:
            if one:
                headers["Authorization"] = one.basic()
            url = realm.update_query({**service, "scope": wanted})
            answer = await self._session.send("GET", url, headers)
        try:
            if answer.status != 200:
                raise await self._session.refused(answer, what)
            raw = await self._session.read(answer, what, TOKEN_BYTES)
        finally:
            answer.release()
        try:
            decoded = msgspec.json.decode(raw, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError):
            decoded = {}
        token = decoded.get("token") or decoded.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise self._session.words.unusable(what, "the answer has no token")
        return token

    def _realm(self, text: str) -> yarl.URL:
        try:
            realm = yarl.URL(text)
            schemes = ("https", "http") if self._plain else ("https",)
            if realm.scheme in schemes and realm.host and not realm.user:
                return realm
        except ValueError:
            pass
        why = f"the token server that it names, {text[:128]!r}, is not at https:"
        raise self._session.words.unusable("token", why)
