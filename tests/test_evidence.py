from pathlib import Path

import pytest
import torch
from PIL import Image

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Images
from ae.evidence import Evidence, Table, gather
from ae.metrics import examine

CLASSES = ("a", "b", "c")


@pytest.fixture
def model() -> Autoencoder:
    return Autoencoder(ConvEncoder(3, (4, 6)), DeconvDecoder(3, (6, 4)), heads={"digit": Classifier((6, 3, 4), 3)})


def test_shows_the_worst_first(model: Autoencoder, noise: Images) -> None:
    labels = noise.labels.clone()
    labels[:4] = -1
    images = Images(noise.pixels, labels, CLASSES)
    examined = examine(model, images)
    assert examined.predictions is not None
    evidence = gather(model, images, examined)
    assert set(evidence.pictures) == {"code", "reconstructions"}

    worst = evidence.tables["worst_reconstructed"]
    assert worst.columns == ("index", "picture", "label", "prediction", "mse", "cross_entropy")
    errors = examined.values["mse"]
    assert [row[0] for row in worst.rows] == errors.argsort(descending=True).tolist()
    for index, picture, label, prediction, mse, _ in worst.rows:
        assert picture.size == (26, 9)
        assert mse == errors[index]
        assert label == ("" if index < 4 else CLASSES[labels[index]])
        assert prediction == CLASSES[examined.predictions[index]]

    wrong = evidence.tables["misclassified"]
    expected = {i for i in range(4, 20) if examined.predictions[i] != labels[i]}
    assert {row[0] for row in wrong.rows} == expected
    assert [row[-1] for row in wrong.rows] == sorted((row[-1] for row in wrong.rows), reverse=True)

    counts = {(actual, predicted): count for actual, predicted, count in evidence.tables["confusion"].rows}
    assert len(counts) == 9
    for a, actual in enumerate(CLASSES):
        for p, predicted in enumerate(CLASSES):
            both = (labels == a) & (examined.predictions == p)
            assert counts[actual, predicted] == both.sum()


def test_shows_what_applies(noise: Images) -> None:
    classifier = Autoencoder(ConvEncoder(3, (4,)), heads={"digit": Classifier((4, 5, 7), 3)})
    evidence = gather(classifier, noise, examine(classifier, noise))
    assert set(evidence.pictures) == {"code"}
    assert set(evidence.tables) == {"misclassified", "confusion"}
    assert "mse" not in evidence.tables["misclassified"].columns
    autoencoder = Autoencoder(ConvEncoder(3, (4,)), DeconvDecoder(3, (4,)))
    evidence = gather(autoencoder, noise, examine(autoencoder, noise))
    assert set(evidence.tables) == {"worst_reconstructed"}
    assert "prediction" not in evidence.tables["worst_reconstructed"].columns


def test_a_model_that_is_always_right_has_an_empty_table(noise: Images) -> None:
    head = Classifier((6, 3, 4), 3)
    torch.nn.init.zeros_(head.fc2.weight)
    model = Autoencoder(ConvEncoder(3, (4, 6)), heads={"digit": head})
    with torch.no_grad():
        head.fc2.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    images = Images(noise.pixels, torch.zeros(20, dtype=torch.int64), CLASSES)
    assert gather(model, images, examine(model, images)).tables["misclassified"].rows == []


def test_comes_back_from_its_folder(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    tables = {"worst": Table(("i", "p", "x"), [(1, picture, 0.1), (2, picture, 0.2)]), "empty": Table(("i",), [])}
    Evidence({"code": picture}, tables).save(tmp_path)
    found = Evidence.load(tmp_path)
    assert list(found.pictures) == ["code"]
    assert found.pictures["code"].tobytes() == picture.tobytes()
    assert found.tables["empty"] == tables["empty"]
    assert found.tables["worst"].columns == ("i", "p", "x")
    for row, expected in zip(found.tables["worst"].rows, tables["worst"].rows, strict=True):
        assert (row[0], row[2]) == (expected[0], expected[2])
        assert row[1].tobytes() == picture.tobytes()
    assert Evidence.load(tmp_path / "nowhere") == Evidence()
