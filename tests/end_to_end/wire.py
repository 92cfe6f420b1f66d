"""
A registry seen by a client that hides nothing: status, headers and bytes.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.end_to_end.images import digest_of

__all__ = ["DOCKER_MANIFEST", "OCI_MANIFEST", "PATIENT_AGENT", "Answer", "Registry"]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@frozen(kw_only=True)
class Answer:
    """
    A response.

    :param headers: by their names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Mapping[str, Any]:
        """The first of the errors in the body."""
        first: Mapping[str, Any] = self.json()["errors"][0]
        return first

    @property
    def message(self) -> str:
        """The message of the first error."""
        return str(self.error["message"])


PATIENT_AGENT = "docker/26.1.0"
"""An agent whose request is held until the image is made; others are told to come back."""


@frozen
class Registry:
    """
    The registry at a port of the loopback interface.

    Every request has a connection of its own: safe to use from several threads.
    """

    port: int

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float = 180,
    ) -> Answer:
        """
        Ask for ``path`` and read the whole answer.

        :raises OSError: there is no answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=response.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, {_header(name): headers[name] for name in headers})

    def head(self, path: str, **headers: str) -> Answer:
        return self.request("HEAD", path, {_header(name): headers[name] for name in headers})

    def manifest(self, name: str, reference: str = "latest", accept: str = OCI_MANIFEST) -> Answer:
        """The manifest of an image; the daemon makes it if need be, however long that takes."""
        return self.get(
            f"/v2/{name}/manifests/{reference}", accept=accept, User_Agent=PATIENT_AGENT
        )

    def blob(self, name: str, digest: str) -> bytes:
        """A blob, which has to be what its digest says."""
        answer = self.get(f"/v2/{name}/blobs/{digest}")
        if answer.status != 200:
            raise AssertionError(f"blob {digest} was answered with {answer}")
        if digest_of(answer.body) != digest:
            raise AssertionError(f"blob {digest} is {digest_of(answer.body)}")
        return answer.body

    def connections(self) -> int:
        """Count the connections that clients have with the registry."""
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        ends = [row.split()[1:4] for row in rows]
        established = "01"
        return [(local.endswith(f":{self.port:04X}"), state) for local, _, state in ends].count(
            (True, established)
        )

    def answers(self) -> bool:
        """Tell whether a registry listens on the port."""
        try:
            # The second: and wants to know who asks.
            return self.get("/v2/").status in (200, 401)
        except (OSError, http.client.HTTPException):
            return False


def _header(name: str) -> str:
    return name.replace("_", "-")
