from pathlib import Path

import pytest
from aquatint_pipelines import prompts

from aquatint.client import Client
from aquatint.contract.errors import InvalidRequest, StoreUnavailable
from aquatint.storage import FileObjects
from aquatint.testing import fake_client

TEMPLATES = {"pets": ["a {animal} on {colour}"], "plain": ["a tree"]}
WORDS = {"animal": ["fox", "dog"], "colour": ["blue", "green"]}


def test_a_list_of_prompts_is_different_each_and_the_same_again() -> None:
    made = prompts.generate_list(TEMPLATES, WORDS, count=5, seed=3)
    assert made == prompts.generate_list(TEMPLATES, WORDS, count=5, seed=3)
    rows = prompts.read_list(made.encode())
    assert {bucket for bucket, _ in rows} == {"pets", "plain"}
    assert len({request.prompt for _, request in rows}) == 5
    assert [request.seed for _, request in rows] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("templates", "count", "complaint"),
    [(TEMPLATES, 6, "5 can be made"), ({"a": ["a {plant}"]}, 1, "no words for '{plant}'")],
)
def test_lists_that_cannot_be_made(templates: dict[str, list[str]], count: int, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        prompts.generate_list(templates, WORDS, count=count, seed=0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prompt\n", "1 to"),
        ("prompt,seed\na fox\n", "line 2 has not as many cells"),
        ("prompt,seed\na fox,many\n", "line 2: .*seed"),
        ("prompt,colour\na fox,red\n", "line 2: .*colour"),
        ("prompt,bucket\na fox,../x\n", "bucket must be"),
        ("seed\n7\n", "line 2: .*prompt"),
    ],
)
def test_lists_that_cannot_be_read(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        prompts.read_list(text.encode())
    with pytest.raises(InvalidRequest, match="UTF-8"):
        prompts.read_list(b"prompt\n\xff\n")


class Failing(FileObjects):
    def put(self, key: str, data: bytes, content_type: str) -> None:
        if key.startswith("pets/") and key.endswith(".png"):
            raise StoreUnavailable("full")
        super().put(key, data, content_type)


def test_generating_resumes_where_it_stopped(tmp_path: Path) -> None:
    rows = prompts.read_list(prompts.generate_list(TEMPLATES, WORDS, count=5, seed=0).encode())
    client: Client
    with fake_client() as client:
        assert prompts.generate_images(client, Failing(tmp_path), rows) == {"drawn": 1, "kept": 0, "failed": 4}
        assert "StoreUnavailable: full" in (tmp_path / "results.csv").read_text()
        assert prompts.generate_images(client, FileObjects(tmp_path), rows) == {"drawn": 4, "kept": 1, "failed": 0}
        assert prompts.generate_images(client, FileObjects(tmp_path), rows) == {"drawn": 0, "kept": 5, "failed": 0}
    assert len(list((tmp_path / "pets").glob("*.png"))) == 4
    assert len(list((tmp_path / "plain").glob("*.json"))) == 1


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\na fox\n")
    assert prompts.read_source(str(tmp_path / "a.csv")) == b"prompt\na fox\n"
    with pytest.raises(InvalidRequest, match="no file"):
        prompts.read_source(str(tmp_path / "b.csv"))
