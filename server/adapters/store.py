"""The server's view of the adapter store: which versions and aliases exist, and where.

Names from requests are checked before they touch a path; symlinks are never followed out of the
store (see `understudy.store`). A server without a store folder sees an empty store.
"""

import bisect
import difflib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.adapters.holds import StoreHolds
from server.adapters.index import StoredFacts, StoreIndex
from server.errors import AdapterNotFoundError, AdapterRefusedError, InvalidRequestError
from understudy import store as layout
from understudy.artifact import ArtifactError, Manifest, check_name, read_manifest

_LOG = logging.getLogger(__name__)
_MAX_COMPARED = 200


@dataclass(frozen=True, slots=True)
class Reference:
    """`name`, `name@version` or `name@alias`, with its parts checked."""

    name: str
    selector: str = ""
    """Version or alias. Empty: the name's current version."""

    @property
    def is_alias(self) -> bool:
        """Whether it names an alias: none looks like a version."""
        return bool(self.selector) and not layout.VERSION_PATTERN.fullmatch(self.selector)

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}" if self.selector else self.name


def parse_reference(text: str, field: str = "adapter") -> Reference:
    """The parts of an adapter reference. Raises InvalidRequestError naming `field`."""
    name, at, selector = text.partition("@")
    try:
        check_name(name)
        if at:
            check_name(selector, "adapter version or alias")
    except ArtifactError as error:
        raise InvalidRequestError(field, str(error)) from error
    return Reference(name, selector)


def close_names(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of the names that look like `name`, the closest first.

    Of very many only those beside it in the alphabet are compared: a name that nobody has must cost
    nobody much.
    """
    names = sorted(known)
    if len(names) > _MAX_COMPARED:
        begin = max(0, bisect.bisect(names, name) - _MAX_COMPARED // 2)
        names = names[begin : begin + _MAX_COMPARED]
    return tuple(difflib.get_close_matches(name, names))


class AdapterStore:
    """Read access to `root`, and aliases. Methods read the disk: not for the event loop."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._index = StoreIndex(root) if root is not None else None
        self._holds = StoreHolds(root) if root is not None else None

    def names(self) -> list[str]:
        """Adapters with at least one version, sorted."""
        return self._index.names() if self._index is not None else []

    def versions(self, name: str) -> list[str]:
        """Versions of an adapter, newest first."""
        return list(self._entry(name).versions)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version."""
        return dict(self._entry(name).aliases)

    def aliases_of(self, name: str, version: str) -> tuple[str, ...]:
        """Aliases that point to a version, sorted."""
        return tuple(a for a, v in self._entry(name).aliases if v == version)

    def resolve(self, reference: Reference) -> str | None:
        """The version a reference means, or None if the store has none such.

        A bare name means the alias `latest`, or the newest version where there is no such alias.
        """
        return self._entry(reference.name).resolve(reference.selector)

    def not_found(
        self, reference: Reference, residents: Iterable[tuple[str, str]]
    ) -> AdapterNotFoundError:
        """The error for a reference that neither the store nor memory knows, with the nearest ones;
        `residents` are (name, version) in memory."""
        name, in_memory = reference.name, list(residents)
        names = {*self.names(), *(other for other, _ in in_memory)}
        if reference.selector and name in names:
            selectors = {*self.aliases(name), *self.versions(name)}
            selectors |= {version for other, version in in_memory if other == name}
            close = close_names(reference.selector, selectors)
            return AdapterNotFoundError(str(reference), tuple(f"{name}@{c}" for c in close))
        return AdapterNotFoundError(str(reference), close_names(name, names))

    def directory(self, name: str, version: str) -> Path:
        """Where a version lies. Raises AdapterNotFoundError."""
        if self.root is None or version not in self._entry(name).versions:
            raise AdapterNotFoundError(f"{name}@{version}")
        return self.root / name / version

    @contextmanager
    def holding(self, name: str, version: str) -> Iterator[Path]:
        """Where a version lies, which nobody removes while it is read. *Blocking.*

        Raises AdapterNotFoundError, also if it is being removed.
        """
        if self._holds is None:
            raise AdapterNotFoundError(f"{name}@{version}")
        self._holds.take(name, version)
        try:
            yield self.directory(name, version)
        finally:
            self._holds.release(name, version)

    def hold(self, name: str, version: str) -> bool:
        """Whether the version is there and stays there, until `let_go`. Does not wait."""
        if self._holds is None or not self._holds.try_take(name, version):
            return False
        if version in self.versions(name):
            return True
        self._holds.release(name, version)
        return False

    def let_go(self, name: str, version: str) -> None:
        """Ends what `hold` began. Does not wait."""
        if self._holds is not None:
            self._holds.release(name, version)

    def close(self) -> None:
        """Ends every hold."""
        if self._holds is not None:
            self._holds.close()

    def facts(self, name: str, version: str) -> StoredFacts | None:
        """What a version's manifest says for lists; None if it cannot be read.

        Raises AdapterNotFoundError.
        """
        self.directory(name, version)
        return self._index.facts(name, version) if self._index is not None else None

    def manifest(self, name: str, version: str) -> Manifest | None:
        """A version's manifest, unverified; None if it cannot be read.

        Raises AdapterNotFoundError.
        """
        try:
            return read_manifest(self.directory(name, version))
        except ArtifactError:
            return None

    def publish(self, artifact: Path, name: str) -> bool:
        """Whether an artifact, which was read already, could be copied into the store, as `latest`.

        *Blocking.* What keeps it out, such as a lock or a full disk, is logged.
        """
        if self.root is None:
            return False
        try:
            layout.publish(artifact, self.root, name)
        except (ArtifactError, OSError) as error:
            _LOG.warning("cannot publish %s: %s", name, error)
            return False
        return True

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Points an alias at a version; an empty version removes it.

        Raises AdapterRefusedError where there is no store or it cannot be written,
        AdapterNotFoundError for an unknown name or version, InvalidRequestError for an alias that
        is not allowed.
        """
        if self.root is None:
            raise AdapterRefusedError("aliases need an adapter store; configure adapters.store")
        if not self.versions(name):
            raise AdapterNotFoundError(name)
        try:
            layout.check_alias(alias)
        except ArtifactError as error:
            raise InvalidRequestError("alias", str(error)) from error
        if version and version not in self.versions(name):
            raise AdapterNotFoundError(f"{name}@{version}")
        try:
            if version:
                layout.set_alias(self.root, name, alias, version)
            else:
                layout.remove_alias(self.root, name, alias)
        except ArtifactError as error:
            raise AdapterRefusedError(str(error)) from error
        except OSError as error:
            raise AdapterRefusedError(
                f"alias {alias!r}: the store cannot be written: {error.strerror}"
            ) from error

    def _entry(self, name: str) -> layout.Entry:
        return self._index.entry(name) if self._index is not None else layout.Entry()
