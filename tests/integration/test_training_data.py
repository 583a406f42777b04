"""`cxrnode train` and `cxrnode evaluate` on each layout of films, and on films and lists that are not in order."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from pydicom.uid import UID
from safetensors.numpy import load_file, save_file

from cxrnode.core.findings import NIH14
from cxrnode.phantom.dicom import phantom_dx
from cxrnode.training.course import read_course
from cxrnode.training.readers import read_films, targets
from cxrnode.training.readers.picture import open_row
from cxrnode.training.readers.splits import require_disjoint, with_folds
from cxrnode.training.recipes import in_small, read_recipe
from tests.unit.cli.clinic import run
from tests.unit.training.readers.layouts import kermany, nih, picture, record

RECIPE = """
name = "small"
title = "A try"
[films]
list = "films.csv"
labels = {labels}
held_out = [0]
[network]
architecture = "cnn2"
[input]
size = 32
channels = 1
mean = 0.5
std = 0.25
[[phases]]
side = 32
epochs = 1
rate = 1e-3
[explanation]
films = 0
[card]
description = "A test."
licence = "none"
trained_on = "phantoms"
"""
HEAD = "image,patient_id,fold,Effusion,Pneumonia\n"


def recipe(folder: Path, *labels: str) -> Path:
    path = folder / "small.toml"
    path.write_text(RECIPE.format(labels=json.dumps(labels)))
    return path


def plain(folder: Path, *, films: int = 20, head: str = HEAD) -> Path:
    """A plain list; a film in two has Pneumonia, one in four Effusion."""
    for number in range(films):
        picture(folder / "films" / f"{number}.png", seed=number % 4)
    rows = (f"films/{n}.png,p{n},{n % 5},{int(n // 5 % 4 == 0)},{n // 5 % 2}\n" for n in range(films))
    (folder / "films.csv").write_text(head + "".join(rows))
    return folder


def train(folder: Path, place: Path, *labels: str) -> Result:
    given = ("--data", place, "--out", folder / "run", "--threads", 1, "--device", "cpu", "--json")
    return run("train", recipe(folder, *labels), *given)


def evaluated(folder: Path, place: Path, *more: str) -> Result:
    return run("evaluate", folder / "run" / "bundle", "--data", place, "--json", *more)


def shards(folder: Path) -> Path:
    for number in range(10):
        labels = dict.fromkeys(NIH14, 0) | {"Pneumonia": number % 2}
        (folder / f"{number:03}-2.tfrec").write_bytes(b"".join(record(n, **labels) for n in range(2)))
    return folder


def of_nih(folder: Path) -> Path:
    texts = ("Pneumonia|Mass", "No Finding")
    rows = {f"{n:08}_000.png": f"{texts[n % 2]},0,{n},058Y,M,PA" for n in range(20)}
    nih(folder, rows)
    (folder / "test_list.txt").write_text("".join(f"{n:08}_000.png\n" for n in range(4)))
    return folder


def of_kermany(folder: Path) -> Path:
    places = {f"IM-{n:04}-0001.jpeg": f"{'test' if n < 3 else 'train'}/NORMAL" for n in range(12)}
    ill = {f"person{n}_virus_{n}.jpeg": f"{'test' if n < 3 else 'train'}/PNEUMONIA" for n in range(12)}
    return kermany(folder, places | ill)


def of_dicom(folder: Path) -> Path:
    """Copies of two films under names of their own; the last is said to be a lateral."""
    drawn = [phantom_dx(seed, None, 512, 512) for seed in range(2)]
    rows = ["SOPInstanceUID,Pneumonia,fold\n"]
    for number in range(11):
        made = copy.deepcopy(drawn[number % 2])
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID(f"{made.SOPInstanceUID}.{number}")
        made.PatientID = f"P{number}"
        if number == 10:
            made.ViewPosition = "LL"
        made.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        rows.append(f"{made.SOPInstanceUID},{number % 2},{number // 2}\n")
    (folder / "films.csv").write_text("".join(rows))
    return folder


@pytest.mark.parametrize(
    ("make", "trained_on", "held_out", "left_out"),
    [(of_nih, 16, 4, 0), (of_kermany, 18, 6, 0), (shards, 16, 4, 0), (of_dicom, 8, 2, 1), (plain, 16, 4, 0)],
)
def test_each_layout_becomes_a_bundle_and_is_evaluated(
    make: object, trained_on: int, held_out: int, left_out: int, tmp_path: Path
) -> None:
    place = tmp_path / "data"
    place.mkdir()
    result = train(tmp_path, make(place), "Pneumonia")  # type: ignore[operator]
    assert result.exit_code == 0, result.output
    films = json.loads(result.stdout)["films"]
    assert (films["trained_on"], films["held_out"], films["left_out"]) == (trained_on, held_out, left_out)
    measured = evaluated(tmp_path, place)
    assert measured.exit_code == 0, measured.output
    assert set(json.loads(measured.stdout)["auroc"]) == {"Pneumonia"}


def test_films_that_cannot_be_used_are_named_and_the_others_are_trained_on(tmp_path: Path) -> None:
    plain(tmp_path)
    for name in ("5.png", "7.png"):
        (tmp_path / "films" / name).write_bytes((tmp_path / "films" / name).read_bytes()[:300])
    (tmp_path / "films" / "8.png").unlink()
    result = train(tmp_path, tmp_path, "Pneumonia")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["films"]["left_out"] == 3
    assert "left out: row 9, films/8.png: the film is not there" in result.stderr
    for row, film in ((6, "films/5.png"), (8, "films/7.png")):
        assert f"left out: row {row}, {film}: no picture that can be read" in result.stderr
    measured = evaluated(tmp_path, tmp_path / "films.csv")
    assert measured.exit_code == 0, measured.output
    assert {bad["row"] for bad in json.loads(measured.stdout)["bad_rows"]} == {6, 8, 9}
    assert "left out: row 8, films/7.png: no picture" in measured.stderr


@pytest.mark.parametrize(
    ("change", "labels", "says"),
    [
        ((HEAD, "image,patient_id,fold,Effusion,Pneum\n"), ["Pneumonia"], "films.csv: no column Pneumonia; add it"),
        ((HEAD, "file,patient_id,fold,Effusion,Pneumonia\n"), ["Pneumonia"], "films.csv: no column image; add it"),
        ((HEAD, HEAD.replace("Effusion", "Efusion")), ["Pneumonia"], "films.csv: column Efusion is no finding"),
        (("", ""), ["Pneumonia", "Fracture"], "films.csv: no column Fracture; add it"),
        ((",p6,1,", ",p5,1,"), ["Pneumonia"], "1 patient on both sides of the split"),
        (None, ["Pneumonia"], "films.csv: no film can be used of 20 rows; the first: row 1, films/0.png: Pneumonia"),
    ],
)
def test_a_list_that_is_not_in_order_stops_with_what_to_do(
    change: tuple[str, str] | None, labels: list[str], says: str, tmp_path: Path
) -> None:
    path = plain(tmp_path) / "films.csv"
    text = path.read_text()
    path.write_text(text.replace(*change, 1) if change else HEAD + text.removeprefix(HEAD).replace("\n", "x\n"))
    result = train(tmp_path, tmp_path, *labels)
    assert result.exit_code == 1
    assert says in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "bundle").exists()


def test_an_empty_class_stops_and_names_the_label(tmp_path: Path) -> None:
    path = plain(tmp_path) / "films.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line[:-1]}0" for line in lines[1:])]) + "\n")
    result = train(tmp_path, tmp_path, "Effusion", "Pneumonia")
    assert result.exit_code == 1
    assert "films.csv, the films trained on: no film with Pneumonia: nothing can be learnt" in result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of a run on a plain list."""
    folder = tmp_path_factory.mktemp("trained")
    result = train(folder, plain(folder), "Effusion", "Pneumonia")
    assert result.exit_code == 0, result.output
    yield folder


