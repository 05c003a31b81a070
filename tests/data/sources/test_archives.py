import io
import tarfile
import tracemalloc

import pytest

from episodic.data.sources import archives
from episodic.data.sources.archives import ArchiveFilter, unpacked


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unpacked"


def write(path, *members, mode="w:gz"):
    """A tar file of members: a name of an empty file, `(name, content)`, or a `TarInfo`."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            name, content = member if isinstance(member, tuple) else (member, b"")
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = info.size or len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_unpacked_once_for_its_bytes(tmp_path, cache, mode):
    archive = write(tmp_path / "made.tar.gz", special("made", tarfile.DIRTYPE), ("made/1.png", b"pixels"), mode=mode)
    folder = unpacked(archive)
    assert (folder / "made" / "1.png").read_bytes() == b"pixels"
    (folder / "mark").touch()
    assert (unpacked(archive) / "mark").exists()
    archive.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"made\.tar\.gz cannot be unpacked .* get it again"):
        unpacked(archive)
    assert list(cache.iterdir()) == [folder]


def test_what_a_process_that_was_killed_had_unpacked_is_swept(tmp_path, cache):
    left = cache / ".made-0-1234"
    left.mkdir(parents=True)
    folder = unpacked(write(tmp_path / "made.tar.gz", ("1.png", b"pixels")))
    assert list(cache.iterdir()) == [folder]


def test_a_cache_that_is_a_file_is_not_taken_for_damage(tmp_path, cache):
    cache.parent.write_text("a file")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        unpacked(write(tmp_path / "made.tar.gz", ("1.png", b"pixels")))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("../../outside", "leads out of its folder"),
        ("a/../../outside", "leads out of its folder"),
        ("/tmp/outside", "leads out of its folder"),
        ("C:/outside", "leads out of its folder"),
        ("\\outside", "leads out of its folder"),
        ("a/" + "n" * 300, "longer than files can have"),
        ("first", r"'first' twice"),
        ("./first", "twice"),
        (special("link", tarfile.SYMTYPE, "first"), "neither a file nor a folder"),
        (special("link", tarfile.SYMTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (special("link", tarfile.LNKTYPE, "first"), "neither a file nor a folder"),
        (special("device", tarfile.CHRTYPE), "neither a file nor a folder"),
        (special("pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
        ("\x1b[31mred/..", r"the name '\\x1b\[31mred/\.\.'"),
        ("first/below", "it is damaged"),
    ],
)
def test_what_no_data_set_needs_is_refused_and_nothing_is_left(tmp_path, cache, member, message):
    archive = write(tmp_path / "made.tar.gz", ("first", b"1"), member)
    with pytest.raises(ValueError, match=message) as error:
        unpacked(archive)
    assert str(error.value).startswith(f"{archive} cannot be unpacked")
    assert "\n" not in str(error.value)
    assert list(cache.iterdir()) == []
    assert not list(tmp_path.rglob("outside"))


def test_sparse_files_are_refused(tmp_path, cache):
    """A header that states a file of 2^62 bytes in which there is nothing."""
    archive = tmp_path / "made.tar"
    info = tarfile.TarInfo("hole")
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**62)}
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(ValueError, match="'hole', which is neither a file nor a folder"):
        unpacked(archive)
    assert list(cache.iterdir()) == []


def test_too_many_files_and_bytes_are_refused(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    with pytest.raises(ValueError, match="more than 3 files"):
        unpacked(write(tmp_path / "made.tar.gz", "1", "2", "3", "4"))
    monkeypatch.setattr(archives, "MOST_FILES", 4)
    unpacked(write(tmp_path / "made.tar.gz", "1", "2", "3", "4"))
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="or 0 GiB"):
        unpacked(write(tmp_path / "more.tar.gz", ("1", bytes(1 << 19)), ("2", bytes(1 << 19)), ("3", b"x")))
    assert len(list(cache.iterdir())) == 1


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, cache, monkeypatch):
    """16 MiB of zeros in 16 KiB; the file after it would make it too much."""
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 20)
    archive = write(tmp_path / "bomb.tar.gz", ("zeros", bytes(1 << 24)))
    monkeypatch.setattr(tarfile.TarFile, "makefile", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match="or 0 GiB"):
        unpacked(archive)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_many_megabytes_is_not_read(tmp_path, kind):
    archive = write(tmp_path / "bomb.tar.gz", (special("name", kind), b"n" * (1 << 24)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="header of more than a megabyte"):
        unpacked(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23


def test_a_small_long_name_is_kept(tmp_path):
    name = "/".join(["folder" * 10] * 4) + "/1.png"
    assert (unpacked(write(tmp_path / "made.tar.gz", (name, b"1"))) / name).read_bytes() == b"1"


def test_the_filter_counts_over_one_archive():
    keep = ArchiveFilter()
    keep(tarfile.TarInfo("1"), "folder")
    with pytest.raises(tarfile.FilterError, match="'1' twice"):
        keep(tarfile.TarInfo("1"), "folder")
    ArchiveFilter()(tarfile.TarInfo("1"), "folder")
