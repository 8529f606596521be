import copy
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruler.errors import ConfigError
from ruler.rubric import DEFAULT_RUBRIC, Rubric

EXAMPLES = Path(__file__).parent.parent / "examples"


def written(folder: Path, content: str | bytes, name: str = "r.toml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["support.md", "support.txt"])
def test_text_files_are_taken_as_they_are(tmp_path, name):
    rubric = Rubric.load(written(tmp_path, "\n# Valuę\n\n- one\n\n", name))
    assert (rubric.text, rubric.name, rubric.version) == ("# Valuę\n\n- one", "support", "1")


def test_a_path_may_be_text(tmp_path):
    assert Rubric.load(str(written(tmp_path, "x", "r.md"))).text == "x"


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert Rubric.load(written(tmp_path, b"\xef\xbb\xbfx", "r.md")).text == "x"
    assert Rubric.load(written(tmp_path, b'\xef\xbb\xbftext = "x"')).text == "x"
    with pytest.raises(ConfigError, match=r"r\.md: the file is empty"):
        Rubric.load(written(tmp_path, b"\xef\xbb\xbf", "r.md"))


def test_weights_are_rendered_as_shares(tmp_path):
    path = written(
        tmp_path,
        """
        name = "support"
        version = "2"
        text = "  Judge the agent.  "
        [[criteria]]
        name = "outcome"
        weight = 2
        description = "The problem
         is solved:"
        [[criteria]]
        name = "tone"
        weight = 0.5
        [[criteria]]
        name = "effort"
        description = "No detours."
        """.replace('"The problem\n         is solved:"', '"""The problem\n  is solved:"""'),
    )
    rubric = Rubric.load(path)
    assert rubric.text == (
        "Judge the agent.\n"
        "Weigh these criteria by their share of the score:\n"
        "- outcome (57.1 %): The problem is solved:\n"
        "- tone (14.3 %)\n"
        "- effort (28.6 %): No detours."
    )
    assert rubric.id == f"support@2#{rubric.digest}"


def test_a_text_alone_is_enough(tmp_path):
    rubric = Rubric.load(written(tmp_path, 'text = "x"', "short.toml"))
    assert (rubric.text, rubric.name, rubric.version) == ("x", "short", "1")


@pytest.mark.parametrize("weights", [["1e308", "1e308"], ["5e-324", "5e-324"], ["1e308", "1e308", "1e-308"]])
def test_extreme_weights_still_have_shares(tmp_path, weights):
    text = "".join(f'[[criteria]]\nname = "c"\nweight = {weight}\n' for weight in weights)
    assert Rubric.load(written(tmp_path, text)).text.count("(50 %)") == 2


@given(weights=st.lists(st.floats(min_value=0, exclude_min=True, allow_infinity=False), min_size=1, max_size=6))
@settings(max_examples=60)
def test_shares_are_numbers_that_sum_to_one_hundred(tmp_path_factory, weights):
    text = "".join(f'[[criteria]]\nname = "c"\nweight = {weight!r}\n' for weight in weights)
    path = written(tmp_path_factory.getbasetemp(), text, "weights.toml")
    shares = [float(line.split("(")[1].split(" %")[0]) for line in Rubric.load(path).text.splitlines()[1:]]
    assert math.isclose(sum(shares), 100, rel_tol=0.01)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('txt = "x"', "unknown key 'txt'"),
        ('[criteria]\nname = "a"', "criteria: expected [[criteria]] tables, got {'name': 'a'}"),
        ('criteria = "a"', "criteria: expected [[criteria]] tables, got 'a'"),
        ('criteria = ["a"]', "criteria: expected [[criteria]] tables, got ['a']"),
        ("version = 1\ntext = 'x'", "version: expected text, got 1"),
        ("name = 1\ntext = 'x'", "name: expected text, got 1"),
        ("text = ['x']", "text: expected text, got ['x']"),
        ("", "needs `text` or `[[criteria]]`"),
        ("name = 'x'", "needs `text` or `[[criteria]]`"),
        ("text = ''", "needs `text` or `[[criteria]]`"),
        ("text = '  '", "needs `text` or `[[criteria]]`"),
        ("criteria = []", "needs `text` or `[[criteria]]`"),
        ("[[criteria]]\nname = 'a'\nwieght = 2", "criteria[0]: unknown key 'wieght'"),
        ("[[criteria]]\nname = 'a'\n[[criteria]]\nweight = 2", "criteria[1].name: expected text, got None"),
        ("[[criteria]]\nname = ''", "criteria[0].name: expected text, got ''"),
        ("[[criteria]]\nname = ' '", "criteria[0].name: expected text, got ' '"),
        ("[[criteria]]\nname = 3", "criteria[0].name: expected text, got 3"),
        ("[[criteria]]\nname = 'a'\ndescription = 3", "criteria[0].description: expected text, got 3"),
        ("text = 'x", "not TOML: "),
        ("text = 'x'\ntext = 'y'", "not TOML: "),
        ("text = " + "[" * 100_000, "not TOML: "),
        ("weight = " + "9" * 10_000, "not TOML: "),
    ],
)
def test_errors_name_file_key_and_value(tmp_path, content, error):
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        Rubric.load(path)
    assert str(caught.value).startswith(f"rubric {path}: {error}")