def test_evaluate_names_the_empty_class_and_the_remedy(trained: Path) -> None:
    lines = (trained / "films.csv").read_text().splitlines()
    (trained / "empty.csv").write_text("\n".join([lines[0], *(f"{line[:-1]}0" for line in lines[1:])]) + "\n")
    result = evaluated(trained, trained / "empty.csv")
    assert result.exit_code == 1
    assert "Pneumonia" in result.stderr and "--without Pneumonia" in result.stderr
    assert evaluated(trained, trained / "empty.csv", "--without", "Pneumonia").exit_code == 0


def test_evaluate_names_a_column_that_is_missing_or_unknown(trained: Path) -> None:
    text = (trained / "films.csv").read_text()
    for head, says, remedy in (
        (HEAD.replace("Effusion", "source_width"), "no column Effusion", ("--without", "Effusion")),
        (HEAD.replace("fold", "ward"), "column ward is no finding of this model", ("--ignore", "ward")),
    ):
        (trained / "other.csv").write_text(text.replace(HEAD, head))
        result = evaluated(trained, trained / "other.csv")
        assert result.exit_code == 1
        assert says in result.stderr and " ".join(remedy) in result.stderr
        assert evaluated(trained, trained / "other.csv", *remedy).exit_code == 0


def test_a_bundle_whose_weights_were_altered_or_are_not_finite_is_refused(trained: Path, tmp_path: Path) -> None:
    altered = tmp_path / "run" / "bundle"
    shutil.copytree(trained / "run" / "bundle", altered)
    weights = load_file(altered / "weights.safetensors")
    name = sorted(weights)[0]
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, altered / "weights.safetensors")
    result = evaluated(tmp_path, trained / "films.csv")
    assert result.exit_code == 1
    assert "weights.safetensors" in result.stderr and "Traceback" not in result.stderr
    # Signed anew, every digest is right and the weights are still no numbers.
    manifest = altered / "manifest.toml"
    old = hashlib.sha256((trained / "run" / "bundle" / "weights.safetensors").read_bytes()).hexdigest()
    new = hashlib.sha256((altered / "weights.safetensors").read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text().replace(old, new))
    result = evaluated(tmp_path, trained / "films.csv")
    assert result.exit_code == 1
    assert f"weights.safetensors: {name} holds values that are not finite" in result.stderr


