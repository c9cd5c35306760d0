"""Pictures by path: what a folder means, where captions come from, what is held out, and what is said of bad ones."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jgpt.config import DataConfig
from jgpt.data.examples import Splits
from jgpt.data.picture_captions import read_captions
from jgpt.data.picture_files import is_pictures, read_pictures

SHARED = Path(__file__).parents[3] / "shared" / "data" / "images"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here: it is no part of the project")


def paint(path: Path, value: int, shape: tuple[int, ...] = (4, 4, 3)) -> None:
    """Write a picture whose pixels are told apart by `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def read(path: Path, fraction: float | None = 0.25, seed: int = 0, **data: Any) -> Splits:
    return read_pictures(path, data=DataConfig(**data), validation_fraction=fraction, seed=seed)


def captions(splits: Splits) -> list[str]:
    return sorted(example.caption for example in (*splits.train, *splits.validation))


def both(splits: Splits) -> list[bytes]:
    return [example.pixels.tobytes() for example in (*splits.train, *splits.validation)]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Return a folder of 12 cats and 4 dogs."""
    for i in range(16):
        paint(tmp_path / ("cat" if i < 12 else "dog") / f"{i}.png", i)
    return tmp_path


SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=30, deadline=None)  # a shared machine has slow moments
@given(
    st.lists(st.tuples(st.sampled_from(["cat", "a dog", "ü"]), st.booleans()), min_size=1, max_size=6),
    SIZES,
    st.sampled_from([".png", ".bmp", ".tif", ".npz"]),
    st.integers(0, 99),
)
def test_pictures_read_back_equal(pictures: list[tuple[str, bool]], size: tuple[int, int], suffix: str, seed: int):
    """Of a folder of files that lose nothing, and of arrays: pixels and class; grey beside colour gets three channels."""
    random = np.random.default_rng(seed)
    grey = [is_grey and suffix != ".npz" for _, is_grey in pictures]
    shown = [random.integers(0, 256, size if one else (*size, 3)).astype(np.uint8) for one in grey]
    classes = [name for name, _ in pictures]
    expected = [np.repeat(p[..., None], 3, -1) if p.ndim == 2 and not all(grey) else p for p in shown]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if suffix == ".npz":
            np.savez(folder / "all.npz", images=np.stack(shown), labels=classes)
        else:
            for i, (pixels, of) in enumerate(zip(shown, classes, strict=True)):
                (folder / of).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(folder / of / f"{i}{suffix}")
        found = read(folder / "all.npz" if suffix == ".npz" else folder, fraction=None).validation
        places = [example.place for example in found]
    one_class = len(set(classes)) == 1 and suffix != ".npz"  # a folder within a folder names nothing

    def marked(pixels: np.ndarray, of: str) -> tuple:
        channels = pixels[..., 0] if pixels.ndim == 3 and (pixels == pixels[..., :1]).all() else pixels
        return (channels.shape[:2], channels.tobytes() if all(grey) else pixels.tobytes(), "" if one_class else of)

    assert sorted(marked(e.pixels, e.caption) for e in found) == sorted(map(marked, expected, classes))
    assert len(set(places)) == len(found) and all(suffix in place for place in places)


def test_folders_are_classes_and_each_is_held_out_in_proportion(classes: Path):
    for seed in range(5):
        splits = read(classes, seed=seed)
        held = [example.caption for example in splits.validation]
        assert len(held) == 4 and 2 <= held.count("cat") <= 3
        assert captions(splits) == ["cat"] * 12 + ["dog"] * 4 and len(set(both(splits))) == 16
    assert splits.kind == "image" and splits.recognised == "pictures in 2 classes (folders), 4 x 4 RGB"
    assert both(read(classes)) == both(read(classes)) != both(read(classes, seed=1))


def test_a_flat_folder_has_no_captions_nor_does_one_within_another(tmp_path: Path):
    for i in range(4):
        paint(tmp_path / "within" / f"{i}.JPG", i)
    assert captions(read(tmp_path)) == captions(read(tmp_path / "within")) == [""] * 4


def test_a_class_of_one_stays_in_training_and_is_named(classes: Path):
    paint(classes / "owl" / "only.png", 99)
    splits = read(classes, fraction=0.9)
    assert "owl" not in {example.caption for example in splits.validation}
    assert {"cat", "dog", "owl"} == {example.caption for example in splits.train}
    assert any("single picture" in note and "'owl'" in note for note in splits.notes)


def test_equal_pictures_stand_on_one_side(tmp_path: Path):
    for i in range(40):
        paint(tmp_path / "ab"[i % 2] / f"{i}.png", i // 4)  # each four times, twice in each class
    for seed in range(5):
        splits = read(tmp_path, seed=seed)
        train, held = ({e.pixels.tobytes() for e in part} for part in (splits.train, splits.validation))
        assert not train & held and len(splits.train) + len(splits.validation) == 40
    assert any("40 pictures are equal to another" in note for note in splits.notes)


def test_a_given_split_is_honoured_and_what_leaks_is_left_out(tmp_path: Path):
    for i in range(6):
        paint(tmp_path / "train" / "cat" / f"{i}.png", i)
    paint(tmp_path / "val" / "cat" / "x.png", 0)
    paint(tmp_path / "val" / "dog" / "y.png", 50)
    paint(tmp_path / "test" / "dog" / "z.png", 51)
    splits = read(tmp_path)
    assert [e.caption for e in splits.train] == ["cat"] * 5 and [e.caption for e in splits.validation] == ["cat", "dog"]
    notes = " ".join(splits.notes)
    assert "would leak: 1 picture equal to a held-out one" in notes and "test (1 picture) is left alone" in notes
    paint(tmp_path / "other" / "w.png", 52)
    with pytest.raises(ValueError, match=r"train, val as a split.*'other'"):
        read(tmp_path)


NAMES = ["a.png", "b.png", "c.png", "d.png"]
FORMS = {
    "captions.json": json.dumps([{"file": name, "caption": f"picture {name[0]}"} for name in NAMES]),
    "any.json": json.dumps({name: f"picture {name[0]}" for name in NAMES}),
    "countries.json": json.dumps({name[0].upper(): f"picture {name[0]}" for name in NAMES}),
    "metadata.jsonl": "\n".join(json.dumps({"file_name": n, "text": f"picture {n[0]}"}) for n in NAMES),
    "labels.csv": "file,caption\n" + "\n".join(f'{n},"picture {n[0]}"' for n in NAMES),
    "x.tsv": "image\ttitle\n" + "\n".join(f"sub/{n}\tpicture {n[0]}" for n in NAMES),
}


@pytest.mark.parametrize("where", ["inside", "beside", "itself"])
@pytest.mark.parametrize("name", FORMS)
def test_captions_files_of_every_form_find_their_pictures(name: str, where: str, tmp_path: Path):
    folder = tmp_path / "set"
    for i, picture in enumerate(NAMES):
        paint(folder / "sub" / picture, i)
    file = (tmp_path if where == "beside" else folder) / name
    if where == "beside" and file.stem in ("any", "countries", "x"):
        file = file.with_stem("set")  # beside the folder only a telling name counts
    file.write_text(FORMS[name])
    splits = read(file if where == "itself" else folder)
    assert captions(splits) == [f"picture {n[0]}" for n in NAMES]
    assert file.name in splits.recognised
    first = next(e for e in (*splits.train, *splits.validation) if e.caption == "picture c")
    np.testing.assert_array_equal(first.pixels, np.asarray(Image.open(folder / "sub" / "c.png")))


def test_columns_may_be_named_and_lists_of_words_are_joined(tmp_path: Path):
    for i in range(2):
        paint(tmp_path / f"{i}.png", i)
    rows = [{"bild": f"{i}.png", "worte": ["rot", f"n{i}"], "caption": "no"} for i in range(2)]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    with pytest.raises(
        ValueError, match=r"no field 'file' or .* its fields: bild, worte, caption.*--data.columns file"
    ):
        read(tmp_path)
    splits = read(tmp_path, columns={"file": "bild", "caption": "worte"})
    assert captions(splits) == ["rot, n0", "rot, n1"]


def test_several_captions_of_a_picture_are_several_examples_on_one_side(tmp_path: Path):
    for i in range(4):
        paint(tmp_path / f"{i}.png", i)
    lines = [f"{i}.png,caption {i} {j}" for i in range(4) for j in range(3)]
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *lines]))
    splits = read(tmp_path)
    assert len(splits.train) == 9 and len({e.caption.split()[1] for e in splits.validation}) == 1


@pytest.mark.parametrize("seed", range(4))
def test_captions_that_are_classes_are_split_by_class(seed: int, tmp_path: Path):
    names = ["cat"] * 10 + ["dog"] * 10 + ["yak"]
    for i in range(21):
        paint(tmp_path / f"{i}.png", i)
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *(f"{i}.png,{n}" for i, n in enumerate(names))]))
    splits = read(tmp_path, seed=seed)
    held = [example.caption for example in splits.validation]
    assert set(held) == {"cat", "dog"} and held.count("cat") in (2, 3) and len(held) == 5
    assert "classes with a single picture, which is trained and never held out: 'yak'" in splits.notes


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"file": "gone.png", "caption": "x"}, r"entry 4: the picture 'gone.png' is not there"),
        ({"caption": "x"}, r"entry 4: there is no usable 'file' and 'caption'"),
        ({"file": "0.png", "caption": None}, r"entry 4: there is no usable 'file' and 'caption'"),
    ],
)
def test_bad_captions_are_named_or_skipped_and_listed(entry: dict, complaint: str, tmp_path: Path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    rows = [{"file": f"{i}.png", "caption": f"c{i}"} for i in range(3)]
    (tmp_path / "captions.json").write_text(json.dumps([*rows, entry]))
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path)
    splits = read(tmp_path, on_bad_record="skip")
    assert captions(splits) == ["c0", "c1", "c2"]
    assert splits.notes[0].startswith("1 bad record(s) skipped") and "entry 4" in splits.notes[1]
    assert splits.notes[1] == f"skipped: {splits.skipped[0]}" and "--data.on-bad-record" not in splits.skipped[0]


def test_a_picture_without_a_caption_is_named_or_skipped(tmp_path: Path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    (tmp_path / "captions.json").write_text(json.dumps({"0.png": "a", "1.png": "b"}))
    with pytest.raises(ValueError, match=r"captions.json': the picture '2.png' has no caption.*skip"):
        read(tmp_path)
    assert captions(read(tmp_path, on_bad_record="skip")) == ["a", "b"]


def test_a_picture_captioned_twice_in_a_mapping_is_named(tmp_path: Path):
    paint(tmp_path / "0.png", 0)
    (tmp_path / "captions.json").write_text('{"0.png": "a", "0.png": "b"}')
    with pytest.raises(ValueError, match=r"captions.json'.*'0.png' stands twice in one object: keep one"):
        read(tmp_path)


def test_a_caption_of_a_mapping_that_is_no_text_is_named_by_its_key(tmp_path: Path):
    for name in ("a", "b", "c"):
        paint(tmp_path / f"{name}.png", ord(name))
    (tmp_path / "captions.json").write_text('{"a.png": "x", "b.png": null, "c.png": "y"}')
    with pytest.raises(ValueError, match="captions.json', key 'b.png': there is no usable"):
        read(tmp_path)
    assert captions(read(tmp_path, on_bad_record="skip")) == ["x", "y"]


def test_empty_captions_are_counted(tmp_path: Path):
    for i in range(4):
        paint(tmp_path / f"{i}.png", i)
    (tmp_path / "captions.json").write_text(json.dumps({"0.png": "a", "1.png": "", "2.png": "b", "3.png": " "}))
    splits = read(tmp_path)
    assert captions(splits) == ["", "", "a", "b"] and "2 empty captions among 4: drawn on nothing" in splits.notes


def test_bad_pictures_are_named_or_skipped_and_listed(classes: Path):
    (classes / "cat" / "broken.png").write_bytes(b"\x89PNG nothing")
    (classes / "dog" / "empty.gif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken.png': it is no picture.*--data.on-bad-record skip"):
        read(classes)
    splits = read(classes, on_bad_record="skip")
    assert len(both(splits)) == 16
    assert splits.notes[0].startswith("2 bad record(s) skipped") and "empty.gif': it is empty" in " ".join(splits.notes)


def test_broken_json_names_line_and_column(tmp_path: Path):
    paint(tmp_path / "a.png", 0)
    (tmp_path / "captions.json").write_text('[\n{"file": "a.png" "caption": 1}]')
    with pytest.raises(ValueError, match=r"captions.json', line 2, column 18: no JSON"):
        read(tmp_path)
    (tmp_path / "captions.json").unlink()
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png", "caption": "x"}\n{"file": }\n')
    with pytest.raises(ValueError, match=r"captions.jsonl', line 2: is no JSON"):
        read(tmp_path)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(WORDS, min_size=3, max_size=3), st.sampled_from([".json", ".jsonl", ".csv", ".tsv", "mapping"]))
@settings(max_examples=60, deadline=None)
def test_every_form_gives_the_captions_that_were_written(words: list[str], form: str):
    pairs = [(f"{i}.png", caption) for i, caption in enumerate(words)]
    records = [{"file": file, "caption": caption} for file, caption in pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("c.json" if form == "mapping" else f"c{form}")
        with open(path, "w", encoding="utf-8", newline="") as file:
            if form in (".csv", ".tsv"):
                rows = csv.writer(file, delimiter="\t" if form == ".tsv" else ",")
                rows.writerows([("file", "caption"), *pairs])
            elif form == ".jsonl":
                file.write("\n".join(json.dumps(record, ensure_ascii=False) for record in records))
            else:
                json.dump(dict(pairs) if form == "mapping" else records, file, ensure_ascii=False)
        found = read_captions(path, {}, "utf-8")
    assert not found.broken
    if form in (".csv", ".tsv"):  # line ends of any kind are one newline
        pairs = [(file, caption.replace("\r\n", "\n").replace("\r", "\n")) for file, caption in pairs]
    assert [(entry.file, entry.caption) for entry in found.entries] == [(f, c.strip()) for f, c in pairs]


def test_captions_that_hold_the_separator_or_half_a_character_are_named(tmp_path: Path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    (tmp_path / "captions.csv").write_bytes(
        "file,caption\n0.png,a cat, sitting\n1.png,b\n2.png,caf\xe9\n".encode("latin-1")
    )
    with pytest.raises(ValueError, match=r"captions.csv', line 2: has 3 cells, and the header has 2"):
        read(tmp_path)
    splits = read(tmp_path, None, on_bad_record="skip")
    said = " ".join(splits.notes)
    assert captions(splits) == ["b"] and "line 4: the byte 0xe9 is no utf-8" in said


def test_a_file_that_could_have_been_captions_says_why_it_is_not(classes: Path):
    (classes / "names.csv").write_text("datei,wort\ncat/0.png,x\n")
    (classes / "names.json").write_text("{")
    said = " ".join(read(classes).notes)
    assert "'names.csv', as 1 more, is not read as captions" in said and "--data.columns file YOUR_NAME." in said


def test_two_captions_files_are_refused(tmp_path: Path):
    paint(tmp_path / "a.png", 0)
    for name in ("captions.json", "names.json"):
        (tmp_path / name).write_text('{"a.png": "x"}')
    with pytest.raises(ValueError, match=r"2 captions files \(captions.json, names.json\): keep one"):
        read(tmp_path)


def test_names_that_fit_two_pictures_are_refused(tmp_path: Path):
    for i, folder in enumerate("ab"):
        paint(tmp_path / folder / "x.png", i)
    (tmp_path / "captions.json").write_text('{"x.png": "which?"}')
    with pytest.raises(ValueError, match=r"'x.png' may be 'a/x.png' and 'b/x.png'"):
        read(tmp_path)
    (tmp_path / "captions.json").write_text('{"a/x.png": "this", "b/x.png": "that"}')
    assert captions(read(tmp_path)) == ["that", "this"]


def test_other_files_are_left_out_and_said(classes: Path):
    (classes / "LICENCE.txt").write_text("free")
    (classes / "settings.json").write_text('{"depth": 3}')
    splits = read(classes)
    assert len(both(splits)) == 16 and any("'LICENCE.txt', 'settings.json'" in note for note in splits.notes)


def test_differing_shapes_name_two_files_and_the_flag(tmp_path: Path):
    paint(tmp_path / "a.png", 0)
    paint(tmp_path / "b.png", 1, (6, 3, 3))
    with pytest.raises(ValueError, match=r"'a.png' is 4 x 4 .* 'b.png' is 3 x 6; .*--data.image-size"):
        read(tmp_path)
    assert {e.pixels.shape for e in read(tmp_path, image_size=2).train} == {(2, 2, 3)}


def test_grey_beside_colour_becomes_colour_and_grey_alone_stays_grey(tmp_path: Path):
    for i in range(2):
        paint(tmp_path / f"{i}.png", i, (4, 4))
    assert read(tmp_path).train[0].pixels.shape == (4, 4)
    assert read(tmp_path, image_mode="rgb").train[0].pixels.shape == (4, 4, 3)
    paint(tmp_path / "c.png", 9)
    assert {e.pixels.shape for e in read(tmp_path).train} == {(4, 4, 3)}
    assert {e.pixels.shape for e in read(tmp_path, image_mode="grey").train} == {(4, 4)}


def test_nothing_to_read_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"holds no pictures \(.png"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "gone")
    paint(tmp_path / "a.png", 0)
    with pytest.raises(ValueError, match=r"1 picture\(s\), 1 of them different, cannot be split"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"is one file: give the folder"):
        read(tmp_path / "a.png")


IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 5)).astype(np.uint8)


def test_arrays_with_labels_without_and_in_parts(tmp_path: Path):
    np.savez(tmp_path / "one.npz", images=IMAGES, labels=np.arange(8)[:, None] % 2)
    splits = read(tmp_path / "one.npz")
    assert captions(splits) == ["0"] * 4 + ["1"] * 4 and splits.train[0].pixels.shape == (3, 5)
    np.savez(tmp_path / "two.npz", x_train=IMAGES[:5], y_train=list("abcde"), x_test=IMAGES[5:], y_test=list("fgh"))
    splits = read(tmp_path / "two.npz")
    assert [e.caption for e in splits.train] == list("abcde") and [e.caption for e in splits.validation] == list("fgh")
    np.testing.assert_array_equal(np.stack([e.pixels for e in splits.validation]), IMAGES[5:])
    np.save(tmp_path / "three.npy", np.stack([IMAGES] * 3, -1) // np.array([1, 2, 3], np.uint8))
    splits = read(tmp_path / "three.npy", image_size=2)
    assert captions(splits) == [""] * 8 and splits.train[0].pixels.shape == (2, 2, 3)
    np.savez(tmp_path / "four.npz", bilder=IMAGES, y=np.zeros(8, int))
    assert len(read(tmp_path / "four.npz", columns={"file": "bilder"}).train) == 6


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"images": IMAGES / 255}, "float64 of shape .*pictures are uint8"),
        ({"images": IMAGES, "labels": np.arange(7)}, r"shape \(7,\) for 8 pictures"),
        ({"images": IMAGES, "labels": np.ones(8)}, "labels are whole numbers or strings"),
        ({"z": IMAGES}, r"no array of images; it holds z \[8, 3, 5\]"),
        ({"images": IMAGES[0]}, r"pictures are \[n, height"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, "move the channels last"),
        ({"images": np.array([{}])}, "objects are not read"),
        ({"train_images": IMAGES}, "come with train alone"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(arrays: dict, complaint: str, tmp_path: Path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path / "x.npz")


def test_what_holds_pictures_is_told_from_what_does_not(tmp_path: Path):
    np.save(tmp_path / "ids.npy", np.arange(9))
    np.save(tmp_path / "pictures.npy", IMAGES)
    assert not is_pictures(tmp_path / "ids.npy") and is_pictures(tmp_path / "pictures.npy")
    assert not is_pictures(tmp_path)
    paint(tmp_path / "deep" / "er" / "a.webp", 0)
    assert is_pictures(tmp_path)


@needs_shared
@pytest.mark.slow
def test_real_sets_are_read_by_path():
    emoji = read(SHARED / "emoji", image_size=16, fraction=0.1)
    assert len(both(emoji)) == 1911 and "HASH KEY" in captions(emoji)


@needs_shared
def test_flags_are_named_by_country():
    flags = read(SHARED / "flags", image_size=8, fraction=0.1)
    assert len(both(flags)) == 256 and "Bouvet Island" in captions(flags)


def test_labels_of_arrays_are_classes_only_where_they_repeat(tmp_path: Path):
    np.savez(tmp_path / "all.npz", images=IMAGES, labels=list("abcdefgh"))
    assert len(read(tmp_path / "all.npz").validation) == 2
    np.savez(tmp_path / "most.npz", images=IMAGES, labels=list("aacdefgh"))
    assert len(read(tmp_path / "most.npz").validation) == 2
    np.savez(tmp_path / "classes.npz", images=IMAGES, labels=list("aaaabbbb"))
    for seed in range(5):
        assert captions(read(tmp_path / "classes.npz", seed=seed)).count("a") == 4
        assert {picture.caption for picture in read(tmp_path / "classes.npz", seed=seed).validation} == {"a", "b"}


def test_columns_that_pictures_have_not_are_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=np.arange(8))
    with pytest.raises(ValueError, match="no array 'worte'; it holds images"):
        read(tmp_path / "a.npz", columns={"caption": "worte"})
    for i in range(4):
        paint(tmp_path / "in" / f"{i}.png", i)
    with pytest.raises(ValueError, match="'caption', which plays no part in pictures without captions"):
        read(tmp_path / "in", columns={"caption": "worte"})


def test_without_a_fraction_everything_is_held_out_a_given_split_and_equal_pictures_too(tmp_path: Path):
    for part, name in (("train", "cat"), ("val", "cat"), ("test", "dog")):
        paint(tmp_path / part / name / "same.png", 1)
    splits = read(tmp_path, None)
    assert list(splits.train) == [] and captions(splits) == ["cat", "cat", "dog"]


def test_one_picture_is_held_out_with_its_caption(tmp_path: Path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    alone = read(tmp_path / "1.png", None)
    assert list(alone.train) == [] and captions(alone) == [""]
    assert both(alone)[0] == np.asarray(Image.open(tmp_path / "1.png")).tobytes()
    (tmp_path / "captions.json").write_text(json.dumps({f"{i}.png": f"number {i}" for i in range(3)}))
    assert captions(read(tmp_path / "1.png", None)) == ["number 1"]


def test_one_picture_is_not_judged_by_the_captions_of_others(tmp_path: Path):
    for name in "abc":
        paint(tmp_path / f"{name}.png", ord(name))
    (tmp_path / "captions.json").write_text('{"a.png": "cat", "b.png": "dog", "gone.png": "bird"}')
    assert captions(read(tmp_path / "a.png", None)) == ["cat"]
    assert captions(read(tmp_path / "c.png", None)) == [""]


def test_a_caption_of_a_missing_picture_is_not_given_to_one_of_that_name_elsewhere(tmp_path: Path):
    for i, name in enumerate(("x/1.png", "y/2.png")):
        paint(tmp_path / name, i)
    (tmp_path / "captions.json").write_text('{"x/1.png": "cat", "y/1.png": "dog", "y/2.png": "bird"}')
    with pytest.raises(ValueError, match="the picture 'y/1.png' is not there"):
        read(tmp_path)
    (tmp_path / "captions.json").write_text('{"/elsewhere/set/x/1.png": "cat", "2.png": "bird"}')
    assert captions(read(tmp_path)) == ["bird", "cat"]
    paint(tmp_path / "y/1.bmp", 2)
    (tmp_path / "captions.json").write_text('{"x/1.png": "cat", "y/1.png": "dog", "y/2.png": "bird"}')
    assert captions(read(tmp_path)) == ["bird", "cat", "dog"]  # of the same folder, with another ending


@pytest.mark.parametrize("seed", range(20))
def test_a_class_whose_pictures_also_stand_in_another_keeps_one_to_train_on(seed: int, tmp_path: Path):
    for name, value in {"A/1": 1, "A/2": 2, "A/3": 3, "B/1": 1, "C/4": 4, "C/5": 5}.items():
        paint(tmp_path / f"{name}.png", value)
    splits = read(tmp_path, 0.3, seed)
    assert {picture.caption for picture in splits.train} == set("ABC") and len(splits.validation) > 0


def test_labels_of_arrays_that_are_no_text_are_named(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([b"caf\xe9", b"tea"]))
    with pytest.raises(ValueError, match=r"'labels' of .*a.npz' holds b'caf.xe9', which is no UTF-8"):
        read(tmp_path / "a.npz")


def test_a_given_split_is_said_and_one_that_leaves_nothing_is_refused(tmp_path: Path):
    for name, value in {"train/1": 1, "train/2": 2, "test/1": 1}.items():
        paint(tmp_path / f"{name}.png", value)
    assert "split by folders: training on train (1), held out test (1)" in read(tmp_path).notes
    paint(tmp_path / "test/2.png", 2)
    with pytest.raises(ValueError, match="all 2 training pictures are held out too: nothing is left to train on"):
        read(tmp_path)


def test_captions_files_below_are_named_with_where_they_are_read_from(classes: Path):
    (classes / "cat" / "metadata.csv").write_text("file_name,text\n1.png,tom\n")
    assert any("'cat/metadata.csv' (captions are read from one file at the top" in note for note in read(classes).notes)
