"""
Makes the package sources that the configuration describes, for the daemon and for the commands that
do the daemon's work without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from nixery.config.declarations.sources import SourceConfig
from nixery.image.names import Tag
from nixery.nix.arguments import NixSettings
from nixery.nix.context import NixContext
from nixery.nix.fetcher import NixFetcher
from nixery.runtime.clocks import SystemWallClock, WallClock
from nixery.runtime.data_files import nix_directory
from nixery.runtime.http_download import make_fetcher, shown
from nixery.runtime.startup import Component
from nixery.sources.access_tokens import parse_access_tokens, with_access_token
from nixery.sources.channels import ChannelHost
from nixery.sources.git_repository import GitRepository
from nixery.sources.interface import RefSource
from nixery.sources.readable_paths import readable_paths
from nixery.sources.ref_cache import LOOKUP_TIMEOUT_SECONDS, MIN_STALE_SECONDS, RefCache
from nixery.sources.ref_file import RefFile
from nixery.sources.resolver import Resolver, ResolverSettings
from nixery.sources.source import FlakeSource, PackageSet, repository_of
from nixery.sources.tag_policy import LATEST
from nixery.sources.tree_watch import TreeWatch

__all__ = ["SourceSubsystem", "fetch_package_set", "make_sources"]

MAX_CHANNEL_LOOKUPS = 4
"""The most connections to the channel host for channels that clients chose."""

_log = Logger()


@frozen(kw_only=True)
class SourceSubsystem:
    """
    The package sources.

    :param watch: watches the configured paths, if there are any.
    :param components: for a daemon; a command starts and stops ``sources`` itself.
    """

    sources: Resolver
    watch: TreeWatch | None
    components: tuple[Component, ...]


def make_sources(
    config: SourceConfig,
    # Any: the global reactor has no type.
    reactor: Any,
    context: NixContext,
    *,
    wall_clock: WallClock | None = None,
    stale_ttl: float = 0.0,
    watch: bool = False,
) -> SourceSubsystem:
    """
    Make the package sources of one process, to be started.

    :param context: of the commands that fetch; its environment may name proxies.
    :param wall_clock: for the times of files and the year; by default, this machine's.
    :param stale_ttl: seconds after its time to live for which the last commit of the configured
        reference is served while it is renewed; at least :data:`MIN_STALE_SECONDS`.
    :param watch: whether package sets and overlays at paths are watched, which pays if they are
        evaluated more than once.
    :raises ResourceMissing: the installation is incomplete.
    """
    source = config.source
    workers, environ = context.workers, context.environ
    wall_clock = wall_clock or SystemWallClock()

    def ref_cache(upstream: RefSource, name: str, file: str, max_lookups: int) -> RefCache:
        return RefCache(
            upstream,
            name=name,
            ttl=config.source_ttl,
            stale_ttl=max(MIN_STALE_SECONDS, stale_ttl),
            max_lookups=max_lookups,
            ref_file=RefFile(context.settings.state_directory / "sources" / file),
            workers=workers,
            clock=reactor,
        )

    git = None
    git_source = repository_of(source)
    if git_source is not None:
        if isinstance(source, FlakeSource):
            git_source = with_access_token(git_source, _access_tokens(context.settings))
        repository = GitRepository(
            git_source,
            spawner=context.spawner,
            clock=reactor,
            workers=workers,
            mirror_directory=context.settings.home / "mirrors",
            lookup_timeout=LOOKUP_TIMEOUT_SECONDS,
            fetch_timeout=context.settings.fetch_timeout,
            environ=environ,
        )
        # The history of the repository is in one mirror.
        git = ref_cache(repository, git_source.describe(), "git.json", max_lookups=1)
    host = config.channel_url.rstrip("/")
    channels = ChannelHost(
        make_fetcher(reactor, workers, environ),
        host,
        clock=reactor,
        lookup_timeout=LOOKUP_TIMEOUT_SECONDS,
    )
    # What is fetched without a hash may change while the files stay as they are.
    watch = watch and not context.settings.allow_unpinned_fetches
    others = (*config.overlays, *config.search_path.paths)
    paths = readable_paths(source, others) if watch else ()
    tree_watch = TreeWatch(paths, workers, reactor) if paths else None
    sources = Resolver(
        ResolverSettings(
            source=source,
            tag_policy=config.tag_policy,
            overlays=config.overlays,
            search_path=config.search_path,
            nixpkgs_url=config.nixpkgs_url,
            unpinned_fetches=context.settings.allow_unpinned_fetches,
        ),
        git=git,
        channels=ref_cache(
            channels,
            f"the channel host {shown(host)}",
            "channels.json",
            max_lookups=MAX_CHANNEL_LOOKUPS,
        ),
        fetcher=NixFetcher(
            context,
            wall_clock=wall_clock,
            fetch_nix=nix_directory() / "fetch.nix",
            repository="" if git_source is None else git_source.url,
        ),
        workers=workers,
        wall_clock=wall_clock,
        watch=tree_watch,
    )

    return SourceSubsystem(
        sources=sources,
        watch=tree_watch,
        components=(Component(name="package set", start=sources.start, stop=sources.stop),),
    )


def _access_tokens(settings: NixSettings) -> Mapping[str, str]:
    """Return the access tokens that are configured for Nix; those in its own nix.conf are its."""
    lines = [f"{name} = {value}" for name, value in settings.options.items()]
    if settings.options_file is not None:
        # Nix says what is wrong with the file.
        with suppress(OSError, ValueError):
            lines += settings.options_file.read_text("utf-8").splitlines()
    return parse_access_tokens(lines)


async def fetch_package_set(
    config: SourceConfig,
    reactor: Any,  # as above
    context: NixContext,
    tag: Tag = LATEST,
) -> PackageSet:
    """
    Fetch the configured package set, for a command that uses it once.

    :param context: its state directory holds the root that protects the set from garbage
        collection.
    :raises NixeryError: the set cannot be fetched.
    """
    sources = make_sources(config, reactor, context).sources
    await sources.start()
    try:
        return await sources.fetch(await sources.resolve(tag))
    finally:
        await sources.stop()
