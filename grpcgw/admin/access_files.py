"""Follows the files of the admin port's token and certificates, as certificate files of the configuration are followed.

A replacement that cannot be used is logged and shown as a problem; what was in force before stays so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from grpcgw.admin.access import AdminAccess
from grpcgw.discovery.sources.certificate_files import MAX_FILE_BYTES, POLL_S, SETTLE_S
from grpcgw.discovery.sources.followed_files import FollowedFile, follow
from grpcgw.errors import UserError
from grpcgw.model.objects import Problem, Severity

log = logging.getLogger(__name__)

Files = Mapping[Path, FollowedFile]


class AccessFiles:
    """Renews `access` when its files are replaced. For the control loop."""

    def __init__(self, access: AdminAccess) -> None:
        """Raises UserError for files that cannot be used."""
        self._access = access
        self._files = _read(access.paths, {})
        self._loaded = _contents(self._files)
        """What was last tried, whether it could be used or not."""
        access.load()  # after the reading: a change in between is found by the next one
        self.problems: tuple[Problem, ...] = ()

    async def run(self) -> None:
        """Follow the files until cancelled; return at once where there are none."""
        while self._files:
            await asyncio.sleep(POLL_S if _are_settled(self._files) else SETTLE_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read what may have changed; use it once two readings were the same: the other file of a pair may be next."""
        self._files = await asyncio.to_thread(_read, self._access.paths, self._files)
        if _are_settled(self._files) and _contents(self._files) != self._loaded:
            self._loaded = _contents(self._files)
            self._load()

    def _load(self) -> None:
        try:
            self._access.load()
        except UserError as error:
            message = f"{error}; what was there before stays in use"
            self.problems = (Problem(Severity.ERROR, message, "grpcgw"),)
            log.warning("%s", message)
        else:
            self.problems = ()
            log.info("the admin port uses the new content of %s", ", ".join(map(str, self._access.paths)))


def _read(paths: tuple[Path, ...], former: Files) -> Files:
    return {path: follow(path, former.get(path), MAX_FILE_BYTES) for path in paths}


def _are_settled(files: Files) -> bool:
    return all(file.settled for file in files.values())


def _contents(files: Files) -> Mapping[Path, bytes | None]:
    return {path: file.read.content for path, file in files.items()}
