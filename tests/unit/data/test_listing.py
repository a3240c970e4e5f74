"""Image folders: what is listed, once each, against a naive walk over hypothesis-made layouts; and what is said of the rest."""

import logging
import os
import random
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from data_samples import jpeg, picture, write_take
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm.data.decode import decodable
from internlm.data.failure import DataError
from internlm.data.frames import ImageFolder, open_images
from internlm.data.listing import list_images, real_path
from internlm.data.store.foreign import is_foreign


def tree(root: Path, *names: str) -> Path:
    """Empty files; "a -> b" is a link, "a/" an empty folder. The names decide what is listed, so the files hold nothing."""
    for name in names:
        name, link, target = name.partition(" -> ")
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if link:
            path.symlink_to(target)
        else:
            path.touch()
    return root


# Made-up layouts

CASES = 600

FOLDERS = ("cat", "dog", "e", "Été", ".hidden", "@eaDir", "x.jpg", "a b")
STEMS = ("1", "2", "é 漢", ".h", "._m", "noext", "-x")
SUFFIXES = (".jpg", ".JPEG", ".Png", ".tif", ".TIFF", ".gif", ".bmp", ".webp", ".ppm", ".jp2", ".txt", ".npy", "", ".jpg.x", ".")
LINKS = ("l", "cat", "z.jpg", ".l.jpg", "q.PNG")
OUTSIDE = ("..", ".", "../out", "../out/deep", "../out/o.jpg", "l", "nowhere")


def build(root: str, rng: random.Random) -> None:
    """A made-up layout in ``root``/in, with ``root``/out beside it; what does not fit together is left out."""

    def folder() -> str:
        return "/".join(rng.choices(FOLDERS, k=rng.randint(0, 3)))

    def file() -> str:
        return f"{folder()}/{rng.choice(STEMS)}{rng.choice(SUFFIXES)}"

    def make(how, name: str) -> None:
        try:
            os.makedirs(os.path.dirname(f"{root}/in/{name}"), exist_ok=True)
            how(f"{root}/in/{name}")
        except OSError:  # a file is in the way, or the name is taken
            pass

    tree(Path(root), "out/o.jpg", "out/deep/p.png", "out/deep/up -> ..")
    os.mkdir(f"{root}/in")
    for _ in range(rng.randint(0, 8)):
        make(lambda path: open(path, "x").close(), file())
    for _ in range(rng.randint(0, 2)):
        make(os.mkdir, folder())
    for _ in range(rng.randint(0, 5)):
        target = rng.choice((folder, file, lambda: rng.choice(OUTSIDE)))()
        make(lambda path, target=target: os.symlink(f"{root}/in/{target}", path), f"{folder()}/{rng.choice(LINKS)}")


def naive(inside: str) -> tuple[set[tuple[str, str]], bool]:
    """{(class, real path of an image)} along every way through the folders, and whether a folder has two classes."""
    found, of_folder = set(), {}

    def visit(folder: str, label: str) -> None:
        real = os.path.realpath(folder)
        if label:
            of_folder.setdefault(real, set()).add(label)
        for name in os.listdir(folder):
            path, own = f"{folder}/{name}", label or name
            target = os.path.realpath(path)
            if name[0] == "." or (is_foreign(name) and os.path.isdir(path)):
                continue
            if os.path.isdir(path):
                above = any(f"{below}/".startswith(f"{target}/") for below in (real, os.path.realpath(inside)))
                if not (os.path.islink(path) and above):
                    visit(path, own)
            elif os.path.isfile(path) and decodable().get(os.path.splitext(name)[1].lower()) == "":
                found.add((own, target))

    visit(inside, "")
    return found, any(len(labels) > 1 for labels in of_folder.values())


def listed(inside: str, labelled: bool) -> list[tuple[str, str]]:
    names, _ = list_images(Path(inside), labelled=labelled)
    assert names == sorted(names)
    return sorted((name.split("/")[0], os.path.realpath(f"{inside}/{name}")) for name in names)


