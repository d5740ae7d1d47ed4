"""The server's view of the adapter store: which versions and aliases exist, and where.

Names from requests are checked before they touch a path; symlinks are never followed out of the
store (see `understudy.store`). A server without a store folder sees an empty store.
"""

from dataclasses import dataclass
from pathlib import Path

from server.errors import AdapterNotFoundError, AdapterRefusedError, InvalidRequestError
from understudy import store as layout
from understudy.artifact import ArtifactError, Manifest, check_name, read_manifest


@dataclass(frozen=True, slots=True)
class Reference:
    """`name`, `name@version` or `name@alias`, with its parts checked."""

    name: str
    selector: str = ""
    """Version or alias. Empty: the name's current version."""

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


class AdapterStore:
    """Read access to `root`, and aliases. Methods read the disk: not for the event loop."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        # Versions never change once published, so their manifests are read once.
        self._manifests: dict[tuple[str, str], Manifest] = {}

    def names(self) -> list[str]:
        """Adapters with at least one version, sorted."""
        found = layout.names(self.root) if self.root is not None else []
        return [name for name in found if _is_name(name)]

    def versions(self, name: str) -> list[str]:
        """Versions of an adapter, newest first."""
        if self.root is None:
            return []
        folder = self.root / name

        def published(version: str) -> float:
            try:
                return (folder / version).stat().st_mtime
            except FileNotFoundError:
                # Removed since it was listed; whoever asks for it next learns that.
                return 0.0

        return sorted(layout.versions(self.root, name), key=published, reverse=True)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version."""
        if self.root is None or not (self.root / name).is_dir():
            return {}
        return layout.aliases(self.root, name)

    def aliases_of(self, name: str, version: str) -> tuple[str, ...]:
        """Aliases that point to a version, sorted."""
        return tuple(sorted(a for a, v in self.aliases(name).items() if v == version))

    def resolve(self, reference: Reference) -> str | None:
        """The version a reference means, or None if the store has none such.

        A bare name means the alias `latest`, or the newest version where there is no such alias.
        """
        versions = self.versions(reference.name)
        if reference.selector in versions:
            return reference.selector
        version = self.aliases(reference.name).get(reference.selector or layout.LATEST)
        if version is None and not reference.selector and versions:
            return versions[0]
        return version

    def directory(self, name: str, version: str) -> Path:
        """Where a version lies. Raises AdapterNotFoundError."""
        if self.root is None or version not in layout.versions(self.root, name):
            raise AdapterNotFoundError(f"{name}@{version}")
        return self.root / name / version

    def manifest(self, name: str, version: str) -> Manifest | None:
        """A version's manifest, unverified; None if it cannot be read."""
        key = (name, version)
        manifest = self._manifests.get(key)
        if manifest is None:
            try:
                manifest = read_manifest(self.directory(name, version))
            except ArtifactError:
                return None
            if manifest is not None:
                self._manifests[key] = manifest
        return manifest

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Points an alias at a version; an empty version removes it.

        Raises AdapterRefusedError where there is no store, AdapterNotFoundError for an unknown
        name or version, InvalidRequestError for an alias that is not allowed.
        """
        if self.root is None:
            raise AdapterRefusedError("aliases need an adapter store; configure adapters.store")
        if not self.versions(name):
            raise AdapterNotFoundError(name)
        try:
            check_name(alias, "alias")
            if not version:
                layout.remove_alias(self.root, name, alias)
                return
            if version not in self.versions(name):
                raise AdapterNotFoundError(f"{name}@{version}")
            layout.set_alias(self.root, name, alias, version)
        except ArtifactError as error:
            raise InvalidRequestError("alias", str(error)) from error


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ArtifactError:
        return False
    return True
