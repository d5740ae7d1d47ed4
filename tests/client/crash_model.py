"""A file system that forgets: records what a program does to a folder, and crashes at any point.

The model is harsher than real file systems. After a crash, a file holds what was last synced, all
that was written, half of it, or zeros. Of the entries of a folder that were created, renamed or
removed since the folder was synced, any subset may have come about, in any combination with those
of other folders.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Tree = dict[str, "bytes | Tree"]
"""A folder's content: file -> bytes, folder -> tree."""
MAX_SUBSETS_OF = 7
WRITING = os.O_WRONLY | os.O_RDWR


@dataclass
class File:
    written: bytes = b""
    synced: bytes = b""


@dataclass
class Folder:
    entries: dict[str, "File | Folder"] = field(default_factory=dict)
    pending: list[tuple[str, str, "File | Folder | None"]] = field(default_factory=list)
    """Changes since the last sync: (name that goes, name that comes, what it names)."""
    synced: dict[str, "File | Folder"] = field(default_factory=dict)

    def change(self, goes: str, comes: str, node: "File | Folder | None") -> None:
        self.pending.append((goes, comes, node))
        _apply(self.entries, self.pending[-1])


def _apply(entries: dict[str, Any], change: tuple[str, str, Any]) -> None:
    goes, comes, node = change
    entries.pop(goes, None)
    if comes:
        entries[comes] = node


@dataclass(frozen=True)
class Call:
    """One system call below the recorded folder; paths are relative to it."""

    kind: str
    path: str
    target: str = ""
    data: bytes = b""
    descriptor: int = -1


def record(root: Path, work: Callable[[], Any], patch: pytest.MonkeyPatch) -> list[Call]:
    """Runs `work` and returns the calls by which it changed what lies below `root`.

    Sees calls through the module `os`; `replay` of all of them tells whether any went past it.
    """
    calls: list[Call] = []
    descriptors: dict[int, str] = {}

    def relative(path: Any, dir_fd: int | None = None) -> str | None:
        text = os.fspath(path)
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        text = os.path.abspath(text)
        return os.path.relpath(text, root) if Path(text).is_relative_to(root) else None

    real = {
        name: getattr(os, name)
        for name in ("open", "close", "write", "fsync", "mkdir", "rename", "unlink", "rmdir")
    }

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = real["open"](path, flags, mode, dir_fd=dir_fd)
        where = relative(path, dir_fd)
        if where is not None:
            descriptors[descriptor] = where
            if flags & WRITING:
                assert not flags & (os.O_TRUNC | os.O_APPEND)
                calls.append(Call("create", where))
        return int(descriptor)

    def close(descriptor: int) -> None:
        descriptors.pop(descriptor, None)
        real["close"](descriptor)

    def write(descriptor: int, data: Any) -> int:
        count = int(real["write"](descriptor, data))
        if descriptor in descriptors:
            calls.append(Call("write", descriptors[descriptor], data=bytes(data[:count])))
        return count

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        if descriptor in descriptors:
            calls.append(Call("fsync", descriptors[descriptor]))

    def rename(source: Any, target: Any, **kwargs: Any) -> None:
        real["rename"](source, target, **kwargs)
        if (old := relative(source)) is not None:
            calls.append(Call("rename", old, relative(target) or "outside"))

    def simple(kind: str) -> Callable[..., None]:
        def run(path: Any, *args: Any, dir_fd: int | None = None) -> None:
            real[kind](path, *args, dir_fd=dir_fd)
            if (where := relative(path, dir_fd)) is not None:
                calls.append(Call(kind, where))

        return run

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("not recorded")

    with patch.context() as patched:
        for name, replacement in {
            "open": open_, "close": close, "write": write, "fsync": fsync, "rename": rename,
            "mkdir": simple("mkdir"), "unlink": simple("unlink"), "rmdir": simple("rmdir"),
            "replace": forbidden, "link": forbidden, "symlink": forbidden, "truncate": forbidden,
            "ftruncate": forbidden, "pwrite": forbidden, "sendfile": forbidden,
        }.items():  # fmt: skip
            patched.setattr(os, name, replacement)
        work()
    return calls