@pytest.mark.parametrize("weight", ["0", "-1", "-0.5", "nan", "inf", "-inf", "true", "'2'", "[1]", "1" + "0" * 400])
def test_a_weight_is_a_positive_number(tmp_path, weight):
    path = written(tmp_path, f"[[criteria]]\nname = 'a'\nweight = {weight}")
    with pytest.raises(ConfigError) as caught:
        Rubric.load(path)
    shown = "True" if weight == "true" else weight
    assert str(caught.value) == f"rubric {path}: criteria[0].weight: expected a positive number, got {shown}"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("r.md", " \n", "the file is empty"),
        ("r.md", "", "the file is empty"),
        ("r.md", b"\xff\xfe", "cannot be read: 'utf-8' codec"),
        ("r.toml", b"text = '\xff'", "cannot be read: 'utf-8' codec"),
        ("r.yaml", "x", "expected a .md, .txt or .toml file, got '.yaml'"),
        ("r", "x", "expected a .md, .txt or .toml file, got 'no suffix'"),
    ],
)
def test_files_that_are_no_rubric(tmp_path, name, content, error):
    path = written(tmp_path, content, name)
    with pytest.raises(ConfigError) as caught:
        Rubric.load(path)
    assert str(caught.value).startswith(f"rubric {path}: {error}")


@pytest.mark.parametrize("name", ["missing.md", "folder", "nul\0.md"])
def test_files_that_cannot_be_opened(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as caught:
        Rubric.load(tmp_path / name)
    assert str(caught.value).startswith(f"rubric {tmp_path / name}: cannot be read: ")


def test_an_empty_text_is_refused():
    with pytest.raises(ConfigError, match="rubric 'mine': the text is empty"):
        Rubric(" \n", name="mine")


def test_the_id_changes_with_text_name_and_version():
    rubrics = [Rubric("a"), Rubric("b"), Rubric("a", name="x"), Rubric("a", version="2")]
    assert len({rubric.id for rubric in rubrics}) == len(rubrics)
    assert Rubric("a").id == copy.copy(Rubric("a")).id == f"custom@1#{Rubric('a').digest}"


def test_the_default_rubric_is_called_so():
    assert DEFAULT_RUBRIC.id == f"default@1#{DEFAULT_RUBRIC.digest}"


def test_the_examples_load():
    assert Rubric.load(EXAMPLES / "rubric.md").name == "rubric"
    rubric = Rubric.load(EXAMPLES / "rubric.toml")
    assert rubric.id.startswith("support-agent@1#")
    assert "- outcome (40 %): The customer's problem is solved" in rubric.text


def test_text_that_no_request_can_hold_is_refused():
    with pytest.raises(ConfigError, match="rubric 'custom': half a surrogate pair at character 3"):
        Rubric("be \ud800")
