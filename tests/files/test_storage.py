import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edge.errors import StorageError
from edge.files.storage import (
    alone,
    atomic,
    check_target,
    digest,
    make_folder,
    meant_for,
    write_bytes,
)


def test_writes_whole_files(tmp_path):
    write_bytes(tmp_path / "a", b"first")
    write_bytes(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_file_and_no_scraps(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "a") as scratch:
        scratch.write_bytes(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_leaves_tells_by_its_name_what_it_was_to_become(tmp_path):
    code = "import os, sys; from pathlib import Path; from edge.files.storage import atomic\n"
    code += "with atomic(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.b.json"])
    [left] = tmp_path.iterdir()
    assert meant_for(left.name) == "a.b.json"


@pytest.mark.parametrize("name", ["a.b.json", ".a.b.json", ".a", ".a.0123456", "a.01234567", ""])
def test_any_other_name_was_to_become_nothing_else(name):
    assert meant_for(name) == ""


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_who_may_read_a_file_is_what_the_umask_says(umask, tmp_path):
    """In a process of its own: the umask is that of all threads."""
    (tmp_path / "old").touch(0o644)
    code = "import os, sys; from pathlib import Path; from edge.files.storage import write_bytes; "
    code += "os.umask(int(sys.argv[1])); [write_bytes(Path(p), b'') for p in sys.argv[2:]]"
    paths = [tmp_path / "new", tmp_path / "old"]
    subprocess.run([sys.executable, "-c", code, str(umask), *map(str, paths)], check=True)
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o666 & ~umask] * 2


def test_a_full_disk_is_a_storage_error(tmp_path):
    # A limit on file sizes fails a write in the same call as a full disk does.

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match="free some space"):
            write_bytes(tmp_path / "big", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        make_folder(tmp_path / "file" / "engines")


def test_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_a_target_is_checked_before_the_work_is_done(tmp_path):
    check_target(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageError, match=r"mkdir -p .*absent"):
        check_target(tmp_path / "absent" / "a.json")
    with pytest.raises(StorageError, match=r"it is a folder\); name a file in it: .*/NAME"):
        check_target(tmp_path)


@pytest.mark.parametrize("name", ["/proc/x/y.mkv", "/proc/y.mkv", "/sys/y.mkv"])
def test_where_the_kernel_makes_the_names_no_file_can_be_written(name):
    with pytest.raises(StorageError, match=f"cannot write {name}"):
        check_target(Path(name))


@pytest.mark.parametrize("place", ["/dev/fd", "/proc/self/fd", "/proc/{}/fd"])
def test_a_name_for_what_is_open_already_is_not_looked_for_in_its_folder(place):
    check_target(Path(place.format(os.getpid())) / "1")


def test_looking_whether_a_folder_can_be_written_leaves_no_name_in_it(tmp_path, monkeypatch):
    """So an interruption at any moment leaves nothing."""
    seen, opened = [], tempfile.TemporaryFile

    def spy(**options):
        file = opened(**options)
        seen.append(list(tmp_path.iterdir()))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", spy)
    make_folder(tmp_path)
    check_target(tmp_path / "a.json")
    assert seen == [[], []]


def test_a_device_is_written_to_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_target(pipe)
    write_bytes(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    write_bytes(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_only_one_process_holds_a_file_or_a_folder(tmp_path):
    for path in (tmp_path, tmp_path / "a.lock"):
        with alone(path), pytest.raises(StorageError, match="another vit-edge"), alone(path):
            pass
        with alone(path):
            pass


@pytest.mark.parametrize("name", ["vit.v2", "vit.v2.lock"])
def test_what_is_held_is_called_by_its_whole_name(name, tmp_path):
    (tmp_path / "vit.v2").mkdir()
    path = tmp_path / name
    with alone(path), pytest.raises(StorageError, match=r"is using vit\.v2; "), alone(path):
        pass


def test_the_file_behind_stdout_is_added_to_and_never_replaced(tmp_path):
    (tmp_path / "log").write_text("kept\n")
    code = "from pathlib import Path; from edge.files.storage import write_bytes; "
    code += "print('line', flush=True); write_bytes(Path('/dev/stdout'), b'summary')"
    with (tmp_path / "log").open("a") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "kept\nline\nsummary"
