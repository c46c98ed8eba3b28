"""Networks of speech as folders of transformers: the same states of the same waves, and what a wave is to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from headrace.tools.exporting.export import export
from headrace.tools.exporting.function import example
from headrace.train.encoders import open_encoder
from tests.train.kept_runs import kept_run

pytestmark = pytest.mark.peer("transformers")
KINDS = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "data2vec_audio": "Data2VecAudioModel"}


@pytest.mark.parametrize("name", KINDS)
def test_transformers_loads_what_was_trained(name: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    kept_run(tmp_path / "run", name)
    encoder = open_encoder(tmp_path / "run")
    made = export(encoder, "transformers", tmp_path / "out")
    assert (made.features, made.samples) == (16, 5)
    loaded = AutoModel.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    assert type(loaded).__name__ == KINDS[name]
    (waves,) = example(encoder, 3, seed=2)
    with torch.no_grad():
        states = loaded(input_values=waves).last_hidden_state
        expected = encoder.backbone(input_values=waves).last_hidden_state
    torch.testing.assert_close(states, expected)
    said = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert (said["sampling_rate"], said["do_normalize"]) == (8000, name == "data2vec_audio")
    own = json.loads((tmp_path / "out" / "preprocessing.json").read_text(encoding="utf-8"))
    assert (own["kind"], own["layout"], own["rate"]) == ("sound", "BT", 8000)
    assert own.get("normalize", False) == (name == "data2vec_audio")
    assert not own.keys() & {"noise", "mixup", "part", "stripes"}