def read_tree(folder: Path) -> Tree:
    """What lies in a real folder."""
    return {
        path.name: read_tree(path) if path.is_dir() else path.read_bytes()
        for path in folder.iterdir()
    }


def write_tree(folder: Path, tree: Tree) -> None:
    """Makes a real folder of it."""
    folder.mkdir()
    for name, node in tree.items():
        if isinstance(node, bytes):
            (folder / name).write_bytes(node)
        else:
            write_tree(folder / name, node)


def replay(before: Tree, calls: list[Call]) -> Folder:
    """The folder after these calls, with what is synced in it. `before` is synced."""
    root = _load(before)
    for call in calls:
        parent, _, name = call.path.rpartition("/")
        folder = _find(root, parent)
        assert isinstance(folder, Folder)
        match call.kind:
            case "create":
                if name not in folder.entries:
                    folder.change("", name, File())
            case "mkdir":
                folder.change("", name, Folder())
            case "write":
                file = folder.entries[name]
                assert isinstance(file, File)
                file.written += call.data
            case "fsync":
                _sync(_find(root, call.path))
            case "rename":
                onto, _, new = call.target.rpartition("/")
                assert onto == parent, "the model renames within one folder"
                folder.change(name, new, folder.entries[name])
            case "unlink" | "rmdir":
                folder.change(name, "", None)
    return root


def volatile(node: File | Folder) -> "bytes | Tree":
    """What a program sees: everything, synced or not."""
    if isinstance(node, File):
        return node.written
    return {name: volatile(child) for name, child in node.entries.items()}


def crashes(root: Folder) -> Iterator[Tree]:
    """What may be found after a crash now."""
    changes = [(folder, index) for folder in _folders(root) for index in range(len(folder.pending))]
    contents: list[Callable[[File], bytes]] = [
        lambda file: file.synced,
        lambda file: file.written,
        lambda file: file.written[: len(file.written) // 2],
        lambda file: bytes(len(file.written)),
    ]
    for chosen in _subsets(len(changes)):
        came = {(id(folder), index) for folder, index in (changes[i] for i in chosen)}
        for content in contents:
            yield _after(root, came, content)


def _after(folder: Folder, came: set[tuple[int, int]], content: Callable[[File], bytes]) -> Tree:
    entries = dict(folder.synced)
    for index, change in enumerate(folder.pending):
        if (id(folder), index) in came:
            _apply(entries, change)
    return {
        name: (
            _after(node, came, content)
            if isinstance(node, Folder)
            else node.synced if node.synced == node.written else content(node)
        )
        for name, node in entries.items()
    }  # fmt: skip


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    """All subsets of a few; of many: none, all, each alone, all but each, and each beginning."""
    everything = tuple(range(count))
    if count <= MAX_SUBSETS_OF:
        for size in range(count + 1):
            yield from itertools.combinations(everything, size)
        return
    yield ()
    yield everything
    for i in everything:
        yield (i,)
        yield everything[:i] + everything[i + 1 :]
        yield everything[:i]


def _folders(folder: Folder) -> Iterator[Folder]:
    """Every folder that a crash may bring to light."""
    yield folder
    nodes = [*folder.synced.values(), *(node for _, _, node in folder.pending)]
    for node in {id(node): node for node in nodes if isinstance(node, Folder)}.values():
        yield from _folders(node)


def _find(root: Folder, path: str) -> File | Folder:
    node: File | Folder = root
    for part in path.split("/") if path not in ("", ".") else ():
        assert isinstance(node, Folder)
        node = node.entries[part]
    return node


def _sync(node: File | Folder) -> None:
    if isinstance(node, File):
        node.synced = node.written
    else:
        node.synced = dict(node.entries)
        node.pending.clear()


def _load(tree: Tree) -> Folder:
    entries: dict[str, File | Folder] = {
        name: File(node, node) if isinstance(node, bytes) else _load(node)
        for name, node in tree.items()
    }
    return Folder(entries, [], dict(entries))
