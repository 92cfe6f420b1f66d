"""
Check the host that a request is for, and whether another site's page has sent it.

A browser on the network of a private registry opens any site, and so brings others' scripts and
links there.  By DNS rebinding, a site gives its own name the address of the registry, and reads
the registry's pages as if they were its own: so pages are only served under names that are the
registry's.  And a page of another site can send a request whose answer it cannot read, as for a
picture: such a request begins no build.

Clients of the registry API choose a host by themselves and are not checked.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import define, field
from twisted.web.server import Request

__all__ = ["HostRules", "host_name", "is_cross_site"]


@define(kw_only=True, eq=False)
class HostRules:
    """
    The host names under which pages are served: of addresses every one, ``localhost``, and some.

    :param allowed: names, and patterns as ``*.example.org``; ``*``: any name.
    :param public: the host, with its port, by which clients reach the registry through a proxy that
        may put another one into ``Host``; empty: none is known.
    """

    allowed: tuple[str, ...] = ()
    public: str = ""
    _own: set[str] = field(factory=set, init=False)

    def add_own(self, host: str) -> None:
        """Allow a name of the registry's machine, and what else that is called."""
        name = host_name(host)
        short = name.partition(".")[0]
        # The last is the one by which multicast DNS tells it (RFC 6762).
        self._own |= {name, short, f"{short}.local"}

    def allows(self, request: Request) -> bool:
        """Tell whether the host of a request is one of the registry's, or is not told."""
        header = request.getHeader(b"Host")
        # HTTP/1.0 needs none; browsers always send one.
        if not header:
            return True
        name = host_name(header.decode("latin-1"))
        if name == "localhost" or name.endswith(".localhost") or name in self._own:
            return True
        if any(fnmatchcase(name, pattern.lower()) for pattern in self.allowed):
            return True
        try:
            ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return True


def host_name(host: str) -> str:
    """Return the name or address in ``name:port``, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def is_cross_site(request: Request, hosts: HostRules | None = None) -> bool:
    """
    Tell whether a browser sends a request for a page of another site.

    Current browsers say so in ``Sec-Fetch-Site``, if the registry has TLS or is on their own
    machine.  Otherwise it shows in ``Origin`` or ``Referer``; and where no header tells the
    origin, a browser's request counts as one for another site: no page of the registry itself
    sends one.  So does a request for a page under a name that the registry has no pages under,
    though the two names are the same: a site may have given its own name the registry's address.

    Engines send ``Referer`` too, when another host has redirected them: it counts for browsers
    alone.

    :param hosts: the names under which the registry has pages; ``None``: every name.
    """
    site = request.getHeader(b"Sec-Fetch-Site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    source = request.getHeader(b"Origin")
    if source is None:
        if not (request.getHeader(b"User-Agent") or b"").startswith(b"Mozilla/"):
            return False
        source = request.getHeader(b"Referer")
    if source is None:
        return True
    own = {(request.getHeader(b"Host") or b"").decode("latin-1").lower()}
    if hosts is not None and hosts.public:
        own.add(hosts.public.lower())
    if _network_location(source.decode("latin-1")) not in own:
        return True
    return hosts is not None and not hosts.allows(request)


def _network_location(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None
