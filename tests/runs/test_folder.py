import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from ae import InputError, RunConfig
from ae.runs.folder import read_config, read_summary, to_json


@dataclass(frozen=True)
class Config:
    size: tuple[int, ...] = (1, 2)
    place: Path = Path("here")
    run: RunConfig = RunConfig()


def test_to_json_converts_dict_with_dataclasses() -> None:
    assert to_json({"where": Config(), "at": Path("a")})["where"]["size"] == [1, 2]
    assert to_json(None) == {}


@pytest.mark.parametrize("summary", ["[]", "3", '{"step": "1"}', '{"epoch": []}', "{", '{"step": 1e3}'])
def test_read_summary_rejects_invalid_summary(tmp_path: Path, summary: str) -> None:
    (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(InputError, match=r"can't read .*summary\.json"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    "change", [{"id": 3}, {"id": "../x"}, {"experiment": None}, {"config": []}, {"changes": {}}, {"data": 3}]
)
def test_read_config_rejects_value_of_wrong_type(tmp_path: Path, change: dict[str, object]) -> None:
    content = {"experiment": "joint", "id": "a", "config": {}, **change}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"config.json: {next(iter(change))} must be"):
        read_config(tmp_path)
