"""Pictures and tables of test images."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Images
from ae.evaluation.evaluate import Classified, per_image_metrics
from ae.evaluation.tables import _confusion, _of_each_class, evaluation_media
from ae.tracking.media import Media, Table
from ae.utils.seeding import generator

CLASSES = ("a", "b", "c")


@pytest.fixture
def model() -> Autoencoder:
    return Autoencoder(ConvEncoder(3, (4, 6)), DeconvDecoder(3, (6, 4)), heads={"digit": Classifier((6, 3, 4), 3)})


def test_evaluation_media_lists_the_worst_images_first(model: Autoencoder, noise: Images) -> None:
    labels = noise.labels.clone()
    labels[:4] = -1
    images = Images(noise.pixels, labels, CLASSES)
    per_image = per_image_metrics(model, images)
    predicted = per_image.classified[""].predicted
    media = evaluation_media(model, images, per_image)
    assert set(media.pictures) == {"code", "reconstructions"}

    worst = media.tables["worst_reconstructed"]
    assert worst.columns == ("index", "picture", "label", "prediction", "mse", "cross_entropy")
    errors = per_image.values["mse"]
    assert [row[0] for row in worst.rows] == errors.argsort(descending=True).tolist()
    for index, picture, label, prediction, mse, _ in worst.rows:
        assert picture.size == (26, 9)
        assert mse == errors[index]
        assert label == ("" if index < 4 else CLASSES[labels[index]])
        assert prediction == CLASSES[predicted[index]]

    wrong = media.tables["misclassified"]
    expected = {i for i in range(4, 20) if predicted[i] != labels[i]}
    assert {row[0] for row in wrong.rows} == expected
    assert [row[-1] for row in wrong.rows] == sorted((row[-1] for row in wrong.rows), reverse=True)

    counts = {(actual, guess): count for actual, guess, count in media.tables["confusion"].rows}
    assert len(counts) == 9
    for a, actual in enumerate(CLASSES):
        for p, name in enumerate(CLASSES):
            both = (labels == a) & (predicted == p)
            assert counts[actual, name] == both.sum()


def test_evaluation_media_omits_media_that_do_not_apply(noise: Images) -> None:
    classifier = Autoencoder(ConvEncoder(3, (4,)), heads={"digit": Classifier((4, 5, 7), 3)})
    media = evaluation_media(classifier, noise, per_image_metrics(classifier, noise))
    assert set(media.pictures) == {"code"}
    assert set(media.tables) == {"misclassified", "confusion"}
    assert "mse" not in media.tables["misclassified"].columns
    autoencoder = Autoencoder(ConvEncoder(3, (4,)), DeconvDecoder(3, (4,)))
    media = evaluation_media(autoencoder, noise, per_image_metrics(autoencoder, noise))
    assert set(media.tables) == {"worst_reconstructed"}
    assert "prediction" not in media.tables["worst_reconstructed"].columns


def test_evaluation_media_of_a_perfect_classifier_has_an_empty_table(noise: Images) -> None:
    head = Classifier((6, 3, 4), 3)
    torch.nn.init.zeros_(head.fc2.weight)
    model = Autoencoder(ConvEncoder(3, (4, 6)), heads={"digit": head})
    with torch.no_grad():
        head.fc2.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    images = Images(noise.pixels, torch.zeros(20, dtype=torch.int64), CLASSES)
    assert evaluation_media(model, images, per_image_metrics(model, images)).tables["misclassified"].rows == []


def test_media_load_reads_what_save_wrote(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    tables = {"worst": Table(("i", "p", "x"), [(1, picture, 0.1), (2, picture, 0.2)]), "empty": Table(("i",), [])}
    Media({"code": picture}, tables).save(tmp_path)
    loaded = Media.load(tmp_path)
    assert list(loaded.pictures) == ["code"]
    assert loaded.pictures["code"].tobytes() == picture.tobytes()
    assert loaded.tables["empty"] == tables["empty"]
    assert loaded.tables["worst"].columns == ("i", "p", "x")
    for row, expected in zip(loaded.tables["worst"].rows, tables["worst"].rows, strict=True):
        assert (row[0], row[2]) == (expected[0], expected[2])
        assert row[1].tobytes() == picture.tobytes()
    assert Media.load(tmp_path / "nowhere") == Media()


def test_confusion_of_thousands_of_classes_keeps_the_largest_cells(capsys: pytest.CaptureFixture[str]) -> None:
    classes = tuple(f"c{i}" for i in range(5000))
    labels = torch.cat([torch.arange(5000), torch.tensor([7, 7, 7, 8]), torch.tensor([-1])])
    predictions = torch.cat([torch.arange(5000), torch.tensor([9, 9, 4999, 8]), torch.tensor([3])])
    table = _confusion(Classified(predictions, labels, classes))
    assert table.rows[:3] == [("c7", "c9", 2), ("c7", "c4999", 1), ("c8", "c8", 2)]
    assert len(table.rows) == 5002
    assert sum(row[2] for row in table.rows) == 5004
    assert "5,002 of 5,002 cells that are not 0, mistakes first, of 5,000 x 5,000" in capsys.readouterr().err
    many = torch.randint(5000, (30_000,), generator=generator("many"))
    assert len(_confusion(Classified(many.flip(0), many, classes)).rows) == 10_000


def test_confusion_names_predictions_beyond_the_classes() -> None:
    table = _confusion(Classified(torch.tensor([2, 1]), torch.tensor([0, 1]), ("a", "b")))
    assert [row for row in table.rows if row[2]] == [("a", "#2", 1), ("b", "b", 1)]


def test_of_each_class_alternates_classes() -> None:
    labels = torch.tensor([2, 2, 0, -1, 0, 1, 2, -1])
    images = Images(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), labels, CLASSES)
    assert _of_each_class(images).tolist() == [3, 2, 5, 0, 7, 4, 1, 6]


def test_evaluation_media_continues_without_a_picture(
    model: Autoencoder, noise: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    per_image = per_image_metrics(model, noise)
    monkeypatch.setattr("PIL.ImageFont.load_default", lambda size: 1 / 0)
    media = evaluation_media(model, noise, per_image)
    assert media.pictures == {}
    assert set(media.tables) == {"worst_reconstructed", "misclassified", "confusion"}
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"no picture {name}: division by zero" for name in ("code", "reconstructions")]