def test_official_test_films_are_never_trained_on(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    given = read_recipe(str(recipe(tmp_path, "Pneumonia")))
    course = read_course(in_small(given, held_out=(2,)), of_kermany(place))
    assert {row.part for row in (*course.train, *course.held)} == {"train"}
    assert len(course.train) + len(course.held) == 18


def test_of_real_dicom_files_the_chest_films_alone_are_taken(data_dir: Path, tmp_path: Path) -> None:
    files = [*(data_dir / "dicom" / "chest").glob("*.dcm"), *(data_dir / "dicom" / "negative").glob("*.dcm")]
    for path in files:
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "labels.csv").write_text("image,Mass\n" + "".join(f"{path.name},0\n" for path in files))
    found = read_films(tmp_path, ["Mass"])
    assert {row.image for row in found.rows} == {path.name for path in (data_dir / "dicom" / "chest").glob("*.dcm")}
    assert len(found.bad) == len(files) - len(found.rows)
    assert all(bad.reason for bad in found.bad)
    assert all(open_row(row).std() > 20 for row in found.rows)


def test_the_real_lists_have_no_bad_row_and_folds_by_patient(data_dir: Path) -> None:
    folders = read_films(data_dir / "train" / "kermany", ["Pneumonia"])
    listed = read_films(data_dir / "train_kermany.csv", ["Pneumonia"])
    assert targets(folders.rows).sum() == targets(listed.rows).sum() > 4000
    films = read_films(data_dir / "train_nih.csv", [*NIH14, "No Finding", "Abnormal"])
    assert (folders.bad, listed.bad, films.bad) == ((), (), ())
    for given in (folders, listed, films):
        made = with_folds(given)
        require_disjoint((row for row in made.rows if row.fold), (row for row in made.rows if not row.fold))
    truth = targets(films.rows)
    assert (truth[:, :14].max(1) == truth[:, 15]).all() and (truth[:, 14] == 1 - truth[:, 15]).all()