def test_every_image_is_listed_once():
    counts = {"images": 0, "two classes": 0, "outside": 0}

    @settings(max_examples=CASES, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**63))
    def case(seed):
        with tempfile.TemporaryDirectory() as root:
            build(root, random.Random(seed))
            inside = f"{root}/in"
            right, two_classes = naive(inside)
            plain = sorted(real for _, real in listed(inside, labelled=False))
            assert plain == sorted({real for _, real in right})
            if two_classes:
                with pytest.raises(DataError, match="are the same folder, which would be class"):
                    list_images(Path(inside), labelled=True)
            else:
                assert listed(inside, labelled=True) == sorted(right)
            counts["images"] += len(plain)
            counts["two classes"] += two_classes
            counts["outside"] += any("/out/" in real for real in plain)

    case()
    assert min(counts.values()) > CASES / 30, counts  # the layouts have links that matter


# What is said


def notes(root, *, labelled=True) -> str:
    return "; ".join(list_images(root, labelled=labelled)[1])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("cat/1.jpg", "dog/"), "class folders without an image: 1 (dog)"),
        (("cat/1.jpg", "dog/1.heic"), ".heic images that cannot be decoded here, pip install pillow-heif: 1 (dog/1.heic)"),
        (("cat/1.jpg", "dog/a", "dog/b.CR2"), "other files: 2 (1 .cr2, 1 without a suffix)"),
        (("cat/1.jpg", "cat/2.jpg -> nowhere.jpg", "dog -> gone"), "broken links: 2 (cat/2.jpg, dog)"),
        (("cat/1.jpg", "cat/2.jpg -> 2.jpg"), "broken links: 1 (cat/2.jpg)"),
        (("cat/1.jpg", "cat/up -> ../.."), "links to a folder above: 1 (cat/up)"),
        (("cat/1.jpg", "cat/more -> deep", "cat/deep/2.jpg"), "links to a folder that is listed already: 1 (cat/more)"),
        (("cat/1.jpg", "cat/2.jpg -> 1.jpg"), "links to an image that is listed already: 1 (cat/2.jpg)"),
        (("cat/1.jpg", "dog/2.jpg -> ../cat/1.jpg"), "images that are in several classes and count in each: 1 (dog/2.jpg)"),
        (("cat/1.jpg", "cat/.2.jpg", "cat/.DS_Store"), "hidden images and folders: 1 (cat/.2.jpg)"),
        (("cat/1.jpg", "cat/@eaDir/1.jpg", "lost+found/"), "system folders: 2 (cat/@eaDir, lost+found)"),
        (("a/1.jpg", *(f"{name}/" for name in "hgfedcb")), "class folders without an image: 7 (b, c, d, …)"),
    ],
)
def test_what_is_passed_over_is_said(tmp_path, names, said, monkeypatch):
    if ".heic" in said:
        monkeypatch.setattr("internlm.data.decode._plugins", frozenset)
        decodable.cache_clear()
    try:
        assert said in notes(tree(tmp_path, *names))
    finally:
        decodable.cache_clear()


def test_a_folder_of_images_alone_has_nothing_to_say(tmp_path, caplog):
    source = ImageFolder(tree(tmp_path, "cat/1.jpg", "cat/deep/2.JPEG", "dog/3.png", "dog/.DS_Store"), labelled=True)
    assert source.notes == () and not caplog.records
    tree(tmp_path, "dog/4.txt")
    with caplog.at_level(logging.WARNING):
        ImageFolder(tmp_path, labelled=True)
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: 3 images; other files: 1 (1 .txt)"]


def test_a_pipe_is_not_opened(tmp_path):
    tree(tmp_path, "cat/1.jpg")
    os.mkfifo(tmp_path / "cat" / "2.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "cat" / "3.jpg"))
        assert list_images(tmp_path)[0] == ["cat/1.jpg"]
    assert "pipes, sockets and devices: 2" in notes(tmp_path)


@contextmanager
def without_rights(folder: Path):
    """As a user who may not read everything, also where the tests run as root."""
    root = os.geteuid() == 0
    if root:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o311])
