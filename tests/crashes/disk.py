"""
A model of what a disk may keep when the power goes, made of the system calls of a run (strace).

What a call changes is kept for sure once what it changed was synced after it: the content of a
file by `fsync` of the file, the names in a folder by `fsync` of the folder. Any other change may
be kept or not, whatever came before or after it. Of all those sets the states here are: none of
the changes that are not synced, all, all but one, one alone, and all with one file cut in half;
after each call. (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, has the
same model without an order between calls.)
"""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

CALLS = (
    "openat,open,creat,close,read,write,pwrite64,writev,lseek,ftruncate,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,dup,dup2,dup3,fcntl,chdir,fchdir,clone,clone3,fork,vfork"
)
STRACE = ("strace", "-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-e", "signal=none")
NOTHING = "nothing that was not synced is kept"
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)\Z", re.DOTALL)
_RESULT = re.compile(r"\) += (-?\d+)(?:<(.*?)>)?(?: |\Z)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_HANDLE = re.compile(r"(\d+|AT_FDCWD)<(.*?)>")
_UNFINISHED = " <unfinished ...>"


@dataclass(eq=False)
class Handle:
    """An open file, as the processes share it that inherited it."""

    path: str
    appends: bool = False
    at: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that were put into a file at a place; None: it was cut there."""

    number: int
    file: int
    at: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Named:
    """A name that was given, or taken away."""

    number: int
    folder: str
    """Whose sync makes it durable."""
    gives: str | None
    file: int = 0
    """What has the name from now on; 0 is a folder."""
    takes: str | None = None


@dataclass(frozen=True, slots=True)
class Synced:
    """A file or a folder that was synced."""

    number: int
    what: int | str


@dataclass(frozen=True, slots=True)
class Said:
    """A line that the program wrote to its standard output."""

    number: int
    line: str


Change = Written | Named


@dataclass(frozen=True)
class Tree:
    """Files with their content, and folders, below one that is not named in them."""

    files: Mapping[str, bytes]
    folders: frozenset[str]

    @classmethod
    def read(cls, root: Path) -> "Tree":
        """Read a tree from the disk."""
        paths = [path for path in root.rglob("*") if not path.is_symlink()]
        return cls(
            {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.is_file()},
            frozenset(path.relative_to(root).as_posix() for path in paths if path.is_dir()),
        )

    def write(self, root: Path) -> None:
        """Put the tree in place of what is there."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for folder in sorted(self.folders):
            (root / folder).mkdir(exist_ok=True)
        for path, content in self.files.items():
            (root / path).write_bytes(content)


@dataclass
class Recording:
    """The changes to a tree, in order, and what was said and synced between them."""

    root: str
    before: Tree
    changes: list[Change] = field(default_factory=list)
    syncs: list[Synced] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    calls: int = 0
    _names: dict[str, int] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _files: int = 0
    _tables: dict[str, dict[str, Handle]] = field(default_factory=dict)
    _places: dict[str, str] = field(default_factory=dict)
    """Working folder of each process."""

    def __post_init__(self) -> None:
        for path, content in self.before.files.items():
            self._sizes[self._new_name(path)] = len(content)

    @property
    def initial(self) -> Mapping[str, int]:
        """Return the numbers of the files that were there before."""
        return {path: number + 1 for number, path in enumerate(self.before.files)}

    def _new_name(self, path: str) -> int:
        self._files += 1
        self._names[path] = self._files
        self._sizes[self._files] = 0
        return self._files

    # --- Reading what strace wrote -----------------------------------------

    def read(self, lines: Iterable[str], cwd: str) -> None:
        """Take up the calls of a process that began in a folder, and of all that it started."""
        begun: dict[str, str] = {}
        for line in lines:
            match = _LINE.match(line.rstrip("\n"))
            if match is None:
                continue
            pid, call, rest = match.groups()
            self._tables.setdefault(pid, {})
            self._places.setdefault(pid, cwd)
            if rest.endswith(_UNFINISHED):
                begun[pid] = rest.removesuffix(_UNFINISHED)
                if call == "write":
                    self._say(pid, begun[pid])
                continue
            is_resumed = pid in begun
            rest = begun.pop(pid, "") + rest
            if call == "write" and not is_resumed:
                self._say(pid, rest)
            result = list(_RESULT.finditer(rest))
            if result and (code := int(result[-1][1])) >= 0:
                self.calls += 1
                self._take(pid, call, rest[: result[-1].start()], code, result[-1][2])

    def _say(self, pid: str, args: str) -> None:
        if pid == next(iter(self._tables)) and args.startswith("1<"):
            for line in b"".join(_strings(args)).decode().splitlines():
                self.said.append(Said(self.calls, line))

    def _take(self, pid: str, call: str, args: str, code: int, place: str | None) -> None:
        if call in {"openat", "open", "creat"}:
            self._open(pid, args, code, place or "", is_creat=call == "creat")
        elif call in {"read", "write", "writev", "pwrite64"}:
            self._move(pid, call, args, code)
        elif call == "lseek":
            self._handle(pid, args).at = code
        elif call == "ftruncate":
            self._cut(self._handle(pid, args).path, int(args.rsplit(",", 1)[1]))
        elif call in {"fsync", "fdatasync"}:
            self._sync(_path(args))
        elif call in {"dup", "dup2", "dup3"} or (call == "fcntl" and "F_DUPFD" in args):
            self._tables[pid][str(code)] = self._handle(pid, args)
        elif call in {"clone", "clone3", "fork", "vfork"}:
            self._fork(pid, str(code), shares="CLONE_FILES" in args)
        elif call in {"chdir", "fchdir"}:
            self._places[pid] = self._paths(pid, args)[0] if call == "chdir" else _path(args)
        elif call not in {"fcntl", "close"}:
            self._rename(pid, call, args)

    def _fork(self, pid: str, child: str, *, shares: bool) -> None:
        early = self._tables.get(child, {})  # of a child that began before its parent went on
        if shares:
            self._tables[pid].update(early)
        self._tables[child] = self._tables[pid] if shares else {**self._tables[pid], **early}
        self._places[child] = self._places[pid]

    def _handle(self, pid: str, args: str) -> Handle:
        match = _HANDLE.match(args)
        if match is None:
            return Handle("")
        path = _plain(match[2])
        handle = self._tables[pid].setdefault(match[1], Handle(path))
        if handle.path != path and not path.endswith("(deleted)"):
            handle = self._tables[pid][match[1]] = Handle(path)
        return handle

    def _open(self, pid: str, args: str, code: int, place: str, *, is_creat: bool) -> None:
        path = _plain(place)
        self._tables[pid][str(code)] = Handle(path, appends="O_APPEND" in args)
        name = self._inside(path)
        if name is None or "O_TMPFILE" in args:
            return
        if ("O_CREAT" in args or is_creat) and name not in self._names:
            self._change(Named(self.calls, _folder(name), name, self._new_name(name)))
        elif "O_TRUNC" in args or is_creat:
            self._cut(path, 0)

    def _move(self, pid: str, call: str, args: str, code: int) -> None:
        handle = self._handle(pid, args)
        file = self._file(handle.path)
        if call != "read" and file is not None and code:
            at = int(args.rsplit(",", 1)[1]) if call == "pwrite64" else handle.at
            at = self._sizes[file] if handle.appends else at
            self._change(Written(self.calls, file, at, b"".join(_strings(args))[:code]))
            self._sizes[file] = max(self._sizes[file], at + code)
            handle.at = at if call == "pwrite64" else at + code
        elif call != "pwrite64":
            handle.at += code

    def _cut(self, path: str, size: int) -> None:
        if (file := self._file(path)) is not None and self._sizes[file] != size:
            self._change(Written(self.calls, file, size, None))
            self._sizes[file] = size

    def _sync(self, path: str) -> None:
        if (file := self._file(path)) is not None:
            self.syncs.append(Synced(self.calls, file))
        elif (name := self._inside(path, may_be_root=True)) is not None:
            self.syncs.append(Synced(self.calls, name))

    def _rename(self, pid: str, call: str, args: str) -> None:
        first, *others = [self._inside(path) for path in self._paths(pid, args)]
        if call.startswith("mkdir") and first is not None:
            self._change(Named(self.calls, _folder(first), first))
        elif call.startswith(("unlink", "rmdir")) and first is not None:
            self._names.pop(first, None)
            self._change(Named(self.calls, _folder(first), None, takes=first))
        elif call.startswith(("rename", "link")) and others and others[0] is not None:
            if first is None or first not in self._names:
                raise NotImplementedError(f"{call} of a folder, or from elsewhere: {args}")
            taken = first if call.startswith("rename") else None
            file = self._names.pop(first) if taken else self._names[first]
            self._names[others[0]] = file
            self._change(Named(self.calls, _folder(others[0]), others[0], file, takes=taken))

    def _paths(self, pid: str, args: str) -> Sequence[str]:
        folders = [_plain(match[2]) for match in _HANDLE.finditer(args)] or [self._places[pid]]
        names = [name.decode() for name in _strings(args)]
        folders += folders[-1:] * len(names)
        return [
            os.path.normpath(f"{folder}/{name}" if not name.startswith("/") else name)
            for folder, name in zip(folders, names, strict=False)
        ]

    def _file(self, path: str) -> int | None:
        name = self._inside(path)
        return None if name is None else self._names.get(name)

    def _inside(self, path: str, *, may_be_root: bool = False) -> str | None:
        if path == self.root:
            return "." if may_be_root else None
        return path.removeprefix(f"{self.root}/") if path.startswith(f"{self.root}/") else None

    def _change(self, change: Change) -> None:
        self.changes.append(change)

    # --- What a disk may have ------------------------------------------------

    def pending(self, number: int) -> tuple[Sequence[Change], Sequence[Change]]:
        """Return the changes up to a call that are durable by then, and those that are not."""
        durable, pending = list[Change](), list[Change]()
        for change in self.changes:
            if change.number <= number:
                (durable if self._is_synced(change, number) else pending).append(change)
        return durable, pending

    def _is_synced(self, change: Change, number: int) -> bool:
        what = change.file if isinstance(change, Written) else change.folder
        return any(sync.what == what and change.number < sync.number <= number for sync in self.syncs)

    def tree(self, kept: Collection[Change], *, half: int = 0) -> Tree:
        """Return what there is if these changes were kept; one file may have only half of its content."""
        names, contents = (
            dict(self.initial),
            dict(zip(self.initial.values(), self.before.files.values(), strict=True)),
        )
        folders = set(self.before.folders)
        for change in self.changes:
            if change not in kept:
                continue
            if isinstance(change, Written):
                contents[change.file] = _put(contents.get(change.file, b""), change)
                continue
            if change.takes is not None and (names.get(change.takes) == change.file or change.gives is None):
                names.pop(change.takes, None)
                folders.discard(change.takes)
            if change.gives is not None and change.file:
                names[change.gives] = change.file
            elif change.gives is not None:
                folders.add(change.gives)
        if half:
            contents[half] = contents.get(half, b"")[: len(contents.get(half, b"")) // 2]
        return _reachable({name: contents.get(file, b"") for name, file in names.items()}, folders)

    def states(self, number: int) -> Iterator[tuple[str, Tree]]:
        """Yield what a disk may have after a call, each with what it lost, in words."""
        durable, pending = self.pending(number)
        items = _items(pending)
        yield NOTHING, self.tree(set(durable))
        yield "all is kept", self.tree({*durable, *pending})
        for name, item in items.items():
            yield f"all but {name}", self.tree({*durable, *pending} - item)
            yield f"only {name}", self.tree({*durable, *item})
        for file in {change.file for change in pending if isinstance(change, Written)}:
            yield f"all, half of file {file}", self.tree({*durable, *pending}, half=file)


def _items(pending: Sequence[Change]) -> Mapping[str, set[Change]]:
    """Return the changes that are kept or lost together: the content of a file, or a name."""
    items = dict[str, set[Change]]()
    for change in pending:
        name = (
            f"the content of file {change.file}"
            if isinstance(change, Written)
            else f"{change.number}: the name {change.gives or change.takes}"
        )
        items.setdefault(name, set()).add(change)
    return items


def _reachable(files: Mapping[str, bytes], folders: Collection[str]) -> Tree:
    """Return the tree without what lies in folders that are not there."""
    there = frozenset(folder for folder in folders if all(str(above) in folders for above in _above(folder)))
    return Tree(
        {
            name: content
            for name, content in files.items()
            if all(str(above) in there for above in _above(name))
        },
        there,
    )


def _above(name: str) -> Iterator[PurePosixPath]:
    return (above for above in PurePosixPath(name).parents if str(above) != ".")


def _put(content: bytes, change: Written) -> bytes:
    if change.data is None:
        return content[: change.at].ljust(change.at, b"\0")
    return (
        content[: change.at].ljust(change.at, b"\0") + change.data + content[change.at + len(change.data) :]
    )


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _strings(args: str) -> list[bytes]:
    return [bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(args)]


def _path(args: str) -> str:
    match = _HANDLE.match(args)
    return _plain(match[2]) if match else ""


def _plain(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text)
