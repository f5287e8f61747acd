import pytest
import torch

from ae import Classifier, InputError


def test_classifier_equals_two_linear_layers() -> None:
    head = Classifier((64, 7, 7), classes=10)
    code = torch.randn(3, 64, 7, 7)
    hidden = (code.reshape(3, 3136) @ head.fc1.weight.T + head.fc1.bias).clamp(min=0)
    assert hidden.shape == (3, 128)
    torch.testing.assert_close(head(code), hidden @ head.fc2.weight.T + head.fc2.bias)


@pytest.mark.usefixtures("unhooked")
def test_classifier_rejects_wrong_shapes() -> None:
    with pytest.raises(InputError, match=r"code must be \[b 64 7 7\], got \[2, 16\]"):
        Classifier((64, 7, 7))(torch.randn(2, 16))
    with pytest.raises(InputError, match="classes must be positive, got 0"):
        Classifier((16,), classes=0)