def test_a_folder_that_may_not_be_read_is_an_error(mode):
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    try:
        tree(folder, "cat/1.jpg", "dog/1.jpg", "lost+found/")
        with without_rights(folder):
            (folder / "dog").chmod(mode)
            (folder / "lost+found").chmod(0)
            for labelled in (False, True):
                with pytest.raises(DataError, match=r"folders that cannot be read: 1 \(dog: Permission denied\)"):
                    list_images(folder, labelled=labelled)
            (folder / "dog").chmod(0o755)
            assert list_images(folder)[0] == ["cat/1.jpg", "dog/1.jpg"]
    finally:
        shutil.rmtree(folder)


def test_a_file_that_may_not_be_read_is_a_broken_file():
    folder = Path(tempfile.mkdtemp())
    try:
        tree(folder, "cat/1.jpg")
        with without_rights(folder):
            (folder / "cat" / "1.jpg").chmod(0)
            with pytest.raises(DataError, match=r"cat/1\.jpg: .*Permission denied"):
                ImageFolder(folder).read(0)
    finally:
        shutil.rmtree(folder)


def test_a_class_has_one_name_however_its_accents_are_stored(tmp_path):
    source = ImageFolder(tree(tmp_path, "e\u0301te\u0301/1.jpg", "a/1.jpg"), labelled=True)
    assert source.classes == ("a", "\u00e9t\u00e9") and source.name(1).endswith("e\u0301te\u0301/1.jpg")


def test_names_that_are_no_text(tmp_path):
    folder = os.fsencode(tmp_path) + b"/c\xff"
    os.mkdir(folder)
    with open(folder + b"/\xfe\n.jpg", "wb") as file:
        file.write(jpeg(picture(0)))
    source = ImageFolder(tmp_path, labelled=True)
    assert source.read(0).shape == (48, 48, 3) and len(source.classes) == 1


def test_thousands_of_levels(tmp_path):
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    tree(deep, "1.jpg")
    assert list_images(tmp_path)[0] == ["d/" * 300 + "1.jpg"]


def test_a_source_knows_the_same_image_under_any_name(tmp_path):
    tree(tmp_path, "real/cat/1.jpg", "alias -> real", "farm/cat/9.jpg -> ../../real/cat/1.jpg")
    names = {ImageFolder(tmp_path / name).identity(0) for name in ("real", "alias", "farm")}
    assert names == {str((tmp_path / "real/cat/1.jpg").resolve())}
    write_take(tmp_path / "s", "a")
    (tmp_path / "t").symlink_to("s")
    joined = open_images([tmp_path / "s", tmp_path / "real"])
    other = open_images([tmp_path / "t"])
    assert joined.identity(1) == other.identity(1) != other.identity(0) and joined.identity(12) in names


def test_real_path_is_that_of_os(tmp_path):
    tree(
        tmp_path,
        "a/b/1.jpg",
        "c/l -> ../a/b/1.jpg",
        "c/m -> l",
        "d -> c",
        "e -> d/m",
        "f -> f",
        "g -> nowhere/x",
        "h -> a/b/..",
        "i -> .",
    )
    tree(tmp_path, "j -> a/", *(f"k{n + 1} -> k{n}" for n in range(30)), "k0 -> a/b/1.jpg", f"z -> {tmp_path}/e")
    folders = {}
    for name in ("a/b/1.jpg", "c/l", "c/m", "d/m", "e", "f", "g", "h", "i", "j", "k5", "k30", "z", "absent", "a/../e", "a/."):
        path = f"{tmp_path}/{name}"
        assert real_path(path, folders) == os.path.realpath(path), name


def test_a_path_given_twice_is_said(tmp_path, caplog):
    tree(tmp_path, "real/cat/1.jpg", "alias -> real")
    with caplog.at_level(logging.WARNING):
        assert len(open_images([tmp_path / "real", tmp_path / "alias", tmp_path / "real/cat"])) == 3
    assert sum("its images count more than once" in record.getMessage() for record in caplog.records) == 3
